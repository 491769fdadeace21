"""What is broken for the proof of the repairs: states of every release that writes them, one or several things each.

They stand beside the cases of the conformance suite, of which everything is repaired that can be.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from checkpoint_core.recovery.repair import Choices
from tests.conformance.bases import WRITERS
from tests.conformance.case import EPOCH_4, Case, on_state
from tests.conformance.file_cases import write
from tests.damage import (
    add_custom_checkpoint,
    edit_train_state,
    empty,
    flip_member_byte,
    interrupt_overwrite,
    remove,
    truncate,
)
from tests.world import RUN_NAME, SETTLED_SECONDS, STATE_FILES, World, age

_TRAIN_STATE, _WEIGHTS, _OPTIMIZER, _SCHEDULER, _RANDOM = STATE_FILES
ROUNDED, RANDOM, NOTHING = "weights rounded", "random states", ""
"""What a repair may lose, as :func:`tests.conformance.agreement.answer` words it."""

Change = Callable[[World], object]
Flags = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Proof:
    """One broken state, and what its repair loses.

    :param choices: what the user chose.
    :param older_only: broken for the accelerate that stops over random states alone, fine or told for later ones.
    """

    case: Case
    loses: str = NOTHING
    choices: Choices = field(default_factory=Choices)
    older_only: bool = False


@dataclass(frozen=True)
class _Break:
    change: Change = lambda world: None
    loses: str = NOTHING
    flags: Flags = ()
    in_state: bool = False
    older_only: bool = False


def _damages() -> Iterator[tuple[str, Callable[[Path], object]]]:
    yield "absent", remove
    yield "0 bytes", empty
    yield "cut to half", truncate


def _no_step(world: World) -> None:
    edit_train_state(world.latest, current_step=None)


def _stray(world: World) -> None:
    """A registered object of another project, as old as the state."""
    add_custom_checkpoint(world.latest)
    age(world.latest / "custom_checkpoint_0.pkl", SETTLED_SECONDS)


def _killed(world: World) -> None:
    """What a save leaves that is killed after the optimizer."""
    remove(world.latest / _SCHEDULER)
    remove(world.latest / _RANDOM)


def _several(world: World) -> None:
    _killed(world)
    _stray(world)
    empty(world.latest / _TRAIN_STATE)


def _overwritten(world: World) -> None:
    """A save of epoch 4 over an older one that stood at epoch 3's step, killed before the schedule."""
    newer = shutil.copytree(world.latest, world.root / "newer")
    for name in STATE_FILES:
        write(world.latest / name, (world.state(3) / name).read_bytes())
    interrupt_overwrite(world.latest, newer, STATE_FILES.index(_SCHEDULER))
    shutil.rmtree(newer)
    written = (world.latest / _TRAIN_STATE).stat().st_mtime_ns
    os.utime(world.lora(4), ns=(written, written))  # at an epoch it is written right before the state


def _added(flag: str) -> Flags:
    return (("--save_state", f"--save_state \\\n  {flag}"),)


def _breaks() -> Mapping[str, _Break]:
    found = {"as it was saved": _Break(older_only=True)}
    losses = {_WEIGHTS: ROUNDED, _SCHEDULER: NOTHING, _RANDOM: RANDOM}
    for file, loses in losses.items():
        for told, damage in _damages():
            found[f"{file} {told}"] = _Break(on_state(file, damage), loses, older_only=file == _RANDOM)
    found[f"{_SCHEDULER} corrupt"] = _Break(on_state(_SCHEDULER, _flip_pickle))
    for in_state in (False, True):
        told = ", cured in the state" if in_state else ""
        found[f"{_TRAIN_STATE} absent{told}"] = _Break(on_state(_TRAIN_STATE, remove), in_state=in_state)
    found[f"{_TRAIN_STATE} cut to half"] = _Break(on_state(_TRAIN_STATE, truncate))
    found[f"{_TRAIN_STATE} without current_step"] = _Break(_no_step)
    found["a stray object"] = _Break(_stray)
    found["killed before the schedule"] = _Break(_killed, RANDOM)
    found["killed before the schedule, and more"] = _Break(_several, RANDOM)
    found["an overwrite killed before the schedule"] = _Break(_overwritten, RANDOM)
    found["another rank"] = _Break(flags=(("--network_dim 4", "--network_dim 8"),))
    found["another alpha"] = _Break(flags=_added("--network_alpha 16"))
    found["other parts"] = _Break(flags=_added('--network_args "train_blocks=single"'))
    found["another optimizer"] = _Break(flags=(("--optimizer_type adafactor", "--optimizer_type adamw"),))
    found["the last epoch trained"] = _Break(flags=(("--max_train_epochs 8", "--max_train_epochs 4"),))
    return found


def _flip_pickle(path: Path) -> None:
    flip_member_byte(path, "data.pkl")


BREAKS = _breaks()
"""By name, what is done to a state of each writer."""


def _proofs() -> Iterator[Proof]:
    for writer in (*WRITERS, ""):
        base, told = (f"written-by-{writer}", writer) if writer else ("stock", "the installed one")
        for name, each in BREAKS.items():
            case = Case(f"written by {told}: {name}", base=base, change=each.change, flags=each.flags)
            yield Proof(case, each.loses, Choices(epoch_in_state=each.in_state), each.older_only)
    for told, damage in _damages():
        case = Case(f"cosine: {_SCHEDULER} {told}", base="cosine", change=on_state(_SCHEDULER, damage))
        yield Proof(case)
    flags = (("--optimizer_type adamw", "--optimizer_type adafactor"),)
    yield Proof(Case("AdamW: another optimizer", base="adamw", state=EPOCH_4, flags=flags))
    for number in (3, 4):
        state = f"{RUN_NAME}-{number:06d}-state"
        for in_state in (False, True):
            told = "state" if in_state else "script"
            name = f"resumed, epoch {number}: its steps, cured in the {told}"
            case = Case(name, base="resumed", state=state, epoch=number + 1)
            yield Proof(case, choices=Choices(epoch_in_state=in_state))


PROOFS = {proof.case.name: proof for proof in _proofs()}
"""All of them, by the names of their cases."""
