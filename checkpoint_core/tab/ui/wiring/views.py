"""Everything that shows and changes nothing: the runs, their checkpoints, what is selected and how it is sorted."""

from __future__ import annotations

from functools import partial

from checkpoint_core.recovery import Choices
from checkpoint_core.tab.interpreter_picker import InterpreterView
from checkpoint_core.tab.page_names import NOTHING, PageName, received
from checkpoint_core.tab.session import PageSession
from checkpoint_core.tab.ui.compat import QUIET
from checkpoint_core.tab.ui.updates import (
    Updates,
    interpreter_updates,
    message_updates,
    picker_updates,
    unchanged,
)
from checkpoint_core.tab.ui.wiring.shared import Tab, show, then_look_at_training, value_of
from checkpoint_core.tab.views.table import DEFAULT_SORT


def wire(tab: Tab) -> None:
    """Connect what only shows."""
    page = tab.page
    known = [page.interpreters, *page.who]
    interpreters = [page.interpreters, page.interpreter, page.environment]
    refreshed = [*page.message_parts, page.receipt, *interpreters, *page.shown_parts]
    picked = [*page.message_parts, page.receipt, page.progress, *page.shown_parts]
    then_look_at_training(
        tab,
        page.refresh.click(partial(refresh, tab), known, refreshed, **QUIET),
        page.poll.click(partial(refresh, tab), known, refreshed, **QUIET),
        # `input`, not `change`: a refresh that sets the same value again must not start everything anew.
        page.runs.input(partial(pick_run, tab), page.who, picked, **QUIET),
    )
    page.layout.input(partial(set_layout, tab), [page.layout, *page.who], page.shown_parts, **QUIET)
    boxes = (page.epoch_in, page.epochs, page.skip)
    for box in boxes:
        # `change`: Gradio may tell an input before the number has its new value; nothing else sets these.
        box.change(partial(set_choices, tab), [*boxes, *page.who], page.shown_parts, **QUIET)
    page.selected_box.change(partial(select, tab), [page.selected_box, *page.who], page.shown_parts, **QUIET)
    page.sort_box.change(partial(sort, tab), [page.sort_box, *page.who], page.shown_parts, **QUIET)


def refresh(
    tab: Tab, interpreters: InterpreterView | None, session: PageSession, run: PageName | None
) -> Updates:
    """What is on the disk now; the run that is shown stays while it is there."""
    choices = tab.presenter.choices()
    with session.turn:
        kept = session.keep([name for _, name in choices], run or NOTHING)
        listed, session.listed = session.listed, choices
        return {
            **picker_updates(tab.page, choices, listed, kept, run or NOTHING),
            **interpreter_updates(tab.page, tab.presenter.python.show(), interpreters),
            **show(tab, session, kept),
        }


def pick_run(tab: Tab, session: PageSession, run: PageName | None) -> Updates:
    """Another run; what was said about the one before goes."""
    # Gradio's picker tells one choice twice: the second may come after the user has gone on.
    if run == session.run:
        return unchanged(tab.page.headline)
    silence = {**message_updates(tab.page, ""), tab.page.receipt: None, tab.page.progress: ""}
    return {**silence, **show(tab, session, run, run=run or NOTHING)}


def select(tab: Tab, message: str, session: PageSession, run: PageName | None) -> Updates:
    """Another checkpoint of the run."""
    return show(tab, session, run, selected=received(value_of(message)))


def sort(tab: Tab, message: str, session: PageSession, run: PageName | None) -> Updates:
    """The table by another column, or the other way round."""
    return show(tab, session, run, sort=value_of(message) or DEFAULT_SORT)


def set_layout(tab: Tab, layout: str, session: PageSession, run: PageName | None) -> Updates:
    """By which files checkpoints are judged."""
    return show(tab, session, run, layout=layout)


def set_choices(
    tab: Tab,
    epoch_in_state: bool,
    epochs: float | None,
    skip: bool,
    session: PageSession,
    run: PageName | None,
) -> Updates:
    """How a repair is to be made."""
    return show(tab, session, run, choices=Choices.of(epoch_in_state, epochs, skip))
