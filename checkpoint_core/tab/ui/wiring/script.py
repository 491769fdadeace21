"""Everything that changes a script or a checkpoint: resume, repair, start fresh, undo, and the answers to questions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from gradio.events import Dependency

from checkpoint_core.tab.page_names import NOTHING, PageName
from checkpoint_core.tab.results import ActionResult
from checkpoint_core.tab.session import PageSession
from checkpoint_core.tab.ui.compat import QUIET, UNLISTED
from checkpoint_core.tab.ui.updates import Updates, message_updates, result_updates
from checkpoint_core.tab.ui.wiring import host
from checkpoint_core.tab.ui.wiring.long_work import follow, followed
from checkpoint_core.tab.ui.wiring.shared import (
    Tab,
    show,
    then_go_to_question,
    then_look_at_training,
    value_of,
)
from checkpoint_core.tab.views.actions import info_view


def wire(tab: Tab) -> None:
    """Connect what changes a run."""
    page = tab.page
    page.fresh.click(partial(ask_fresh, tab), page.who, [*page.message_parts, page.fresh_change], **UNLISTED)
    page.decline.click(partial(decline, tab), page.receipt, page.message_parts, **UNLISTED)
    asked = [*page.message_parts, page.question]
    then_go_to_question(
        page.option_box.change(partial(ask_option, tab), [page.option_box, *page.who], asked, **QUIET)
    )
    events = _wire_changes(tab)
    then_look_at_training(tab, *events)
    if tab.gym is not None and tab.gym.is_connected:
        host.wire(tab, tab.gym, events)


def _wire_changes(tab: Tab) -> tuple[Dependency, ...]:
    page, who = tab.page, tab.page.who
    changed = [*page.message_parts, page.receipt, page.written, *page.shown_parts]
    changed_or_asked = [*changed, page.question]
    # Versions that nobody has tried are tried first; what that shows decides with the rest.
    tried = page.resume.click(partial(try_first, tab), *followed(page), **UNLISTED)
    tried_now = page.resume_now.click(partial(try_first, tab), *followed(page), **UNLISTED)
    return (
        tried.then(partial(resume, tab), who, changed, **QUIET),
        tried_now.then(partial(resume_now, tab), [page.restart, *who], changed_or_asked, **QUIET),
        page.repair.click(partial(repair, tab), who, changed, **UNLISTED),
        page.confirm.click(partial(answer, tab), [page.question, *who], changed_or_asked, **UNLISTED),
        page.confirm_fresh.click(partial(start_fresh, tab), [page.fresh_change, *who], changed, **UNLISTED),
        page.undo.click(partial(undo, tab), [page.receipt, *who], changed, **UNLISTED),
    )


def try_first(tab: Tab, session: PageSession, run: PageName | None) -> Iterator[Updates]:
    """Rehearse where that is needed before a resume."""
    # What was shown when the button was pressed is what is written, wherever the user goes meanwhile.
    session.pressed = session.shown
    yield from follow(tab.presenter.background.rehearse_unusual, tab.page, session, run)


def resume(tab: Tab, session: PageSession, run: PageName | None) -> Updates:
    """Write what was shown into the script."""
    return _changed(tab, tab.presenter.resume_shown(session.pressed, session.layout), session, run)


def resume_now(tab: Tab, restart: bool, session: PageSession, run: PageName | None) -> Updates:
    """Write what was shown into the script, and start the training."""
    result = tab.presenter.resume_now(session.pressed, session.layout, restart)
    return {**_changed(tab, result, session, run), tab.page.question: result.question}


def repair(tab: Tab, session: PageSession, run: PageName | None) -> Updates:
    """Carry out the repair that was shown."""
    return _changed(tab, tab.presenter.repair_shown(session.shown, session.layout), session, run)


def start_fresh(tab: Tab, change: Any, session: PageSession, run: PageName | None) -> Updates:
    """Remove ``--resume`` as it was shown."""
    return _changed(tab, tab.presenter.start_fresh(session.run, change), session, run)


def undo(tab: Tab, receipt: Any, session: PageSession, run: PageName | None) -> Updates:
    """Bring back what the last press changed."""
    return _changed(tab, tab.presenter.undo(session.run, receipt), session, run)


def answer(tab: Tab, question: Any, session: PageSession, run: PageName | None) -> Updates:
    """Do what was asked."""
    result = tab.presenter.answer(session.run, question)
    return {**_changed(tab, result, session, run), tab.page.question: result.question}


def _changed(tab: Tab, result: ActionResult, session: PageSession, run: PageName | None) -> Updates:
    """What a press did, and the run as it is now."""
    return {**result_updates(tab.page, result), **show(tab, session, run, again=True)}


def ask_fresh(tab: Tab, session: PageSession, run: PageName | None) -> Updates:
    """What “Start fresh” would change."""
    message, change = tab.presenter.preview_fresh(session.run or run or NOTHING)
    return {
        **message_updates(tab.page, message, fresh=change is not None),
        tab.page.fresh_change: change,
    }


def decline(tab: Tab, receipt: Any) -> Updates:
    """Take the question away; nothing was done, and what was done before can still be taken back."""
    kept = "Nothing more was changed. “Undo” takes back what was done before." if receipt else ""
    return message_updates(tab.page, info_view(kept) if kept else "", undo=bool(receipt))


def ask_option(tab: Tab, message: str, session: PageSession, run: PageName | None) -> Updates:
    """What a recovery option would change."""
    said, question = tab.presenter.repairs.ask(
        session.run or run or NOTHING, session.selected, value_of(message), session.layout, session.choices
    )
    return {
        **message_updates(tab.page, said, question=question is not None),
        tab.page.question: question,
    }
