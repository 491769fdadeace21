"""What takes longer than a click with a checkpoint: every byte read, a resume rehearsed; with progress and cancel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from checkpoint_core.audit import CheckpointReport, UnknownName, title
from checkpoint_core.environment import Environment, RehearsalOutcome, RehearsalStage, rehearse_state
from checkpoint_core.states import OutputsFolderError, StateFacts, VerificationCancelled
from checkpoint_core.tab.long_work import LongWork
from checkpoint_core.tab.lookup import RunLookup
from checkpoint_core.tab.views.actions import (
    error_view,
    info_view,
    progress_view,
    rehearsed_view,
    rehearsing_view,
)


class Trials:
    """The long work under way at one desk."""

    def __init__(self, presenter: RunLookup) -> None:
        self._presenter = presenter
        self._working = LongWork()

    def verify(self, run_name: str, selected: str, layout: str = "") -> Iterator[str]:
        """Read every byte of a checkpoint; yields what to show meanwhile, at the end nothing but an error's text."""
        counts = [0, 1]

        def work(item: CheckpointReport, cancelled: Callable[[], bool]) -> str:
            try:
                self._presenter.auditor(layout).verify(item.run, item.name, _keep(counts), cancelled)
            except VerificationCancelled:
                return info_view("Cancelled. Nothing was changed.")
            return ""

        def progress(item: CheckpointReport) -> str:
            return progress_view(counts[0], counts[1], item)

        yield from self._long(run_name, selected, layout, "verified", work, progress)

    def rehearse(self, run_name: str, selected: str, layout: str = "") -> Iterator[str]:
        """Load a checkpoint for trial with the Python that trains; yields what to show, at the end how it went."""
        stages, began = [RehearsalStage.STARTING], time.monotonic()

        def work(item: CheckpointReport, cancelled: Callable[[], bool]) -> str:
            def trial(facts: StateFacts, environment: Environment) -> RehearsalOutcome:
                return rehearse_state(facts, environment, stages.append, cancelled)

            report = self._presenter.auditor(layout).rehearse(item.run, item.name, trial)
            return rehearsed_view(report)

        def progress(item: CheckpointReport) -> str:
            return rehearsing_view(stages[-1], time.monotonic() - began, item)

        yield from self._long(run_name, selected, layout, "rehearsed", work, progress)

    def rehearse_unusual(self, run_name: str, selected: str, layout: str = "") -> Iterator[str]:
        """Rehearse before a resume where nobody has tried the environment's versions; else nothing."""
        try:
            item = self._presenter.checkpoint(self._presenter.run(run_name, layout), selected)
        except (UnknownName, OutputsFolderError):
            return  # the resume itself says so
        if item.verdict.resumes and item.needs_rehearsal:
            yield from self.rehearse(run_name, selected, layout)

    def _long(
        self,
        run_name: str,
        selected: str,
        layout: str,
        what: str,
        work: Callable[[CheckpointReport, Callable[[], bool]], str],
        progress: Callable[[CheckpointReport], str],
    ) -> Iterator[str]:
        """Long work on a checkpoint by its name; ``what`` is done to it, in words."""
        try:
            item = self._presenter.checkpoint(self._presenter.run(run_name, layout), selected)
        except (UnknownName, OutputsFolderError) as error:
            yield error_view(str(error))
            return

        def guarded(cancelled: Callable[[], bool]) -> str:
            try:
                return work(item, cancelled)
            except (UnknownName, OutputsFolderError, OSError) as error:
                return error_view(f"Not {what}: {error}")

        busy = info_view(f"{title(item)} is being {what} already.")
        yield from self._working.run((run_name, selected), guarded, lambda: progress(item), busy)

    def cancel(self, run_name: str, selected: str) -> None:
        """Stop the long work on a checkpoint, if there is any."""
        self._working.cancel((run_name, selected))


def _keep(counts: list[int]) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        counts[:] = (done, total)

    return report
