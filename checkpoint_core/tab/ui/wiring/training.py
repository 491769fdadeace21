"""Trainings: seen while they run, started, watched, stopped; and room made for their saves."""

from __future__ import annotations

from functools import partial

from checkpoint_core.tab.page_names import PageName
from checkpoint_core.tab.results import ActionResult
from checkpoint_core.tab.session import PageSession
from checkpoint_core.tab.ui.compat import QUIET, UNLISTED
from checkpoint_core.tab.ui.components import Page
from checkpoint_core.tab.ui.updates import Updates, message_updates
from checkpoint_core.tab.ui.wiring.shared import (
    Tab,
    look_at_training,
    then_go_to_question,
    then_look_at_training,
)


def wire(tab: Tab) -> None:
    """Connect what starts, watches and stops a training."""
    page = tab.page
    asked, restart = [*page.message_parts, page.question], [page.restart, page.session]
    page.live.click(partial(look_at_training, tab), page.session, page.training_parts, **QUIET)
    page.restart.input(partial(set_restart, tab), restart, None, **QUIET)
    events = (
        page.start.click(partial(start, tab), restart, asked, **UNLISTED),
        page.watch.click(partial(watch, tab), restart, asked, **UNLISTED),
        page.retry.click(partial(retry, tab), page.session, asked, **UNLISTED),
        page.stop.click(partial(ask_stop, tab), page.session, asked, **UNLISTED),
        page.remove.click(partial(ask_remove, tab), [page.removable, page.session], asked, **UNLISTED),
    )
    then_look_at_training(tab, *events)
    then_go_to_question(*events)


def start(tab: Tab, restart: bool, session: PageSession) -> Updates:
    """Start the run's training."""
    return _said(tab.page, tab.presenter.training.start(session.run, restart))


def watch(tab: Tab, restart: bool, session: PageSession) -> Updates:
    """Watch a training that somebody else started."""
    return _said(tab.page, tab.presenter.training.watch(session.run, restart))


def retry(tab: Tab, session: PageSession) -> Updates:
    """Let a crashed training that waits begin at once."""
    return _said(tab.page, tab.presenter.training.retry(session.run))


def ask_stop(tab: Tab, session: PageSession) -> Updates:
    """Ask before the training is stopped."""
    return _said(tab.page, tab.presenter.training.ask_stop(session.run))


def ask_remove(tab: Tab, names: list[PageName] | None, session: PageSession) -> Updates:
    """Ask before the ticked checkpoints are removed."""
    return _said(tab.page, tab.presenter.training.ask_remove(session.run, names or [], session.layout))


def set_restart(tab: Tab, wanted: bool, session: PageSession) -> None:
    """Whether a training that crashes is started again."""
    tab.presenter.training.set_bring_back(session.run, wanted)


def _said(page: Page, result: ActionResult) -> Updates:
    has_question = result.question is not None
    return {**message_updates(page, result.message, question=has_question), page.question: result.question}
