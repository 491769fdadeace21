"""What an audit tells: a checkpoint, a run, an outputs folder; values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from checkpoint_core.audit.context import CheckContext, RunFacts
from checkpoint_core.audit.findings import Finding, Subject, Verdict, deciding_findings
from checkpoint_core.environment import (
    Environment,
    EnvironmentFacts,
    RehearsalOutcome,
    RehearsalStatus,
    is_unusual,
)
from checkpoint_core.states import Skipped, StateFacts
from checkpoint_core.trainer import Forecast, LaunchPoint, Position


@dataclass(frozen=True)
class CheckpointReport:
    """One checkpoint: what was observed, where it stands, what was found, and the verdict.

    ``name`` is the state directory's path below the run's folder, with ``/`` on every system: its plain name, or
    ``checkpoints/checkpoint_0`` for accelerate's automatic naming. ``launch`` is the launch of the script that it was
    judged by, ``context`` all that it was judged against; ``None`` where no state is.
    """

    run: str
    name: str
    facts: StateFacts
    launch: LaunchPoint
    findings: tuple[Finding, ...]
    verdict: Verdict
    forecast: Forecast | None = None
    environment: Environment = None
    rehearsal: RehearsalOutcome | None = None
    context: CheckContext | None = field(default=None, compare=False, repr=False)

    @property
    def position(self) -> Position:
        """Where the state stands."""
        return self.launch.position

    @property
    def concerns(self) -> tuple[Subject, ...]:
        """Whom the findings concern that decide the verdict; none where it is ready."""
        deciding = deciding_findings(self.findings)
        return tuple(subject for subject in Subject if any(found.subject is subject for found in deciding))

    @property
    def needs_rehearsal(self) -> bool:
        """Whether nobody has tried the environment's versions, and this state was not test-loaded there."""
        tried = self.rehearsal is not None and self.rehearsal.status is not RehearsalStatus.CANCELLED
        return (
            not tried
            and isinstance(self.environment, EnvironmentFacts)
            and bool(is_unusual(self.environment))
        )

    @property
    def order(self) -> tuple[int, int, int]:
        """By training position, then time; larger is newer."""
        known = self.position
        return (known.epoch or 0, known.step or 0, self.facts.saved_ns)


def state_name(state: Path, run: Path) -> str:
    """What a state directory is called inside its run's folder."""
    return state.relative_to(run).as_posix()


class UnknownName(LookupError):
    """No run or checkpoint of that name is a plain child of the outputs folder."""


@dataclass(frozen=True)
class RunReport:
    """One run with its checkpoints, newest first."""

    facts: RunFacts
    checkpoints: tuple[CheckpointReport, ...]
    findings: tuple[Finding, ...]
    environment: Environment = None

    @property
    def name(self) -> str:
        """The run's folder name."""
        return self.facts.name

    def checkpoint(self, name: str) -> CheckpointReport:
        """The checkpoint of that name.

        :raises UnknownName: when the run has none.
        """
        for checkpoint in self.checkpoints:
            if checkpoint.name == name:
                return checkpoint
        raise UnknownName(
            f"The run {self.name!r} has no checkpoint {name!r}. It may have been removed; refresh."
        )


@dataclass(frozen=True)
class AuditReport:
    """An outputs folder, its runs by name."""

    outputs: Path
    made_ns: int
    runs: tuple[RunReport, ...]
    skipped: tuple[Skipped, ...]

    def run(self, name: str) -> RunReport:
        """The run of that name.

        :raises UnknownName: when there is none.
        """
        for run in self.runs:
            if run.name == name:
                return run
        raise UnknownName(f"There is no run {name!r} in {self.outputs}. It may have been removed; refresh.")


@dataclass(frozen=True)
class LatestResumable:
    """The newest checkpoint that will resume, and why newer ones were passed over (name to reason)."""

    checkpoint: CheckpointReport | None
    passed_over: tuple[tuple[str, str], ...]


def find_latest_resumable(run: RunReport) -> LatestResumable:
    """The newest checkpoint, by training position and then time, that will resume as it stands."""
    passed_over: list[tuple[str, str]] = []
    for checkpoint in run.checkpoints:
        if checkpoint.verdict.resumes:
            return LatestResumable(checkpoint, tuple(passed_over))
        passed_over.append((checkpoint.name, f"{checkpoint.verdict.value}: {checkpoint.findings[0].message}"))
    return LatestResumable(None, tuple(passed_over))
