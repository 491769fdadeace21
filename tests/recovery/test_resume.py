"""What forbids a resume forbids it on every way: one check, whoever asks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.reports import CheckpointReport, RunReport
from checkpoint_core.environment.rehearsal.outcome import RehearsalOutcome, RehearsalStatus
from checkpoint_core.recovery.options import OptionKind, rank_options
from checkpoint_core.recovery.planning import apply_option, change_of
from checkpoint_core.recovery.resume import ResumeRefused, check_resume, plan_checked, resume
from checkpoint_core.scripts.change import ScriptChangedSinceShown
from tests.damage import truncate
from tests.environments import environment
from tests.world import World


def judged(world: World, accelerate: str = "1.15.0") -> tuple[RunReport, CheckpointReport]:
    auditor = Auditor(world.outputs, environment=lambda: environment(accelerate=accelerate))
    run = auditor.audit_run(world.run_name)
    return run, run.checkpoint(world.latest.name)


def test_what_resumes_is_written_and_taken_back(world: World) -> None:
    before = world.script.read_bytes()
    run, item = judged(world)
    done = resume(run, item)
    assert world.script.read_bytes() == done.change.after != before
    done.receipt.undo()
    assert world.script.read_bytes() == before


def test_what_is_damaged_is_refused_with_the_reason(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    before = world.script.read_bytes()
    run, item = judged(world)
    with pytest.raises(ResumeRefused, match=r"^Epoch 4 does not resume\. optimizer\.bin is truncated"):
        resume(run, item)
    assert world.script.read_bytes() == before


@pytest.mark.parametrize("tried", [None, RehearsalStatus.CANCELLED])
def test_versions_that_nobody_has_tried_are_refused_until_a_rehearsal_has_ended(
    world: World, tried: RehearsalStatus | None
) -> None:
    before = world.script.read_bytes()
    run, item = judged(world, "9.0")
    item = replace(item, rehearsal=RehearsalOutcome(tried) if tried else None)
    for refused in (check_resume, lambda each: plan_checked(run, each), lambda each: resume(run, each)):
        with pytest.raises(ResumeRefused, match="not rehearsed to the end"):
            refused(item)
    assert world.script.read_bytes() == before
    check_resume(replace(item, rehearsal=RehearsalOutcome(RehearsalStatus.LOADED)))


@pytest.mark.parametrize("kind", [OptionKind.RESUME, OptionKind.OLDER])
def test_an_option_asks_the_same(world: World, kind: OptionKind) -> None:
    before = world.script.read_bytes()
    run, item = judged(world)
    (way, *_) = rank_options(run, {}).options
    way = replace(way, kind=kind)
    untried = judged(world, "9.0")[1]
    with pytest.raises(ResumeRefused):
        apply_option(way, change_of(run, way), lambda: untried)
    assert world.script.read_bytes() == before
    apply_option(way, change_of(run, way), lambda: item)
    assert world.script.read_bytes() != before


def test_what_was_shown_is_written_and_nothing_else(world: World) -> None:
    run, item = judged(world)
    other = plan_checked(run, run.checkpoint(world.state(3).name))
    before = world.script.read_bytes()
    with pytest.raises(ScriptChangedSinceShown):
        resume(run, item, shown=other)
    assert world.script.read_bytes() == before
