"""One state's facts, and everything around it, to findings and a verdict; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from checkpoint_core.audit.catalogue.states import finding
from checkpoint_core.audit.checks.consistency import check_consistency
from checkpoint_core.audit.checks.environment import check_environment, in_environment
from checkpoint_core.audit.checks.forecast import check_forecast
from checkpoint_core.audit.checks.integrity import check_integrity, hostile_files
from checkpoint_core.audit.checks.position import check_position
from checkpoint_core.audit.checks.reconstructible import reconstructible
from checkpoint_core.audit.checks.rehearsal import findings_of
from checkpoint_core.audit.checks.run_level import unread_config
from checkpoint_core.audit.checks.settings import check_settings
from checkpoint_core.audit.checks.since_save import check_since_save
from checkpoint_core.audit.context import CheckContext
from checkpoint_core.audit.findings import (
    LOST,
    Finding,
    FindingKind,
    Severity,
    Subject,
    Verdict,
    by_weight,
    fold,
)
from checkpoint_core.audit.reports import CheckpointReport, state_name
from checkpoint_core.environment import EnvironmentFacts
from checkpoint_core.states import StateFacts
from checkpoint_core.trainer import Forecast, LaunchPoint, launch_from, locate, make_forecast


def judge(facts: StateFacts, context: CheckContext) -> CheckpointReport:
    """Facts to a verdict; pure."""
    launch, unlaunched = _launch(facts, context)
    forecast, unforeseen = _forecast(facts, launch, context)
    told = tuple(_findings(facts, launch, context, forecast))
    softened = _softened(told, facts, launch)
    since = tuple(guarded(lambda: check_since_save(facts, softened)))
    findings = (*softened, *since, *unlaunched, *unforeseen)
    if context.rehearsal:
        outcome, known = context.rehearsal, findings
        findings += tuple(guarded(lambda: iter(findings_of(outcome, known))))
    if facts.changed or (context.recent and any(_is_unfinished(found) for found in findings)):
        findings = (finding("save-in-progress"),)
    ordered = by_weight(findings)
    verdict = fold(ordered)
    return CheckpointReport(
        run=context.run.name,
        name=state_name(facts.path, context.run),
        facts=facts,
        launch=launch,
        findings=ordered,
        verdict=verdict,
        forecast=forecast if verdict in _WITH_FORECAST else None,
        environment=context.environment,
        rehearsal=context.rehearsal,
        context=context,
    )


def _launch(facts: StateFacts, context: CheckContext) -> tuple[LaunchPoint, tuple[Finding, ...]]:
    """Worked out here and nowhere else: forecast, checks and repairs must speak of one and the same launch."""
    position = locate(facts, context.script, context.steps_per_epoch)
    try:
        return launch_from(position, context.script, context.dataset), ()
    except Exception as error:  # noqa: BLE001 - as in `guarded`
        return LaunchPoint(position, context.script), (_crashed(error),)


def _findings(
    facts: StateFacts, launch: LaunchPoint, context: CheckContext, forecast: Forecast | None
) -> Iterator[Finding]:
    environment, script = context.environment, context.script
    trainer = environment.trainer if isinstance(environment, EnvironmentFacts) else None
    yield from guarded(lambda: in_environment(check_integrity(facts), environment, hostile_files(facts)))
    yield from guarded(lambda: check_consistency(facts))
    yield from guarded(lambda: check_position(facts, launch, context.dataset))
    yield from guarded(lambda: check_settings(facts, script, trainer))
    yield from guarded(lambda: unread_config(script))
    yield from guarded(lambda: check_forecast(facts, launch, context, forecast))
    yield from guarded(lambda: check_environment(facts, environment, script))


def _softened(told: tuple[Finding, ...], facts: StateFacts, launch: LaunchPoint) -> tuple[Finding, ...]:
    try:
        return tuple(reconstructible(told, facts, launch))
    except Exception as error:  # noqa: BLE001 - as in `guarded`
        return (*told, _crashed(error))


#: What a damaged checkpoint would do, or one that is still being written, is of no use to anyone.
_WITH_FORECAST = (Verdict.READY, Verdict.READY_WITH_WARNINGS, Verdict.NEEDS_FIX, Verdict.UNKNOWN)


def _forecast(
    facts: StateFacts, launch: LaunchPoint, context: CheckContext
) -> tuple[Forecast | None, tuple[Finding, ...]]:
    try:
        return make_forecast(facts, launch, context.names_where_saved), ()
    except Exception as error:  # noqa: BLE001 - as in `guarded`
        return None, (_crashed(error),)


_UNFINISHED = LOST | {FindingKind.INTERRUPTED, FindingKind.MIXED, FindingKind.OLDER, FindingKind.BROKEN}


def _is_unfinished(found: Finding) -> bool:
    """Whether a save that is still going on would look like that."""
    weighs = found.subject is Subject.STATE and found.severity is not Severity.INFO
    return weighs and found.kind in _UNFINISHED


def guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check's findings; a check that crashes becomes “could not tell” and never hides the others."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - any defect of a check must not pass for a clean bill
        yield _crashed(error)


def _crashed(error: Exception) -> Finding:
    return finding("check-crashed", evidence=f"{type(error).__name__}: {error}"[:300])
