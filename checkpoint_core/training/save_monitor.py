"""Looks at each new save once it has settled, reads every byte of it, and writes down what it was.

The manifest beside the states later tells damage of the disk from corruption while saving.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from checkpoint_core.audit import (
    Auditor,
    CheckpointReport,
    RunReport,
    Severity,
    Subject,
    UnknownName,
    Verdict,
    make_manifest,
    note,
    title,
    write_manifest,
)
from checkpoint_core.states import VerificationCancelled


@dataclass(frozen=True)
class Checked:
    """One save that was fully verified.

    ``trouble`` says in words what is wrong with it, empty if nothing; ``note`` what else there is to know.
    """

    name: str
    title: str
    trouble: str
    #: Whether training can go on from it, as it is or after a repair that keeps the training.
    is_good: bool
    note: str = ""


class SaveMonitor:
    """What was saved in one run since the watch began.

    :param auditor: judges the run; while a training goes on, by the clock as it is.
    """

    def __init__(self, auditor: Auditor, run: str) -> None:
        self._auditor, self._run = auditor, run
        self.remember()

    def remember(self) -> None:
        """Take what there is now for known: nothing of it is a new save."""
        run = self._auditor.audit_run(self._run)
        self._known = {item.name: item.facts.files for item in run.checkpoints}

    def look(self, cancelled: Callable[[], bool] = lambda: False, settled: bool = False) -> list[Checked]:
        """Check what is new and finished; the oldest first.

        :param cancelled: asked while a state is read; what is left is checked the next time.
        :param settled: nothing writes any more, so that what is unfinished now stays so.
        """
        auditor = self._auditor if not settled else settled_auditor(self._auditor)
        run = auditor.audit_run(self._run)
        checked = []
        for item in reversed(run.checkpoints):
            if item.verdict is Verdict.SAVING or self._known.get(item.name) == item.facts.files:
                continue
            try:
                now = auditor.verify(self._run, item.name, cancelled=cancelled)
            except VerificationCancelled:
                break
            except UnknownName:  # the trainer's own retention has just removed it
                continue
            self._known[item.name] = item.facts.files
            if now.facts.files != item.facts.files:
                continue  # it is being written after all: the next look finds it new
            is_new = now.facts.manifest is None
            if is_new:
                self._write_down(run, now)
            told = _checked(now)
            # A save that was checked before and changed since is told only if that did it harm.
            checked += [told] if is_new or told.trouble else []
        return checked

    def _write_down(self, run: RunReport, item: CheckpointReport) -> None:
        with contextlib.suppress(OSError):  # a full disk: the check itself was made, and is told
            write_manifest(run.facts.path, make_manifest(item))


def settled_auditor(auditor: Auditor) -> Auditor:
    """An auditor that knows that nobody writes any more: what was saved a second ago is not taken for a save going on.

    It looks from two minutes later, which is beyond what counts as recent (``inspection.RECENT_NS``).
    """
    return auditor.at_later_time(120_000_000_000)


def _checked(item: CheckpointReport) -> Checked:
    good = item.verdict.resumes or item.verdict is Verdict.NEEDS_FIX
    own = (found for found in item.findings if found.subject is Subject.STATE)
    known = next((found.message for found in own if found.severity is not Severity.INFO), "")
    return Checked(item.name, title(item), "" if good else note(item), good, known if good else "")
