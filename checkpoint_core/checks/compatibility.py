"""The state against the script that would resume from it: from which epoch, and how many are left."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_core import layout
from checkpoint_core.catalogue import finding
from checkpoint_core.facts import Damage, ScriptFacts, StateFacts
from checkpoint_core.findings import Finding
from checkpoint_core.formats import DamageKind
from checkpoint_core.formats.train_state import TrainState
from checkpoint_core.layout import Layout, SavePoint
from checkpoint_core.position import Position, last_epoch, launch_epoch


def check_compatibility(facts: StateFacts, position: Position, script: ScriptFacts | None) -> Iterator[Finding]:
    """Every finding about where the training would go on."""
    if facts.layout is not Layout.SD_SCRIPTS or facts.problem or not facts.files:
        return
    yield from _train_state(facts, position, script)
    yield from _start(position, script)
    yield from _name(facts, position)
    yield from _end(position, script)
    if position.mid_epoch and position.repeated_steps and not (script and script.skip_until_initial_step):
        yield finding("mid-epoch", **_numbers(position), repeated=position.repeated_steps)
    yield finding("counts-from-zero")


def _numbers(position: Position) -> dict[str, object]:
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


def _start(position: Position, script: ScriptFacts | None) -> Iterator[Finding]:
    """Whether the trainer goes on at the right epoch."""
    numbers = _numbers(position)
    starts = launch_epoch(position, script)
    if _script_decides(script):
        if starts is not None and position.next_epoch is not None and starts != position.next_epoch:
            yield finding("script-initial-epoch", flag=_flag(script), start_epoch=starts, **numbers)
    elif position.current_step is None:
        return  # train_state.json is missing or broken, and a finding of its own
    elif position.is_relative:
        yield finding("position-relative", file=layout.TRAIN_STATE, start_epoch=starts, **numbers)
    elif position.is_relative is None:
        yield finding("position-unknown", evidence=_why_unknown(position))


def _flag(script: ScriptFacts | None) -> str:
    if script is not None and script.initial_step is not None:
        return f"--initial_step {script.initial_step}"
    return f"--initial_epoch {script.initial_epoch}" if script else ""


def _why_unknown(position: Position) -> str:
    if position.epoch is None:
        return "neither the name nor the files tell the epoch"
    if position.lifetime_step is None:
        return "no LoRA file and no scheduler tells the steps of an epoch"
    return (
        f"train_state.json counts {position.current_step} steps, scheduler.bin {position.lifetime_step}, "
        "and no LoRA file tells the steps of an epoch"
    )


def _name(facts: StateFacts, position: Position) -> Iterator[Finding]:
    named = facts.name.number
    if facts.name.save_point is SavePoint.EPOCH and None not in (named, position.current_epoch):
        if named != position.current_epoch:
            yield finding("name-differs", named=f"epoch {named}", epoch=position.current_epoch)


def _end(position: Position, script: ScriptFacts | None) -> Iterator[Finding]:
    """Whether anything is left to train; the trainer's assertion sees only the steps of the last launch."""
    epochs = last_epoch(script, position.steps_per_epoch)
    if epochs is not None and position.next_epoch is not None and position.next_epoch > epochs:
        yield finding("run-finished", max_epochs=epochs, **_numbers(position))
