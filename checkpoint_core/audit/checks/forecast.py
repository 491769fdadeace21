"""What the resumed run would do with the rate, the names and the disk, before it does it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from checkpoint_core.audit.catalogue.states import finding
from checkpoint_core.audit.context import CheckContext
from checkpoint_core.audit.findings import Finding
from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.states import Layout, StateFacts, layout
from checkpoint_core.text import human_bytes, some_names
from checkpoint_core.trainer import (
    DiskRoom,
    Forecast,
    LaunchPoint,
    differs,
    disk_room,
    highest_rate,
    learning_rate_at,
    rate_text,
    saved_rates,
)

#: A rate below this share of the base rate teaches nothing.
_NOTHING = 1e-3


def check_forecast(
    facts: StateFacts, launch: LaunchPoint, context: CheckContext, forecast: Forecast | None
) -> Iterator[Finding]:
    """Every finding about what the resumed run would do."""
    yield from _learning_rate(facts, launch, forecast)
    if facts.layout is not Layout.SD_SCRIPTS or facts.problem or not facts.files:
        return
    if context.elsewhere is not None and context.script is not None:
        yield finding("output-elsewhere", file=context.script.file, evidence=str(context.elsewhere))
    if forecast is not None:
        yield from _saves(forecast, facts.path.name, context.free_bytes)


def _saves(forecast: Forecast, name: str, free_bytes: int | None) -> Iterator[Finding]:
    if forecast.collisions:
        first = forecast.skipped_steps + 1
        yield finding("step-names-collide", first=first, names=some_names(forecast.collisions))
    for removed, when in forecast.will_remove:
        if removed == name:
            yield finding("state-will-be-removed", when=when)
    needed = forecast.bytes_needed
    if needed is None or free_bytes is None:
        return
    if disk_room(needed, free_bytes) is DiskRoom.TOO_LITTLE:
        yield finding("saves-do-not-fit", free=human_bytes(free_bytes), needed=human_bytes(needed))


def _learning_rate(facts: StateFacts, launch: LaunchPoint, forecast: Forecast | None) -> Iterator[Finding]:
    """Whether the schedule has run out, or is another one than that of the state (``learning_rate.py``)."""
    saved = saved_rates(facts)
    # At step 0 a warm-up stands at 0 rightly; a base of 0 is Adafactor's own schedule.
    if saved is None or not saved[0] or not saved[2]:
        return
    base, rate, counted = saved
    course = _course(base, counted, launch, forecast)
    if course is None:
        if rate == 0:
            yield _zero(counted)
        return
    changes = differs(course.now, rate) and max(course.now, rate) > _NOTHING * base
    if not changes and rate > 0:
        return
    highest = highest_rate(course.script, base, course.step + 1, course.last, course.total)
    if highest is not None and highest <= _NOTHING * base:
        yield _zero(counted)
    elif changes:
        following = learning_rate_at(course.script, base, course.step + 1, course.total) or 0.0
        yield finding("learning-rate-jumps", saved=rate_text(rate), now=rate_text(following))


def _zero(counted: int) -> Finding:
    return finding("learning-rate-zero", file=layout.SCHEDULER, evidence=f"last_epoch {counted}")


@dataclass(frozen=True)
class _Course:
    """The script's schedule at the saved state: what it gives ``now``, at ``step`` of ``total``, until ``last``."""

    script: ScriptFacts
    now: float
    step: int
    last: int
    total: int


def _course(base: float, counted: int, launch: LaunchPoint, forecast: Forecast | None) -> _Course | None:
    """``None`` where the schedule is not known, or nothing is left to train."""
    script, left, total = launch.script, forecast.steps_left if forecast else None, launch.total_steps
    if script is None or not left or total is None:
        return None
    step = counted // max(1, script.num_processes)
    now = learning_rate_at(script, base, step, total)
    return None if now is None else _Course(script, now, step, step + left, total)
