"""Which files of a state a repair rewrites, and what the state will then look like.

Each cure takes the findings that it knows, and gives the file's repair and the facts after it, so that the repaired
state can be judged before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, replace
from typing import TypeAlias

from checkpoint_core.audit import (
    LOST,
    LOST_WEIGHTS,
    CheckpointReport,
    FindingKind,
    Severity,
    StatePart,
    is_cured_by_scheduler,
)
from checkpoint_core.formats import FormatError, TrainState
from checkpoint_core.recovery.changes import CopyOf, FileRepair, NewBytes
from checkpoint_core.recovery.new_files import fresh_random_states, rebuilt_scheduler, rewritten_random_states
from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.states import (
    CUSTOM_OBJECT_PATTERN,
    EntryKind,
    FileEntry,
    LoraFacts,
    RandomStatesFacts,
    SchedulerFacts,
    StateFacts,
    layout,
)
from checkpoint_core.trainer import lost_scheduler, lost_train_state

_DEFAULT_SEED = 42  # FluxGym's own (app.py, the field "Seed")
_LOST_RANDOM = LOST | {FindingKind.FOREIGN, FindingKind.INCOMPLETE, FindingKind.HOSTILE}
_BROKEN_TRAIN_STATE = frozenset({FindingKind.BROKEN, FindingKind.NO_STEP})
_OPEN_TRAIN_STATE = frozenset({"train-state-missing", "position-relative"})


@dataclass(frozen=True)
class StateFix:
    """Repairs of a state's files, and the state's facts as they will be."""

    files: tuple[FileRepair, ...]
    facts: StateFacts


@dataclass(frozen=True)
class _Case:
    """One state to be repaired: ``codes`` are its findings', ``weighty`` those that keep it from resuming."""

    report: CheckpointReport
    script: ScriptFacts | None
    codes: frozenset[str]
    weighty: frozenset[str]
    epoch_in_state: bool

    @property
    def facts(self) -> StateFacts:
        return self.report.facts

    def codes_of(self, part: StatePart, kinds: Set[FindingKind]) -> frozenset[str]:
        """The codes of the findings that tell one of these kinds of that part."""
        return frozenset(each.code for each in self.report.findings if each.is_one_of(part, kinds))


_Step: TypeAlias = "tuple[FileRepair, Callable[[StateFacts], StateFacts]]"
_HARMLESS = (Severity.INFO, Severity.WARNING)


def fixed_state(
    report: CheckpointReport, script: ScriptFacts | None, epoch_in_state: bool = False
) -> StateFix:
    """The repairs of files that are known for a state's findings, and the state after them; reads small files only.

    :param epoch_in_state: correct a wrong position in ``train_state.json`` where the script could say it instead.
    """
    weighty = frozenset(found.code for found in report.findings if found.severity not in _HARMLESS)
    codes = frozenset(found.code for found in report.findings)
    case = _Case(report, script, codes, weighty, epoch_in_state)
    facts, files = report.facts, []
    for cure in (_random_states, _train_state, _custom_objects, _weights, _scheduler):
        for file, after in cure(case):
            if _is_plain(report.facts, file):
                files.append(file)
                facts = _with_entry(after(facts), file)
    return StateFix(tuple(files), facts)


def _is_plain(facts: StateFacts, file: FileRepair) -> bool:
    """Whether a file may be replaced: no folder or link stands in its place, whose owner would wonder."""
    is_file = file.before is None or file.before.kind is EntryKind.FILE
    return is_file and not (facts.path / file.name).is_symlink()


def _with_entry(facts: StateFacts, file: FileRepair) -> StateFacts:
    kept = [entry for entry in facts.files if entry.name != file.name]
    if file.content is not None:
        kept.append(FileEntry(file.name, file.content.size_bytes, file.modified_ns))
    manifest = facts.manifest.without(frozenset({file.name})) if facts.manifest else None
    return replace(facts, files=tuple(sorted(kept, key=lambda entry: entry.name)), manifest=manifest)


def _saved_ns(facts: StateFacts, name: str) -> int:
    """The time that a repaired file bears: its own from before, else that of the file that a save writes before it."""
    if entry := facts.file(name):
        return entry.modified_ns
    index = layout.WRITE_ORDER.index(name) if name in layout.WRITE_ORDER else 0
    order = (*reversed(layout.WRITE_ORDER[:index]), *layout.WRITE_ORDER[index:])
    return next((found.modified_ns for each in order if (found := facts.file(each))), facts.modified_ns)


def _random_states(case: _Case) -> Iterator[_Step]:
    """Random states that every accelerate loads: the same ones, or new ones where they are beyond reading."""
    name, facts = layout.RANDOM_STATES, case.facts
    same = {"environment-needs-step", "environment-loses-random-states", "random-states-no-step"} & case.codes
    lost = case.codes_of(StatePart.RANDOM_STATES, _LOST_RANDOM)
    # With the schedule lost too it is a save that was killed: then new ones are told, and not left to the trainer.
    told = lost | case.codes_of(StatePart.SCHEDULER, LOST)
    needed = case.weighty & {"environment-needs-step", "save-interrupted", *told}
    content, costs, generators = None, "", ("python", "numpy", "torch", "cuda")
    if same and not lost:
        content = _rewritten(facts)
        does = "the same random states, written with “step” and plain numbers so that every accelerate loads them."
        costs = ""
    if content is None and needed and (lost or same):
        content = fresh_random_states(_seed(case.script) + (case.report.position.step or 0))
        does = "new random states with “step”, because the saved ones cannot be read."
        costs = "The image order and noise differ from an uninterrupted training."
    if content is None:
        return
    saved = facts.random_states if isinstance(facts.random_states, RandomStatesFacts) else None
    known = RandomStatesFacts(
        (saved.step or 0) if saved else 0,
        saved.generators if saved and not lost else generators,
        saved.cuda_count if saved and not lost else 0,
    )
    step = FileRepair(
        name, facts.file(name), NewBytes(content), _saved_ns(facts, name), does, costs, frozenset(same | lost)
    )
    yield step, lambda before: replace(before, random_states=known)


def _rewritten(facts: StateFacts) -> bytes | None:
    if not isinstance(facts.random_states, RandomStatesFacts):
        return None
    try:
        return rewritten_random_states(facts.path / layout.RANDOM_STATES)
    except (FormatError, OSError):
        return None


def _seed(script: ScriptFacts | None) -> int:
    given = script.number("--seed") if script else None
    return int(given) if given is not None and 0 <= given < 2**31 else _DEFAULT_SEED


def _train_state(case: _Case) -> Iterator[_Step]:
    """Where the training stood, written anew; a file of a later save put back."""
    broken = case.codes_of(StatePart.TRAIN_STATE, _BROKEN_TRAIN_STATE)
    codes, state = case.weighty & broken, None
    position = case.report.position
    if case.epoch_in_state:
        codes |= case.weighty & _OPEN_TRAIN_STATE
    if codes and position.epoch is not None and position.step is not None:
        state = TrainState(position.epoch, position.step)
        does, costs = f"says epoch {position.epoch}, step {position.step:,} again.", ""
    elif "counts-disagree" in case.weighty and (state := lost_train_state(case.facts, position)):
        codes = frozenset({"counts-disagree"})
        does = f"put back to step {state.current_step:,}, where optimizer and schedule stand."
        costs = "The later save, of which this file alone was written, is lost."
    if state is None:
        return
    text = json.dumps({"current_epoch": state.current_epoch, "current_step": state.current_step})
    facts, name, told = case.facts, layout.TRAIN_STATE, state
    time_ns = min(_saved_ns(facts, name), _saved_ns(facts, layout.WEIGHTS_SAFE))
    step = FileRepair(
        name, facts.file(name), NewBytes(text.encode("ascii")), time_ns, does, costs, frozenset(codes)
    )
    yield step, lambda before: replace(before, train_state=told)


def _custom_objects(case: _Case) -> Iterator[_Step]:
    if "stray-custom-object" not in case.weighty:
        return
    for entry in case.facts.files:
        if CUSTOM_OBJECT_PATTERN.match(entry.name):
            does = "it does not belong to this trainer, which stops over it."
            codes = frozenset({"stray-custom-object"})
            yield (
                FileRepair(entry.name, entry, None, entry.modified_ns, does, "", codes),
                lambda before: replace(before, custom_object=None),
            )


def _weights(case: _Case) -> Iterator[_Step]:
    """Lost weights from the LoRA file of the same save; the check has found that it fits."""
    found = next(
        (each for each in case.report.findings if each.is_one_of(StatePart.WEIGHTS, LOST_WEIGHTS)), None
    )
    facts, lora = case.facts, case.facts.lora
    if found is None or found.severity is not Severity.FIXABLE or not isinstance(lora, LoraFacts):
        return
    present = {entry.name for entry in facts.files}
    others = {layout.WEIGHTS_SAFE_INDEX, layout.WEIGHTS_PICKLED, layout.WEIGHTS_PICKLED_INDEX}
    if (
        present & others
    ):  # with weights in another form, which of the files the trainer reads is another question
        return
    entry = FileEntry(lora.file, lora.size_bytes, lora.modified_ns)
    step = FileRepair(
        layout.WEIGHTS_SAFE,
        facts.file(layout.WEIGHTS_SAFE),
        CopyOf(facts.path.parent / lora.file, entry),
        _saved_ns(facts, layout.WEIGHTS_SAFE),
        f"the weights from {lora.file}, the LoRA file of the same save.",
        "They are the same, rounded to that file's precision (a difference below 0.0005).",
        frozenset({found.code}),
    )
    weights = replace(lora.weights, file=layout.WEIGHTS_SAFE)
    yield step, lambda before: replace(before, weights=weights)


def _scheduler(case: _Case) -> Iterator[_Step]:
    """The schedule from the optimizer's count and rates; the check has found whether they tell it."""
    cured = [each for each in case.report.findings if is_cured_by_scheduler(each)]
    if not cured or any(each.severity is not Severity.FIXABLE for each in cured):
        return
    values = lost_scheduler(case.facts, case.report.launch)
    if values is None:
        return
    facts, name = case.facts, layout.SCHEDULER
    optimizer = facts.file(layout.OPTIMIZER)
    data = rebuilt_scheduler(values.base_lrs, values.last_lrs, values.last_epoch)
    step = FileRepair(
        name,
        facts.file(name),
        NewBytes(data),
        optimizer.modified_ns if optimizer else _saved_ns(facts, name),
        f"the learning rate schedule, regenerated at {values.last_epoch:,} updates as the optimizer has counted.",
        "",
        frozenset(each.code for each in cured),
    )
    known = SchedulerFacts(values.last_epoch, values.last_lrs, values.base_lrs)
    yield step, lambda before: replace(before, scheduler=known)
