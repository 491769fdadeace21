"""What one open page has chosen and is shown, in one place, so that its events cannot undo each other.

A page's events overlap: the quiet refresh every ten seconds may be asked before the user presses a row, and answered
after it. Were the choice carried in each event, the late answer would bring the old one back.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from checkpoint_core.recovery import Choices
from checkpoint_core.tab.page_names import NOTHING, PageName
from checkpoint_core.tab.presenter import RunView, TabPresenter
from checkpoint_core.tab.training_presenter import TrainingView
from checkpoint_core.tab.views.table import DEFAULT_SORT


class PageSession:
    """One page's place on the page; its handlers take turns, and each sees the newest choice.

    ``run`` and ``selected`` are names as the page shows them, ``shown`` is what it was sent last, ``pressed`` what it
    showed when “Resume” was pressed, ``listed`` are the picker's choices.
    """

    def __init__(self) -> None:
        self.run, self.selected = NOTHING, NOTHING
        self.sort, self.layout = DEFAULT_SORT, "auto"
        self.choices = Choices()
        self.shown: RunView | None = None
        self.pressed: RunView | None = None
        self.listed: list[tuple[str, PageName]] | None = None
        self.training: tuple[PageName, TrainingView] | None = None
        self.turn = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> PageSession:
        # Gradio copies a State's first value for each page that is opened; each gets a session of its own.
        return PageSession()

    def pick(self, run: PageName) -> None:
        """Another run, of which nothing is selected yet; the same again changes nothing."""
        with self.turn:
            if run != self.run:
                self.run, self.selected = run, NOTHING

    def keep(self, names: Sequence[PageName], picked: PageName) -> PageName:
        """The run to show, of those that there are: the chosen one, else what the picker holds, else the first."""
        with self.turn:
            wanted = next((name for name in (self.run, picked) if name in names), next(iter(names), NOTHING))
            self.pick(wanted)
            return wanted

    def look_at_training(self, presenter: TabPresenter) -> tuple[TrainingView, TrainingView | None]:
        """How the run's training stands now, and what of it was shown before; ``None`` for another run."""
        with self.turn:
            before = self.training[1] if self.training and self.training[0] == self.run else None
            self.training = (self.run, presenter.training.show(self.run))
            return self.training[1], before

    def look(self, presenter: TabPresenter) -> tuple[RunView, RunView | None]:
        """What there is to show now, and what was shown before."""
        with self.turn:
            before = self.shown
            self.shown = presenter.show(self.run, self.selected, self.sort, self.layout, self.choices)
            self.selected = self.shown.selected
            return self.shown, before
