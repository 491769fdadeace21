"""Which Python trains, and the diagnosis to take away."""

from __future__ import annotations

from functools import partial

import gradio as gr

from checkpoint_core.tab.page_names import NOTHING, PageName
from checkpoint_core.tab.session import PageSession
from checkpoint_core.tab.ui.compat import QUIET, UNLISTED
from checkpoint_core.tab.ui.updates import Updates
from checkpoint_core.tab.ui.wiring.api import telling
from checkpoint_core.tab.ui.wiring.shared import Tab, show
from checkpoint_core.tab.views.assets import DOWNLOAD


def wire(tab: Tab) -> None:
    """Connect the picker of the training interpreter, and the download."""
    page = tab.page
    chosen = page.interpreter.input(
        partial(choose_interpreter, tab), page.interpreter, page.environment, **UNLISTED
    )
    chosen.then(partial(show, tab), page.who, page.shown_parts, **QUIET)
    made = page.download.click(telling(partial(make_diagnosis, tab)), page.who, page.report, **UNLISTED)
    made.then(None, page.report, None, js=DOWNLOAD, **UNLISTED)


def choose_interpreter(tab: Tab, value: PageName) -> Updates:
    """Keep which Python trains, of those that this machine names."""
    return {tab.page.environment: tab.presenter.python.choose(value)}


def make_diagnosis(tab: Tab, session: PageSession, run: PageName | None) -> Updates:
    """Make the zip of a run's diagnosis."""
    path = tab.presenter.diagnosis_file(session.run or run or NOTHING, session.layout)
    return {tab.page.report: gr.update(value=str(path), visible=True)}
