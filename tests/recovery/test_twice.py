"""A run that is killed, repaired and resumed, twice, trains step for step what an uninterrupted one trains."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.recovery.planning import apply_option, plan_recovery
from checkpoint_core.recovery.repair import Choices
from tests.conformance.cases import trainer_arguments
from tests.damage import remove, truncate
from tests.world import (
    EPOCHS,
    PROJECT,
    SETTLED_SECONDS,
    STEPS_PER_EPOCH,
    World,
    age,
    run_small_trainer,
    world_options,
)


def losses(log: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in log.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of the run that nobody interrupts."""
    root = tmp_path_factory.mktemp("straight")
    log = root / "losses"
    run_small_trainer(replace(world_options(World(root)), stop_after_step=None, loss_log=log))
    return losses(log)


def train_by_script(world: World, log: Path, stop_after_step: int | None = None) -> list[float]:
    """Start what the train script starts, and kill it after so many steps of this launch."""
    stop = [] if stop_after_step is None else ["--stop_after_step", str(stop_after_step)]
    command = [*trainer_arguments(world.script, STEPS_PER_EPOCH), "--loss_log", str(log), *stop]
    module = "checkpoint_core.demo.trainer"
    subprocess.run([sys.executable, "-m", module, *command], cwd=PROJECT, check=True, capture_output=True)
    return losses(log)


def recover(world: World, choices: Choices) -> str:
    """Take the recommended way; returns what it says it will do."""
    auditor = Auditor(world.outputs)
    recovery = plan_recovery(auditor, auditor.audit_run(world.run_name), choices)
    option = recovery.recommended
    assert option is not None
    apply_option(option, None, lambda: auditor.audit_run(world.run_name).checkpoint(option.checkpoint))
    return option.forecast


@pytest.mark.parametrize("epoch_in_state", [False, True], ids=["in the script", "in the state"])
def test_killed_repaired_and_resumed_twice(
    world: World, straight: list[float], tmp_path: Path, epoch_in_state: bool
) -> None:
    choices = Choices(epoch_in_state=epoch_in_state)
    truncate(world.latest / "train_state.json")
    remove(world.latest / "scheduler.bin")

    assert recover(world, choices).startswith("Resumes after epoch 4 of 8, trains 4 epochs (32 steps)")
    # 4 epochs and 3 steps were trained before; now two more epochs and a step, by the count of this launch.
    first = train_by_script(world, tmp_path / "first", stop_after_step=2 * STEPS_PER_EPOCH + 1)
    assert first == straight[32:49]

    for epoch in (5, 6):
        age(world.state(epoch), SETTLED_SECONDS)
    written = json.loads((world.state(6) / "train_state.json").read_bytes())
    assert written == {"current_epoch": 6, "current_step": 2 * STEPS_PER_EPOCH}
    remove(world.state(6) / "scheduler.bin")

    assert recover(world, choices).startswith("Resumes after epoch 6 of 8, trains 2 epochs (16 steps)")
    second = train_by_script(world, tmp_path / "second")

    assert second == straight[48:]
    assert len(straight) == EPOCHS * STEPS_PER_EPOCH
