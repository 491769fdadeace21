"""All cases, and how one is made from its base."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.bases import BASES
from tests.conformance.case import Case
from tests.conformance.file_cases import file_cases, with_plain_random_states
from tests.conformance.registered_cases import registered_cases
from tests.conformance.script_cases import script_cases
from tests.conformance.state_cases import state_cases
from tests.world import World

_ONCE_MORE = (
    "killed saves: 4 files whole",
    "mixed saves: 2 newer files of another training",
    "after a resume: two epochs later",
    "after a resume: step 20, in the middle of epoch 3",
    "after the end: a finished run",
    "model.safetensors: absent",
    "model.safetensors: cut to half",
    "optimizer.bin: cut to half",
    "scheduler.bin: 0 bytes",
    "train_state.json: absent",
    "train_state.json: no current_step",
    "script: --network_dim 8",
    "script: --network_alpha 16",
    "script: train_blocks=single",
    "script: adafactor, then adamw",
    "script: another --learning_rate",
    "script: cosine, more epochs",
    "script: --initial_epoch 4",
    "dataset: an image added",
)
"""Cases that are made again on random states that every release loads: without, 0.33 stops at all of them."""


def _cases() -> Iterator[Case]:
    groups = (state_cases(), registered_cases(), file_cases(), script_cases())
    known = {case.name: case for group in groups for case in group}
    yield from known.values()
    for name in _ONCE_MORE:
        yield with_plain_random_states(known[name])


CASES: tuple[Case, ...] = tuple(_cases())


def base_run(bases: Path, name: str) -> Path:
    """The run's folder of a base."""
    return bases / name / "outputs" / World(bases).run_name if name in BASES else bases / name


def make_case(case: Case, bases: Path, folder: Path) -> World:
    """Make the case in `folder`, which must not exist yet; `bases` lies beside its parent."""
    if case.base in BASES:
        world = BASES[case.base].copy(bases, folder)
    else:
        world = World(folder, Path(case.base).name)
        shutil.copytree(base_run(bases, case.base), world.run)
    for old, new in case.flags:
        text = world.script.read_text(encoding="utf-8")
        assert old in text, f"{case.name}: the script has no {old}"
        world.script.write_text(text.replace(old, new, 1), encoding="utf-8", newline="\n")
    case.change(world)
    return world


def state_path(case: Case, world: World) -> Path:
    """What is judged, and resumed from."""
    return world.run / (case.given or case.state)


def trainer_arguments(script: Path, batches: int) -> list[str]:
    """The trainer's flags in a train script, and the length of an epoch that its dataset makes."""
    words = shlex.split(script.read_text(encoding="utf-8").replace("\\\n", " "))
    trainer = next(index for index, word in enumerate(words) if word.endswith("train_network.py"))
    return [*words[trainer + 1 :], "--steps_per_epoch", str(batches)]
