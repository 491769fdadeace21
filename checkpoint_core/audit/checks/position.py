"""The state against the script that would resume from it: from which epoch, and how many are left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from checkpoint_core.audit.catalogue.states import finding
from checkpoint_core.audit.findings import Finding
from checkpoint_core.formats import DamageKind, TrainState
from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.states import Damage, Layout, SavePoint, StateFacts, layout
from checkpoint_core.trainer import DatasetFacts, LaunchPoint, Position, accumulation_steps


def check_position(
    facts: StateFacts, launch: LaunchPoint, dataset: DatasetFacts | None = None
) -> Iterator[Finding]:
    """Every finding about where the training would go on, with the dataset as it is now where that is known."""
    if facts.layout is not Layout.SD_SCRIPTS or facts.problem or not facts.files:
        return
    position, script = launch.position, launch.script
    if dataset is not None and dataset.is_missing:
        yield finding("dataset-missing", detail=dataset.problem)
    yield from _train_state(facts, position, script)
    yield from _start(launch)
    yield from _skipped_ahead(position, script)
    yield from _name(facts, position)
    yield from _counts(position)
    yield from _end(launch)
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


def _start(launch: LaunchPoint) -> Iterator[Finding]:
    """Whether the trainer goes on at the right epoch."""
    position, script, starts = launch.position, launch.script, launch.start_epochs
    numbers, is_right = _numbers(position), _is_right(launch)
    if launch.undecided:
        yield finding("position-unknown", evidence=launch.undecided)
    elif position.current_step is None and not _script_decides(script):
        return  # train_state.json is missing or broken, and a finding of its own
    elif None in starts or position.next_epoch is None:
        yield finding("position-unknown", evidence=_why_unknown(position))
    elif not is_right and _skips_wrongly(launch):
        accumulation = accumulation_steps(script) if script else None
        yield finding("skip-accumulation", start_epoch=_either(starts), accumulation=accumulation, **numbers)
    elif _is_changed(launch) and (is_right or not _names_epoch(script)):
        code = "epoch-length-changed" if is_right else "dataset-changed"
        saved, now = position.steps_per_epoch, _either(frozenset(launch.epoch_lengths or ()))
        yield finding(code, saved=saved, now=now, start_epoch=_either(starts), **numbers)
    elif _script_decides(script) and not is_right:
        yield finding("script-initial-epoch", flag=_flag(script), start_epoch=_either(starts), **numbers)
    elif not is_right and position.steps_per_epoch is None:
        yield finding("position-unknown", evidence=_why_unknown(position))
    elif not is_right:
        yield finding("position-relative", file=layout.TRAIN_STATE, start_epoch=_either(starts), **numbers)


def _is_right(launch: LaunchPoint) -> bool:
    following = launch.position.next_epoch
    return following is not None and launch.start_epochs == {following}


def _skips_wrongly(launch: LaunchPoint) -> bool:
    """Whether the start would be right without ``--skip_until_initial_step``."""
    if launch.script is None or not launch.script.skip_until_initial_step:
        return False
    return _is_right(launch.without_skipping())


def _is_changed(launch: LaunchPoint) -> bool:
    """Whether an epoch of the launch certainly has another length than when the state was saved."""
    saved, lengths = launch.position.steps_per_epoch, launch.epoch_lengths
    return saved is not None and lengths is not None and saved not in lengths


def _names_epoch(script: ScriptFacts | None) -> bool:
    return script is not None and script.initial_epoch is not None and script.initial_step is None


def _either(numbers: frozenset[int | None] | frozenset[int]) -> str:
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


def _end(launch: LaunchPoint) -> Iterator[Finding]:
    """Whether anything is left to train; the trainer's assertion sees only the steps of the last launch."""
    if launch.is_finished:
        yield finding("run-finished", max_epochs=launch.end_epoch, **_numbers(launch.position))
