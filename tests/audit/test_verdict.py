"""A judgement: everything that it needs is worked out once and handed on."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from checkpoint_core.audit import verdict
from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.context import CheckContext
from checkpoint_core.audit.findings import Verdict
from checkpoint_core.audit.verdict import judge
from checkpoint_core.states.facts import StateFacts
from checkpoint_core.trainer import position
from tests.damage import edit_train_state, remove
from tests.judging import codes, judge_state
from tests.world import World

#: What works out where a training stands, goes on and ends.
RULES = {
    "locate",
    "epoch_length",
    "launch_epoch",
    "launch_step",
    "last_epoch",
    "total_steps",
    "is_finished",
    "why_undecided",
}


def entries(work: Callable[[], object]) -> Counter[tuple[str, str]]:
    """How often each of the rules is entered from another module: its name, and the module's."""
    counted: Counter[tuple[str, str]] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        code, caller = frame.f_code, frame.f_back
        if event == "call" and code.co_name in RULES and code.co_filename == position.__file__:
            from_outside = caller is not None and caller.f_code.co_filename != position.__file__
            if caller is not None and from_outside:
                counted[code.co_name, Path(caller.f_code.co_filename).stem] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return counted


def judged_against(world: World, epoch: int = 4) -> tuple[StateFacts, CheckContext]:
    report = judge_state(world, epoch)
    return report.facts, Auditor(world.outputs).context(report)


@pytest.mark.parametrize("damage", [lambda _: None, lambda world: remove(world.latest / "scheduler.bin")])
def test_the_launch_is_worked_out_once_for_a_judgement(
    world: World, damage: Callable[[World], object]
) -> None:
    damage(world)
    facts, context = judged_against(world)

    counted = entries(lambda: judge(facts, context))

    assert {name: count for (name, caller), count in counted.items() if caller != "launch"} == {"locate": 1}
    assert {counted[name, "launch"] for name in ("epoch_length", "is_finished", "why_undecided")} == {1}


def test_a_report_hands_on_what_it_was_judged_by(world: World) -> None:
    edit_train_state(world.latest, current_step=8)
    facts, context = judged_against(world)
    report = judge(facts, context)

    assert report.context is context
    assert report.launch.script is context.script
    assert report.launch.position is report.position
    assert (report.launch.start_epoch, report.position.next_epoch) == (2, 5)
    assert codes(report) == ["position-relative"]


def test_a_launch_that_cannot_be_worked_out_is_unknown_and_hides_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(world.latest / "optimizer.bin")

    def crashing(*_: object) -> None:
        raise OverflowError("a number of nobody's")

    monkeypatch.setattr(verdict, "launch_from", crashing)
    broken, whole = judge_state(world), judge_state(world, 3)
    assert {"optimizer-missing", "check-crashed"} <= set(codes(broken))
    assert whole.verdict is Verdict.UNKNOWN
    assert "check-crashed" in codes(whole)
