"""A repair that does not do what it promised, or cannot be judged, is reverted, and never hides behind an error."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.atomic_write import WriteFailed
from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.findings import Verdict
from checkpoint_core.audit.reports import CheckpointReport, UnknownName
from checkpoint_core.recovery import transaction
from checkpoint_core.recovery.options import OptionKind
from checkpoint_core.recovery.planning import apply_option, change_of, plan_recovery, repair_of
from checkpoint_core.recovery.repair import RepairFailed, RepairPlan
from checkpoint_core.states.discovery import OutputsFolderError
from checkpoint_core.states.repair_records import APPLIED, UNDONE, read_records
from tests.damage import remove
from tests.world import World

LOOKS: tuple[Exception, ...] = (
    RuntimeError("the training interpreter went away"),
    OSError(errno.EIO, "Input/output error"),
    UnknownName("There is no such checkpoint."),
    OutputsFolderError("The outputs folder is gone."),
    WriteFailed("The disk is full."),
    KeyError("optimizer"),
    RecursionError(),
    MemoryError(),
)


@pytest.fixture
def broken(world: World) -> World:
    remove(world.latest / "scheduler.bin")
    return world


def planned(world: World) -> RepairPlan:
    auditor = Auditor(world.outputs)
    run = auditor.audit_run(world.run_name)
    plan = repair_of(auditor, run, run.checkpoint(world.latest.name))
    assert plan is not None
    return plan


def contents(world: World) -> tuple[dict[str, bytes], bytes]:
    return {path.name: path.read_bytes() for path in world.latest.iterdir()}, world.script.read_bytes()


def raising(error: BaseException) -> Callable[[], CheckpointReport]:
    def look() -> CheckpointReport:
        raise error

    return look


@pytest.mark.parametrize("error", LOOKS, ids=lambda error: type(error).__name__)
def test_whatever_the_look_raises_everything_is_as_it_was(broken: World, error: Exception) -> None:
    before = contents(broken)

    with pytest.raises(RepairFailed, match=r"could not be judged \(.+\)\. Everything is as it was") as caught:
        planned(broken).execute(raising(error))

    assert caught.value.__cause__ is error
    assert contents(broken) == before
    assert [record.status for record in read_records(broken.run)] == [UNDONE]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_a_program_that_is_ended_takes_the_repair_back_first(broken: World, error: BaseException) -> None:
    before = contents(broken)
    with pytest.raises(type(error)):
        planned(broken).execute(raising(error))
    assert contents(broken) == before


def test_one_that_would_not_resume_after_all_is_taken_back(broken: World) -> None:
    before, plan = contents(broken), planned(broken)
    with pytest.raises(RepairFailed, match=r"would still not resume .* Everything is as it was before\."):
        plan.execute(lambda: replace(plan.checkpoint, verdict=Verdict.DAMAGED))
    assert contents(broken) == before


@pytest.mark.parametrize("look", ["raises", "damaged", "cancelled"])
def test_where_even_taking_back_fails_it_says_so_and_where_the_originals_are(
    broken: World, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    def failing(run: Path, identity: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    plan = planned(broken)
    looks = {
        "raises": raising(RuntimeError("?")),
        "damaged": lambda: replace(plan.checkpoint, verdict=Verdict.DAMAGED),
        "cancelled": raising(KeyboardInterrupt()),
    }
    monkeypatch.setattr(transaction, "undo", failing)

    with pytest.raises(RepairFailed, match=r"could not be reverted either .*Input/output error") as caught:
        plan.execute(looks[look])

    (record,) = read_records(broken.run)
    assert record.status == APPLIED
    assert str(transaction.originals(broken.run, record)) in str(caught.value)
    assert broken.latest.name in str(caught.value)
    assert transaction.undoable(broken.run, broken.latest.name) == record


def test_a_script_that_was_edited_meanwhile_is_told_and_left(broken: World) -> None:
    plan = planned(broken)
    state = contents(broken)[0]

    def look() -> CheckpointReport:
        broken.script.write_bytes(b"# mine\n" + broken.script.read_bytes())
        raise RuntimeError("?")

    with pytest.raises(RepairFailed, match=r"train\.sh was changed meanwhile and is left as it is\."):
        plan.execute(look)
    assert contents(broken)[0] == state
    assert broken.script.read_bytes().startswith(b"# mine\n")


def test_a_way_that_is_taken_takes_its_repair_back_too(broken: World) -> None:
    before, auditor = contents(broken), Auditor(broken.outputs)
    run = auditor.audit_run(broken.run_name)
    way = next(way for way in plan_recovery(auditor, run).options if way.kind is OptionKind.REPAIR)
    with pytest.raises(RepairFailed):
        apply_option(way, change_of(run, way), raising(RuntimeError("?")))
    assert contents(broken) == before
