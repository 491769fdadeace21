"""What takes longer than a click with a checkpoint: every byte read, a resume rehearsed; with progress and cancel.

Each is done in a thread of its own, one of a kind at a time; however it ends, the page is told.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from checkpoint_core.audit import CheckpointReport, UnknownName, title
from checkpoint_core.environment import Environment, RehearsalOutcome, RehearsalStage, rehearse_state
from checkpoint_core.states import OutputsFolderError, StateFacts, VerificationCancelled
from checkpoint_core.tab.lookup import RunLookup
from checkpoint_core.tab.page_names import PageName
from checkpoint_core.tab.views.actions import (
    error_view,
    failed_view,
    info_view,
    progress_view,
    rehearsed_view,
    rehearsing_view,
)

#: Takes a function that tells whether to stop; returns what to show at the end, as HTML.
Work = Callable[[Callable[[], bool]], str]

_PROGRESS_SECONDS = 0.25
_logger = logging.getLogger(__name__)


class BackgroundTasks:
    """The long work under way for one outputs folder; safe to use from several threads."""

    def __init__(self, lookup: RunLookup) -> None:
        self._lookup = lookup
        self._running: dict[tuple[PageName, PageName], threading.Event] = {}

    def verify(self, run_name: PageName, selected: PageName, layout: str = "") -> Iterator[str]:
        """Read every byte of a checkpoint; yields what to show meanwhile, at the end nothing but an error's text."""
        counts = [0, 1]

        def work(item: CheckpointReport, cancelled: Callable[[], bool]) -> str:
            try:
                self._lookup.auditor(layout).verify(item.run, item.name, _keep(counts), cancelled)
            except VerificationCancelled:
                return info_view("Cancelled. Nothing was changed.")
            return ""

        def progress(item: CheckpointReport) -> str:
            return progress_view(counts[0], counts[1], item)

        yield from self._on_checkpoint(run_name, selected, layout, "verified", work, progress)

    def rehearse(self, run_name: PageName, selected: PageName, layout: str = "") -> Iterator[str]:
        """Load a checkpoint as a test with the training interpreter; yields what to show, at the end how it went."""
        stages, began = [RehearsalStage.STARTING], time.monotonic()

        def work(item: CheckpointReport, cancelled: Callable[[], bool]) -> str:
            def trial(facts: StateFacts, environment: Environment) -> RehearsalOutcome:
                return rehearse_state(facts, environment, stages.append, cancelled)

            report = self._lookup.auditor(layout).rehearse(item.run, item.name, trial)
            return rehearsed_view(report)

        def progress(item: CheckpointReport) -> str:
            return rehearsing_view(stages[-1], time.monotonic() - began, item)

        yield from self._on_checkpoint(run_name, selected, layout, "rehearsed", work, progress)

    def rehearse_unusual(self, run_name: PageName, selected: PageName, layout: str = "") -> Iterator[str]:
        """Rehearse before a resume where nobody has tried the environment's versions; else nothing."""
        try:
            item = self._lookup.checkpoint(self._lookup.run(run_name, layout), selected)
        except (UnknownName, OutputsFolderError):
            return  # the resume itself says so
        if item.verdict.resumes and item.needs_rehearsal:
            yield from self.rehearse(run_name, selected, layout)

    def cancel(self, run_name: PageName, selected: PageName) -> None:
        """Ask the long work on a checkpoint to stop, if there is any."""
        if event := self._running.get((run_name, selected)):
            event.set()

    def _on_checkpoint(
        self,
        run_name: PageName,
        selected: PageName,
        layout: str,
        done: str,
        work: Callable[[CheckpointReport, Callable[[], bool]], str],
        progress: Callable[[CheckpointReport], str],
    ) -> Iterator[str]:
        """Long work on a checkpoint by its name; ``done`` is what happens to it, in words."""
        try:
            item = self._lookup.checkpoint(self._lookup.run(run_name, layout), selected)
        except (UnknownName, OutputsFolderError) as error:
            yield error_view(str(error))
            return
        except Exception as error:
            _logger.exception("%s of %s was not %s", selected, run_name, done)
            yield failed_view(f"The checkpoint was not {done}", error)
            return

        def guarded(cancelled: Callable[[], bool]) -> str:
            try:
                return work(item, cancelled)
            except (UnknownName, OutputsFolderError, OSError) as error:
                return error_view(f"Not {done}: {error}")

        busy = info_view(f"{title(item)} is being {done} already.")
        what = f"{title(item)} was not {done}"
        yield from self.run((run_name, selected), what, guarded, lambda: progress(item), busy)

    def run(
        self, about: tuple[PageName, PageName], unless: str, work: Work, shown: Callable[[], str], busy: str
    ) -> Iterator[str]:
        """Do the work in a thread; yields what to show meanwhile, at the end what the work returned.

        Whatever the work raises ends in a message too, and in the log.

        :param about: the names of run and checkpoint; where it is going on already, only ``busy`` is yielded.
        :param unless: what to say where it could not be done, without the full stop.
        :param shown: the progress so far, as HTML.
        """
        cancel = threading.Event()
        if self._running.setdefault(about, cancel) is not cancel:
            yield busy
            return
        ends: list[str] = []

        def carry_out() -> None:
            try:
                ends.append(work(cancel.is_set))
            except BaseException as error:  # above a thread is nobody who could tell the page
                _logger.exception("%s", unless)
                ends.append(failed_view(unless, error))

        thread = threading.Thread(target=carry_out, name=f"checkpoints-{about}", daemon=True)
        try:
            thread.start()
            while thread.is_alive():
                yield shown()
                thread.join(_PROGRESS_SECONDS)
            yield from ends
        except Exception as error:  # the progress, or a thread that the system refuses
            _logger.exception("%s", unless)
            yield failed_view(unless, error)
        finally:
            cancel.set()  # a browser that goes away ends the work too
            self._running.pop(about, None)


def _keep(counts: list[int]) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        counts[:] = (done, total)

    return report
