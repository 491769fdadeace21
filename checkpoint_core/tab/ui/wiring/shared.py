"""What every handler is given, and the steps that several events share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.events import Dependency

from checkpoint_core.tab.host.gym import Gym
from checkpoint_core.tab.page_names import NOTHING, PageName
from checkpoint_core.tab.presenter import TabPresenter
from checkpoint_core.tab.session import PageSession
from checkpoint_core.tab.ui.compat import QUIET, UNLISTED
from checkpoint_core.tab.ui.components import Page
from checkpoint_core.tab.ui.updates import Updates, run_updates, training_updates
from checkpoint_core.tab.views.assets import ASKED


@dataclass(frozen=True)
class Tab:
    """One built tab: who answers, what is on the page, and FluxGym's own components where they were found."""

    presenter: TabPresenter
    page: Page
    gym: Gym | None


def show(
    tab: Tab, session: PageSession, picked: PageName | None, *, again: bool = False, **chosen: Any
) -> Updates:
    """The run after what was chosen: ``run``, ``selected``, ``sort``, ``layout``, ``choices``.

    :param again: send all of it, whether it differs or not.
    """
    with session.turn:
        session.pick(chosen.pop("run", session.run or picked or NOTHING))
        for name, value in chosen.items():
            setattr(session, name, value)
        view, before = session.look(tab.presenter)
        updates = run_updates(tab.page, view, before, again=again)
        if view.headline != (before.headline if before else ""):
            updates.update(_relabelled(tab, session))
        return updates


def _relabelled(tab: Tab, session: PageSession) -> Updates:
    """The picker, whose labels say how each run stands, in step with the headline."""
    choices = tab.presenter.choices()
    if session.listed in (None, choices) or not session.run:
        return {}
    session.listed = choices
    return {tab.page.runs: gr.update(choices=choices, value=session.run)}


def look_at_training(tab: Tab, session: PageSession) -> Updates:
    """How the run's training stands."""
    return training_updates(tab.page, *session.look_at_training(tab.presenter))


def then_look_at_training(tab: Tab, *events: Dependency) -> None:
    """After each of the events: how the training of the run stands."""
    for event in events:
        event.then(partial(look_at_training, tab), tab.page.session, tab.page.training_parts, **QUIET)


def then_go_to_question(*events: Dependency) -> None:
    """After each of the events: bring what it asks into view."""
    for event in events:
        event.then(None, None, None, js=ASKED, **UNLISTED)


def value_of(message: str) -> str:
    """What the page's script wrote into a hidden text box.

    It puts a counter before the value: the same row can be pressed twice, and Gradio 5 may tell one change twice.
    """
    return message.partition("|")[2]
