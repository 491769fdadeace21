"""What takes longer than a click with a checkpoint: every byte read, a resume rehearsed; with progress and cancel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from checkpoint_core.audit.auditor import CheckpointReport
from checkpoint_core.audit.reports import UnknownName
from checkpoint_core.audit.wording import title
from checkpoint_core.environment.facts import Environment
from checkpoint_core.environment.rehearsal.outcome import RehearsalOutcome, Stage
from checkpoint_core.environment.rehearsal.run import rehearse_state
from checkpoint_core.states.discovery import OutputsFolderError
from checkpoint_core.states.facts import StateFacts
from checkpoint_core.states.verification import VerificationCancelled
from checkpoint_core.tab.long_work import LongWork
from checkpoint_core.tab.lookup import Names
from checkpoint_core.tab.page_names import PageName
from checkpoint_core.tab.views import actions as action_view


class Trials:
    """The long work under way at one desk."""

    def __init__(self, desk: Names) -> None:
        self._desk = desk
        self._working = LongWork()

    def verify(self, run_name: PageName, selected: PageName, layout: str = "") -> Iterator[str]:
        """Read every byte of a checkpoint; yields what to show meanwhile, at the end nothing but an error's text."""
        counts = [0, 1]

        def work(item: CheckpointReport, cancelled: Callable[[], bool]) -> str:
            try:
                self._desk.auditor(layout).verify(item.run, item.name, _keep(counts), cancelled)
            except VerificationCancelled:
                return action_view.info_view("Cancelled. Nothing was changed.")
            return ""

        def progress(item: CheckpointReport) -> str:
            return action_view.progress_view(counts[0], counts[1], item)

        yield from self._long(run_name, selected, layout, "verified", work, progress)

    def rehearse(self, run_name: PageName, selected: PageName, layout: str = "") -> Iterator[str]:
        """Load a checkpoint for trial with the Python that trains; yields what to show, at the end how it went."""
        stages, began = [Stage.STARTING], time.monotonic()

        def work(item: CheckpointReport, cancelled: Callable[[], bool]) -> str:
            def trial(facts: StateFacts, environment: Environment) -> RehearsalOutcome:
                return rehearse_state(facts, environment, stages.append, cancelled)

            report = self._desk.auditor(layout).rehearse(item.run, item.name, trial)
            return action_view.rehearsed_view(report)

        def progress(item: CheckpointReport) -> str:
            return action_view.rehearsing_view(stages[-1], time.monotonic() - began, item)

        yield from self._long(run_name, selected, layout, "rehearsed", work, progress)

    def rehearse_unusual(self, run_name: PageName, selected: PageName, layout: str = "") -> Iterator[str]:
        """Rehearse before a resume where nobody has tried the environment's versions; else nothing."""
        try:
            item = self._desk.checkpoint(self._desk.run(run_name, layout), selected)
        except (UnknownName, OutputsFolderError):
            return  # the resume itself says so
        if item.verdict.resumes and item.needs_rehearsal:
            yield from self.rehearse(run_name, selected, layout)

    def _long(
        self,
        run_name: PageName,
        selected: PageName,
        layout: str,
        what: str,
        work: Callable[[CheckpointReport, Callable[[], bool]], str],
        progress: Callable[[CheckpointReport], str],
    ) -> Iterator[str]:
        """Long work on a checkpoint by its name; ``what`` is done to it, in words."""
        try:
            item = self._desk.checkpoint(self._desk.run(run_name, layout), selected)
        except (UnknownName, OutputsFolderError) as error:
            yield action_view.error_view(str(error))
            return

        def guarded(cancelled: Callable[[], bool]) -> str:
            try:
                return work(item, cancelled)
            except (UnknownName, OutputsFolderError, OSError) as error:
                return action_view.error_view(f"Not {what}: {error}")

        busy = action_view.info_view(f"{title(item)} is being {what} already.")
        yield from self._working.run((run_name, selected), guarded, lambda: progress(item), busy)

    def cancel(self, run_name: PageName, selected: PageName) -> None:
        """Stop the long work on a checkpoint, if there is any."""
        self._working.cancel((run_name, selected))


def _keep(counts: list[int]) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        counts[:] = (done, total)

    return report
