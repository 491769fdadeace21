"""Damage that the state's other files make good: what was lost can be written anew, with nothing of the training lost.

Applied to the findings of the other checks: what they call damage because a file is missing needs only a fix where
the file can be rebuilt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from checkpoint_core.audit.findings import LOST, Finding, FindingKind, Severity, StatePart
from checkpoint_core.states import OptimizerFacts, StateFacts, WeightsFacts, layout
from checkpoint_core.trainer import TOLERANCE_NS, LaunchPoint, lost_scheduler, lost_train_state

#: What an older scheduler.bin looks like beside the newer files.
_OLDER_SCHEDULER = frozenset({"mixed-saves", "optimizer-step-differs", "counts-disagree"})
_SCHEDULER_CURE = (
    "“Repair and resume” regenerates scheduler.bin: the optimizer has counted {step} updates and holds the learning "
    "rates, so nothing is lost."
)
_TRAIN_STATE_CURE = (
    "“Repair and resume” writes train_state.json back to step {step}, where optimizer and schedule stand: it alone is "
    "of a later save that was interrupted, and what that save would have held is lost."
)


def reconstructible(findings: Iterable[Finding], facts: StateFacts, launch: LaunchPoint) -> Iterator[Finding]:
    """The findings, those softened that a rebuilt file cures."""
    found = tuple(findings)
    codes = {each.code for each in found}
    if codes & _OLDER_SCHEDULER or any(map(_is_lost_scheduler, found)):
        found = _with_scheduler(found, codes, facts, launch)
    if "counts-disagree" in codes and (state := lost_train_state(facts, launch.position)):
        cure = _TRAIN_STATE_CURE.format(step=state.current_step)
        found = tuple(_softened(each, cure) if each.code == "counts-disagree" else each for each in found)
    yield from found


def _is_lost_scheduler(found: Finding) -> bool:
    """Whether a finding tells that the schedule is lost."""
    return found.is_one_of(StatePart.SCHEDULER, LOST)


def is_cured_by_scheduler(found: Finding) -> bool:
    """Whether a schedule that is written anew cures it, once that alone is known to be lost or older."""
    return _is_lost_scheduler(found) or found.kind in (FindingKind.MIXED, FindingKind.INTERRUPTED)


def _with_scheduler(
    found: tuple[Finding, ...],
    codes: set[str],
    facts: StateFacts,
    launch: LaunchPoint,
) -> tuple[Finding, ...]:
    is_lost = any(map(_is_lost_scheduler, found))
    if not ((is_lost and _has_the_rest(facts)) or _is_older_alone(codes, facts)):
        return found
    values = lost_scheduler(facts, launch)
    if values is None:
        return found
    cure = _SCHEDULER_CURE.format(step=values.last_epoch)
    # Counts that differ are what an older schedule is known by; they say nothing more once it is rebuilt.
    rest = [each for each in found if each.code not in _OLDER_SCHEDULER - {"mixed-saves"}]
    return tuple(_softened(each, cure) if is_cured_by_scheduler(each) else each for each in rest)


def _has_the_rest(facts: StateFacts) -> bool:
    """Whether no file but the schedule is lost; a save that was killed there lacks the random states, too."""
    has_optimizer = facts.file(layout.OPTIMIZER) is not None and isinstance(facts.optimizer, OptimizerFacts)
    return has_optimizer and isinstance(facts.weights, WeightsFacts)


def _is_older_alone(codes: set[str], facts: StateFacts) -> bool:
    """Whether an interrupted overwrite left the old schedule, and with it at most the old random states."""
    if "mixed-saves" not in codes:
        return False
    optimizer, scheduler = facts.file(layout.OPTIMIZER), facts.file(layout.SCHEDULER)
    first, weights = facts.file(layout.TRAIN_STATE), facts.file(layout.WEIGHTS_SAFE)
    if optimizer is None or scheduler is None or first is None or weights is None:
        return False
    new = (first, weights, optimizer)
    return all(entry.modified_ns > scheduler.modified_ns + TOLERANCE_NS for entry in new)


def _softened(found: Finding, cure: str) -> Finding:
    return replace(found, severity=Severity.FIXABLE, cure=cure)
