from __future__ import annotations

from dataclasses import replace

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.findings import Verdict
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.cli.exit_codes import ExitCode, of_checkpoint, of_run, of_runs
from checkpoint_core.formats.reader import DamageKind
from checkpoint_core.states.facts import Damage
from tests.world import World

YES, NO, OPEN = ExitCode.RESUMES, ExitCode.DOES_NOT, ExitCode.COULD_NOT_TELL
READY, WARNED, FIX = Verdict.READY, Verdict.READY_WITH_WARNINGS, Verdict.NEEDS_FIX
DAMAGED, SAVING, UNKNOWN = Verdict.DAMAGED, Verdict.SAVING, Verdict.UNKNOWN


@pytest.fixture
def run(world: World) -> RunReport:
    return Auditor(world.outputs).audit_run(world.run_name)


def having(run: RunReport, *verdicts: Verdict) -> RunReport:
    return replace(
        run, checkpoints=tuple(replace(run.checkpoints[0], verdict=verdict) for verdict in verdicts)
    )


@pytest.mark.parametrize(
    ("verdict", "code"),
    [(READY, YES), (WARNED, YES), (FIX, NO), (DAMAGED, NO), (SAVING, OPEN), (UNKNOWN, OPEN)],
)
def test_a_checkpoint_gives_one_of_three_answers(run: RunReport, verdict: Verdict, code: ExitCode) -> None:
    assert of_checkpoint(having(run, verdict).checkpoints[0]) is code


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ((DAMAGED, READY), YES),
        ((UNKNOWN, WARNED), YES),
        ((DAMAGED, FIX), NO),
        ((DAMAGED, SAVING), OPEN),
        ((), NO),
    ],
)
def test_one_good_checkpoint_is_enough_for_a_run(
    run: RunReport, verdicts: tuple[Verdict, ...], code: ExitCode
) -> None:
    assert of_run(having(run, *verdicts)) is code


def test_an_unreadable_run_is_not_taken_for_one_without_checkpoints(run: RunReport) -> None:
    facts = replace(run.facts, problem=Damage(DamageKind.UNREADABLE, "no"))

    assert of_runs([replace(having(run), facts=facts)]) is OPEN


@pytest.mark.parametrize(
    ("runs", "code"),
    [
        ([], NO),
        ([()], NO),
        ([(READY,), ()], YES),
        ([(READY,), (UNKNOWN,)], OPEN),
        ([(READY,), (UNKNOWN,), (DAMAGED,)], NO),
    ],
)
def test_every_run_that_has_checkpoints_must_resume(
    run: RunReport, runs: list[tuple[Verdict, ...]], code: ExitCode
) -> None:
    assert of_runs([having(run, *verdicts) for verdicts in runs]) is code
