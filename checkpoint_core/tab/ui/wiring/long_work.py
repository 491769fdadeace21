"""What takes its time, with progress and cancel. The user may go on to other checkpoints meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import gradio as gr
from gradio.blocks import Block

from checkpoint_core.tab.page_names import NOTHING, PageName
from checkpoint_core.tab.session import PageSession
from checkpoint_core.tab.ui.compat import QUIET, UNLISTED
from checkpoint_core.tab.ui.components import Page
from checkpoint_core.tab.ui.updates import Updates, visible
from checkpoint_core.tab.ui.wiring.shared import Tab, show

#: Takes the names of a run and of a checkpoint and the layout; yields what to show meanwhile, as HTML.
Work = Callable[[PageName, PageName, str], Iterator[str]]


def wire(tab: Tab) -> None:
    """Connect what reads or loads a whole checkpoint."""
    _wire_work(tab, tab.page.verify, tab.presenter.background.verify)
    _wire_work(tab, tab.page.rehearse, tab.presenter.background.rehearse)
    tab.page.cancel.click(partial(cancel, tab), tab.page.working, None, **UNLISTED)


def _wire_work(tab: Tab, button: gr.Button, work: Work) -> None:
    page = tab.page
    done = button.click(partial(follow, work, page), *followed(page), concurrency_limit=4, **QUIET)
    # A step of its own, so that it shows what is selected when the work ends, not when it began.
    done.then(partial(show, tab), page.who, page.shown_parts, **QUIET)


def followed(page: Page) -> tuple[list[Block], list[Block]]:
    """Inputs and outputs of :func:`follow`."""
    return page.who, [page.progress, page.cancel, page.working]


def follow(work: Work, page: Page, session: PageSession, picked: PageName | None) -> Iterator[Updates]:
    """Do long work on the selected checkpoint, and show how far it is."""
    told, about = "", (session.run or picked or NOTHING, session.selected)
    for told in work(*about, session.layout):
        yield {page.progress: told, page.cancel: visible(True), page.working: about}
    yield {page.progress: told, page.cancel: visible(False), page.working: None}


def cancel(tab: Tab, about: tuple[PageName, PageName] | None) -> None:
    """Ask the work under way to stop."""
    if about:
        tab.presenter.background.cancel(*about)
