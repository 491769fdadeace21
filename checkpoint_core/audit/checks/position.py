"""The state against the script that would resume from it: from which epoch, and how many are left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias, TypedDict

from checkpoint_core.audit.catalogue.states import finding
from checkpoint_core.audit.findings import Finding
from checkpoint_core.formats import DamageKind, TrainState
from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.states import Damage, Layout, SavePoint, StateFacts, layout
from checkpoint_core.trainer import (
    DatasetFacts,
    Position,
    accumulation_steps,
    epoch_length,
    is_finished,
    last_epoch,
    launch_epoch,
    why_undecided,
)


def check_compatibility(
    facts: StateFacts, position: Position, script: ScriptFacts | None, dataset: DatasetFacts | None = None
) -> Iterator[Finding]:
    """Every finding about where the training would go on, with the dataset as it is now where that is known."""
    if facts.layout is not Layout.SD_SCRIPTS or facts.problem or not facts.files:
        return
    lengths = epoch_length(position, script, dataset)
    if dataset is not None and dataset.is_missing:
        yield finding("dataset-missing", detail=dataset.problem)
    yield from _train_state(facts, position, script)
    yield from _start(position, script, lengths)
    yield from _skipped_ahead(position, script)
    yield from _name(facts, position)
    yield from _counts(position)
    yield from _end(position, script, lengths)
    if position.repeated_steps and not _skips_to(position, script):
        yield finding("mid-epoch", **_numbers(position), repeated=position.repeated_steps)
    yield finding("counts-from-zero")


class _Numbers(TypedDict):
    """The fields that the sentences about a position share."""

    epoch: object
    next_epoch: object
    step: object
    current_step: object


def _numbers(position: Position) -> _Numbers:
    def known(value: int | None) -> object:
        return "?" if value is None else value

    return {
        "epoch": known(position.epoch),
        "next_epoch": known(position.next_epoch),
        "step": known(position.step),
        "current_step": known(position.current_step),
    }


def _train_state(facts: StateFacts, position: Position, script: ScriptFacts | None) -> Iterator[Finding]:
    reading, file, numbers = facts.train_state, layout.TRAIN_STATE, _numbers(position)
    if reading is None:
        if not _script_decides(script):
            yield finding("train-state-missing", file=file, **numbers)
    elif isinstance(reading, Damage):
        kinds = (DamageKind.UNREADABLE, DamageKind.UNSUPPORTED)
        code = "train-state-unreadable" if reading.kind in kinds else "train-state-broken"
        yield finding(code, file=file, detail=reading.detail, **numbers)
    elif isinstance(reading, TrainState) and reading.current_step is None:
        yield finding("train-state-no-step", file=file, **numbers)


def _script_decides(script: ScriptFacts | None) -> bool:
    return script is not None and (script.initial_epoch is not None or script.initial_step is not None)


#: Steps per epoch of the launch, least and most; ``None`` where nothing tells.
_Lengths: TypeAlias = "tuple[int, int] | None"


def _start(position: Position, script: ScriptFacts | None, lengths: _Lengths) -> Iterator[Finding]:
    """Whether the trainer goes on at the right epoch."""
    numbers = _numbers(position)
    starts, undecided = _starts(position, script, lengths), why_undecided(script)
    is_right = position.next_epoch is not None and starts == {position.next_epoch}
    if undecided:
        yield finding("position-unknown", evidence=undecided)
    elif position.current_step is None and not _script_decides(script):
        return  # train_state.json is missing or broken, and a finding of its own
    elif None in starts or position.next_epoch is None:
        yield finding("position-unknown", evidence=_why_unknown(position))
    elif not is_right and _skips_wrongly(position, script, lengths):
        accumulation = accumulation_steps(script) if script else None
        yield finding("skip-accumulation", start_epoch=_either(starts), accumulation=accumulation, **numbers)
    elif _is_changed(position, lengths) and (is_right or not _names_epoch(script)):
        code = "epoch-length-changed" if is_right else "dataset-changed"
        saved, now = position.steps_per_epoch, _either(set(lengths or ()))
        yield finding(code, saved=saved, now=now, start_epoch=_either(starts), **numbers)
    elif _script_decides(script) and not is_right:
        yield finding("script-initial-epoch", flag=_flag(script), start_epoch=_either(starts), **numbers)
    elif not is_right and position.steps_per_epoch is None:
        yield finding("position-unknown", evidence=_why_unknown(position))
    elif not is_right:
        yield finding("position-relative", file=layout.TRAIN_STATE, start_epoch=_either(starts), **numbers)


def _starts(position: Position, script: ScriptFacts | None, lengths: _Lengths) -> set[int | None]:
    """The epochs at which the trainer may go on: one, unless the dataset leaves the length of an epoch open."""
    return {launch_epoch(position, script, length) for length in lengths or (None,)}


def _skips_wrongly(position: Position, script: ScriptFacts | None, lengths: _Lengths) -> bool:
    """Whether the start would be right without ``--skip_until_initial_step``."""
    if script is None or not script.skip_until_initial_step:
        return False
    unskipped = replace(script, skip_until_initial_step=False)
    return _starts(position, unskipped, lengths) == {position.next_epoch}


def _is_changed(position: Position, lengths: _Lengths) -> bool:
    """Whether an epoch of the launch certainly has another length than when the state was saved."""
    return None not in (lengths, position.steps_per_epoch) and position.steps_per_epoch not in (lengths or ())


def _names_epoch(script: ScriptFacts | None) -> bool:
    return script is not None and script.initial_epoch is not None and script.initial_step is None


def _either(numbers: set[int | None] | set[int]) -> str:
    known = sorted(number for number in numbers if number is not None)
    return f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"


def _flag(script: ScriptFacts | None) -> str:
    if script is not None and script.initial_step is not None:
        return f"--initial_step {script.initial_step}"
    return f"--initial_epoch {script.initial_epoch}" if script else ""


def _why_unknown(position: Position) -> str:
    if position.epoch is None:
        return "neither the name nor the files tell the epoch"
    if position.lifetime_step is None or position.current_step is None:
        return "no LoRA file and no scheduler tells the steps of an epoch"
    return (
        f"train_state.json counts {position.current_step} steps, scheduler.bin {position.lifetime_step}, "
        "and no LoRA file tells the steps of an epoch"
    )


def _skipped_ahead(position: Position, script: ScriptFacts | None) -> Iterator[Finding]:
    """An ``--initial_step`` inside the right epoch, but ahead of the state."""
    if script is None or not script.skip_until_initial_step or script.initial_step is None:
        return
    steps, step, asked = position.steps_per_epoch, position.step, script.initial_step
    if steps and step is not None and asked > step and asked // steps + 1 == position.next_epoch:
        yield finding("script-initial-step", initial_step=asked, step=step)


def _skips_to(position: Position, script: ScriptFacts | None) -> bool:
    """Whether the trainer passes over the steps of the epoch under way; --initial_epoch leads to its beginning."""
    if script is None or not script.skip_until_initial_step:
        return False
    if script.initial_step is not None:
        return script.initial_step == position.step
    return script.initial_epoch is None


def _name(facts: StateFacts, position: Position) -> Iterator[Finding]:
    """A renamed copy goes on rightly; an edited train_state.json does not. The scheduler's count tells which."""
    named, current = facts.name.number, position.current_epoch
    if facts.name.save_point is not SavePoint.EPOCH or None in (named, current) or named == current:
        return
    if position.step is not None and position.lifetime_step == position.step:
        yield finding("name-differs", named=f"epoch {named}", epoch=current)
    else:
        counted = "nothing" if position.lifetime_step is None else f"{position.lifetime_step} steps"
        yield finding(
            "position-unknown",
            evidence=f"the name says epoch {named}, train_state.json epoch {current}, scheduler.bin {counted}",
        )


def _counts(position: Position) -> Iterator[Finding]:
    """A save over an older state that is killed after its first file leaves a new train_state.json with old weights.

    The scheduler has counted every update, so it cannot stand behind the position; after a warm start it counts
    from the same beginning as ``current_step``, and equals that.
    """
    lifetime, step = position.lifetime_step, position.step
    if None in (lifetime, step, position.current_step) or lifetime == position.current_step:
        return
    if lifetime is not None and step is not None and lifetime < step:
        yield finding("counts-disagree", file=layout.TRAIN_STATE, step=step, lifetime_step=lifetime)


def _end(position: Position, script: ScriptFacts | None, lengths: _Lengths) -> Iterator[Finding]:
    """Whether anything is left to train; the trainer's assertion sees only the steps of the last launch."""
    steps = lengths[0] if lengths else None
    if not why_undecided(script) and is_finished(position, script, steps):
        epochs = last_epoch(script, steps)
        yield finding("run-finished", max_epochs=epochs, **_numbers(position))
