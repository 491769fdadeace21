"""The one composition that tab and command line share: outputs folder -> facts -> findings -> verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from checkpoint_core.audit.cache import AuditCache
from checkpoint_core.audit.checks.environment import check_run_environment
from checkpoint_core.audit.checks.run_level import check_run
from checkpoint_core.audit.context import CheckContext
from checkpoint_core.audit.reports import AuditReport, CheckpointReport, RunReport, UnknownName
from checkpoint_core.audit.run_reader import RunReader, rehearsal_stamp
from checkpoint_core.audit.verdict import guarded, judge
from checkpoint_core.environment import Environment, RehearsalOutcome, RehearsalStatus
from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.states import (
    Layout,
    Progress,
    RunDir,
    StateDir,
    StateFacts,
    Verified,
    discovery,
    list_directory,
    verify_state,
)

_Look = Callable[[], CheckpointReport]
_Rehearse = Callable[[StateFacts, Environment], RehearsalOutcome]


class Auditor:
    """Audits one outputs folder, again and again; what has not changed on the disk is not read again.

    Safe to use from several threads; no lock is held while a process is asked: the environment, a rehearsal.

    :param outputs: FluxGym's ``outputs`` folder.
    :param layout: judge every state by this layout, instead of by the trainer that the script names.
    :param clock: nanoseconds since the epoch.
    :param environment: asked once an audit for the training interpreter; by default nothing is judged about it.
    :param script: judge every state with this script, instead of its run's own.
    :param cache: what is known already, by default nothing.
    """

    def __init__(
        self,
        outputs: Path | str,
        layout: Layout | None = None,
        clock: Callable[[], int] = time.time_ns,
        environment: Callable[[], Environment] = lambda: None,
        script: ScriptFacts | None = None,
        cache: AuditCache | None = None,
    ) -> None:
        self.outputs = Path(outputs)
        self._clock = clock
        self._ask_environment = environment
        self._cache = AuditCache() if cache is None else cache
        self._reader = RunReader(self.outputs, layout, script, clock, self._cache)

    def at_later_time(self, nanoseconds: int) -> Auditor:
        """An auditor of the same folder whose clock is ahead; what was fully verified is known to both."""
        return Auditor(
            self.outputs,
            self._reader.layout,
            lambda: self._clock() + nanoseconds,
            self._ask_environment,
            self._reader.script,
            self._cache.at_another_time(),
        )

    def audit(self, progress: Callable[[str], None] | None = None) -> AuditReport:
        """All runs; ``progress`` is called with the name of each before it is read.

        :raises OutputsFolderError: when the folder is missing or unreadable.
        """
        runs, environment = [], self._ask_environment()
        for name in self.run_names():
            if progress:
                progress(name)
            runs.append(self._look(self.outputs / name, environment))
        return AuditReport(self.outputs, self._clock(), tuple(runs), discovery.skipped_entries(self.outputs))

    def run_names(self) -> tuple[str, ...]:
        """The names of all runs, without reading them.

        :raises OutputsFolderError: when the folder is missing or unreadable.
        """
        paths = discovery.run_paths(self.outputs)
        self._cache.forget_runs(others_than=frozenset(paths))
        return tuple(path.name for path in paths)

    def audit_run(self, name: str) -> RunReport:
        """One run by its name.

        :raises UnknownName: when the name is not a plain child of the outputs folder that is a run.
        """
        if name not in self.run_names():
            raise UnknownName(
                f"There is no run {name!r} in {self.outputs}. It may have been removed; refresh."
            )
        return self._look(self.outputs / name, self._ask_environment())

    def audit_folder(self, run: Path, state: Path | None = None) -> RunReport:
        """The run in a folder, whatever it is called.

        :param run: a plain child of the outputs folder.
        :param state: is judged with it even where a look at the folder passes it over.
        """
        return self._look(run, self._ask_environment(), state)

    def verify(
        self,
        run: str,
        checkpoint: str,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> CheckpointReport:
        """Read every byte of one checkpoint and judge it anew; kept until one of its files or its LoRA changes.

        :raises UnknownName: for an unknown run or checkpoint.
        :raises VerificationCancelled: when ``cancelled`` returned true.
        """
        return self.verify_seen(lambda: self.audit_run(run).checkpoint(checkpoint), progress, cancelled)

    def verify_seen(
        self,
        look: _Look,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> CheckpointReport:
        """As :meth:`verify`, for a checkpoint that ``look`` judges; it is asked before and after."""
        before = look()
        read = Verified(before.facts, verify_state(before.facts, progress, cancelled))
        self._cache.verified.keep(self.outputs / before.run, before.facts.path, None, read)
        after = look()
        if after.facts.deep is None and after.context is not None:
            # It changed while it was read: what was not fully verified must not pass for it.
            return judge(replace(after.facts, changed=True), after.context)
        return after

    def rehearse(self, run: str, checkpoint: str, rehearse: _Rehearse) -> CheckpointReport:
        """Test-load one checkpoint and judge it anew; kept until one of its files or the environment changes.

        :param rehearse: carries the rehearsal out.
        :raises UnknownName: for an unknown run or checkpoint.
        """
        return self.rehearse_seen(lambda: self.audit_run(run).checkpoint(checkpoint), rehearse)

    def rehearse_seen(self, look: _Look, rehearse: _Rehearse) -> CheckpointReport:
        """As :meth:`rehearse`, for a checkpoint that ``look`` judges; it is asked before and after."""
        before = look()
        outcome = rehearse(before.facts, before.environment)
        stamp = rehearsal_stamp(before.facts, before.environment)
        self._cache.rehearsals.keep(self.outputs / before.run, before.facts.path, stamp, outcome)
        after = look()
        if (
            after.rehearsal is None
            and outcome.status is RehearsalStatus.CHANGED
            and after.context is not None
        ):
            return judge(after.facts, replace(after.context, rehearsal=outcome))
        return after

    def context(self, checkpoint: CheckpointReport) -> CheckContext:
        """What a checkpoint was judged against, without a rehearsal: to judge it as it would be after a change.

        :raises UnknownName: where no state is.
        """
        if checkpoint.context is None:
            raise UnknownName(f"There is no checkpoint {checkpoint.name!r}; refresh.")
        return replace(checkpoint.context, rehearsal=None, recent=False)

    def _look(self, run: Path, environment: Environment, state: Path | None = None) -> RunReport:
        with self._cache.turn(run):
            # Listed within the turn: who waited must not judge what the other has judged newer.
            found = discovery.find_run(run, self.outputs)
            if state is not None and all(each.path != state for each in found.states):
                added = StateDir(state, list_directory(state, self.outputs))
                found = replace(found, states=(*found.states, added))
            self._cache.forget_unlisted(found)
            return self._judged(found, environment)

    def _judged(self, found: RunDir, environment: Environment) -> RunReport:
        facts = self._reader.facts(found)
        context = self._reader.context(found, facts, environment)
        reports = (self._report(state, context) for state in facts.states)
        ordered = tuple(sorted(reports, key=lambda report: (report.order, report.name), reverse=True))
        findings = (
            *guarded(lambda: check_run(facts)),
            *guarded(lambda: check_run_environment(environment)),
        )
        return RunReport(facts, ordered, findings, environment)

    def _report(self, facts: StateFacts, of_run: CheckContext) -> CheckpointReport:
        context = self._reader.context_of(facts, of_run)
        return self._cache.reports.get(
            context.run, facts.path, (facts, context), lambda: judge(facts, context)
        )


def audit_outputs(outputs: Path | str, layout: Layout | None = None) -> AuditReport:
    """Audit an outputs folder once.

    :raises OutputsFolderError: when the folder is missing or unreadable.
    """
    return Auditor(outputs, layout).audit()
