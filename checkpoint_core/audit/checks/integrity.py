"""Each file of a state by itself: is it there, whole, and of a kind that the trainer loads?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from checkpoint_core.audit.catalogue.states import file_finding, finding
from checkpoint_core.audit.findings import LOST, Finding, FindingKind, Severity, StatePart
from checkpoint_core.states import (
    CUSTOM_OBJECT_PATTERN,
    CustomObjectFacts,
    Damage,
    Layout,
    LoraFacts,
    OptimizerFacts,
    RandomStatesFacts,
    StateFacts,
    WeightsFacts,
    layout,
)


def check_integrity(facts: StateFacts) -> Iterator[Finding]:
    """Every finding about one file alone; ``train_state.json`` is judged with the position."""
    if facts.problem:
        yield finding("state-unreadable", detail=facts.problem.detail)
        return
    if not facts.files:
        yield finding("state-empty")
        return
    yield from _interrupted(facts)
    yield from _weights(facts)
    yield from _reading(StatePart.OPTIMIZER, layout.OPTIMIZER, facts.optimizer)
    if facts.scheduler is not None or not _has_no_scheduler(facts):
        yield from _reading(StatePart.SCHEDULER, layout.SCHEDULER, facts.scheduler)
    yield from _random_states(facts)
    yield from _custom_objects(facts)


def _reading(part: StatePart, file: str, reading: object) -> Iterator[Finding]:
    if reading is None:
        yield file_finding(part, FindingKind.MISSING, file=file)
    elif isinstance(reading, Damage):
        kind = FindingKind(reading.kind.value)
        yield file_finding(part, kind, file=file, detail=reading.detail, evidence=reading.names)


def hostile_files(facts: StateFacts) -> frozenset[str]:
    """The files of a state that name code to run."""
    readings = {
        _weights_file(facts): facts.weights,
        layout.OPTIMIZER: facts.optimizer,
        layout.SCHEDULER: facts.scheduler,
        layout.RANDOM_STATES: facts.random_states,
        layout.CUSTOM_OBJECT: facts.custom_object,
    }
    return frozenset(
        file for file, reading in readings.items() if isinstance(reading, Damage) and reading.is_hostile
    )


def _has_no_scheduler(facts: StateFacts) -> bool:
    """Schedule-free optimizers register no scheduler, so accelerate saves none."""
    return isinstance(facts.optimizer, OptimizerFacts) and facts.optimizer.schedule_free


def _interrupted(facts: StateFacts) -> Iterator[Finding]:
    """The files of a save as far as they came; the commit marker, written last, is among the missing."""
    names = {entry.name for entry in facts.files}
    unwritten = {layout.TRAIN_STATE, *((layout.SCHEDULER,) if _has_no_scheduler(facts) else ())}
    order = [name for name in layout.WRITE_ORDER if name not in unwritten]
    missing = [name for name in order if name not in names]
    # A person who deletes files leaves gaps; an interrupted save lacks a tail of the writing order.
    other_weights = {layout.WEIGHTS_SAFE_INDEX, layout.WEIGHTS_PICKLED, layout.WEIGHTS_PICKLED_INDEX}
    if len(missing) >= 2 and order[-len(missing) :] == missing and not names & other_weights:
        yield finding("save-interrupted", evidence=f"{', '.join(missing)} were never written")


def _weights(facts: StateFacts) -> Iterator[Finding]:
    for found in _reading(StatePart.WEIGHTS, _weights_file(facts), facts.weights):
        yield _rebuildable(found, facts)
    weights = facts.weights
    if facts.layout is Layout.SD_SCRIPTS and isinstance(weights, WeightsFacts) and not weights.keys_are_lora:
        parts = tuple(sorted(weights.parts)) or ("nothing",)
        yield finding("weights-not-lora", file=weights.file, evidence=parts)
    if isinstance(weights, WeightsFacts) and weights.unpaired:
        yield _rebuildable(
            finding("weights-names-broken", file=weights.file, evidence=weights.unpaired[:3]), facts
        )


def _weights_file(facts: StateFacts) -> str:
    names = {entry.name for entry in facts.files}
    candidates = (layout.WEIGHTS_SAFE, layout.WEIGHTS_SAFE_INDEX, layout.WEIGHTS_PICKLED)
    return next((name for name in candidates if name in names), layout.WEIGHTS_SAFE)


#: Weights of which nothing can be used.
LOST_WEIGHTS = LOST | {FindingKind.NAMES_BROKEN}


def _rebuildable(found: Finding, facts: StateFacts) -> Finding:
    """The LoRA file of the same save holds the same tensors, rounded: it can take the place of lost weights."""
    optimizer = facts.optimizer
    if (
        not found.is_one_of(StatePart.WEIGHTS, LOST_WEIGHTS)
        or not isinstance(facts.lora, LoraFacts)
        or not isinstance(optimizer, OptimizerFacts)
    ):
        return found
    if facts.lora.weights.trained_count != optimizer.param_count:
        return found
    cure = (
        f"Copy {facts.lora.file} into the directory as {layout.WEIGHTS_SAFE}: it holds the same weights, rounded to "
        "its precision (a difference below 0.0005). Or resume from an older checkpoint that is ready."
    )
    return replace(found, severity=Severity.FIXABLE, cure=cure)


def _random_states(facts: StateFacts) -> Iterator[Finding]:
    reading = facts.random_states
    file = layout.RANDOM_STATES
    if isinstance(reading, Damage) and reading.is_hostile:
        yield finding("random-states-hostile", file=file, detail=", ".join(reading.names))
        return
    for found in _reading(StatePart.RANDOM_STATES, file, reading):
        yield _required(found, facts)
    if isinstance(reading, RandomStatesFacts):
        lacking = [name for name in ("python", "numpy", "torch") if name not in reading.generators]
        if lacking:
            yield _required(
                finding("random-states-incomplete", file=file, evidence=" and ".join(lacking)), facts
            )
        elif reading.step is None:
            yield finding("random-states-no-step", file=file)


def _required(found: Finding, facts: StateFacts) -> Finding:
    """Users of registered objects hold the random states to be required: not fine without them, yet curable."""
    if facts.layout is Layout.ACCELERATE_OBJECTS and found.severity is Severity.WARNING:
        return replace(found, severity=Severity.FIXABLE)
    return found


def _custom_objects(facts: StateFacts) -> Iterator[Finding]:
    if facts.layout is Layout.ACCELERATE_OBJECTS:
        yield from _reading(StatePart.CUSTOM_OBJECT, layout.CUSTOM_OBJECT, facts.custom_object)
        if isinstance(facts.custom_object, CustomObjectFacts):
            lacking = [key for key in ("step", "epoch") if getattr(facts.custom_object, key) is None]
            if lacking:
                yield finding(
                    "custom-object-no-step", file=layout.CUSTOM_OBJECT, evidence=" and no ".join(lacking)
                )
        return
    for entry in facts.files:
        if CUSTOM_OBJECT_PATTERN.match(entry.name):
            yield finding("stray-custom-object", file=entry.name)
