"""What the page's helpers need of the presenter: the runs and checkpoints by the names that the page shows."""

from __future__ import annotations

from typing import Protocol

from checkpoint_core.audit import Auditor, CheckpointReport, RunReport
from checkpoint_core.tab.page_names import PageName


class RunLookup(Protocol):
    """A presenter, as far as names go; :class:`checkpoint_core.tab.presenter.TabPresenter` says what each raises."""

    def auditor(self, layout: str = "") -> Auditor:
        """The auditor for a layout."""
        ...

    def run(self, name: PageName, layout: str = "") -> RunReport:
        """A run by the name that the page shows."""
        ...

    def checkpoint(self, run: RunReport, name: PageName) -> CheckpointReport:
        """A checkpoint by the name that the page shows."""
        ...
