"""How a run is read: by which layout, and by whose script."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.run_reader import choose_layout
from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.states.layout import Layout
from tests.world import World


@pytest.mark.parametrize(
    ("trainer", "layout"),
    [
        ("sd-scripts/flux_train_network.py", Layout.SD_SCRIPTS),
        ("train_network.py", Layout.SD_SCRIPTS),
        ("sdxl_train_network.py", Layout.SD_SCRIPTS),
        ("my_project/train.py", Layout.ACCELERATE_OBJECTS),
    ],
)
def test_the_trainer_decides_the_layout(trainer: str, layout: Layout) -> None:
    assert choose_layout(None, ScriptFacts("train.sh", trainer), set()) == (
        layout,
        "from the trainer in train.sh",
    )


def test_the_layout_without_a_script_is_what_the_files_look_like(
    world: World, registered_states: Path
) -> None:
    lone = world.outputs / "lone"
    shutil.copytree(registered_states / "safetensors", lone / "checkpoint_0")
    shutil.copytree(world.latest, lone / "cat-000004-state")
    layouts = {item.name: item.facts.layout for item in Auditor(world.outputs).audit_run("lone").checkpoints}
    assert layouts == {
        "checkpoint_0": Layout.ACCELERATE_OBJECTS,
        "cat-000004-state": Layout.SD_SCRIPTS,
    }
