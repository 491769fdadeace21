"""What a handler sends back: new values by component. What is not named stays as it is on the page.

Gradio takes such a dict as a handler's result on 4.44.1, 5.x and 6.x; an empty one it takes for a value, so that
:func:`unchanged` stands where nothing differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.blocks import Block

from checkpoint_core.tab.interpreter_picker import InterpreterView
from checkpoint_core.tab.page_names import PageName
from checkpoint_core.tab.presenter import RunView
from checkpoint_core.tab.results import ActionResult, Written
from checkpoint_core.tab.training_presenter import TrainingView
from checkpoint_core.tab.ui.components import Page
from checkpoint_core.tab.views.actions import error_view

Updates = dict[Block, Any]


def unchanged(component: Block) -> Updates:
    """No update at all, said by one of the event's outputs."""
    return {component: gr.skip()}


def visible(is_visible: bool) -> Any:
    """A component shown or hidden."""
    return gr.update(visible=is_visible)


def enabled(is_enabled: bool) -> Any:
    """A button that can be pressed or not."""
    return gr.update(interactive=is_enabled)


def message_updates(
    page: Page, message: str, *, undo: bool = False, fresh: bool = False, question: bool = False
) -> Updates:
    """What is said below the buttons, as HTML, and which buttons answer it; of ``page.message_parts``."""
    return {
        page.result: message,
        page.undo: visible(undo),
        page.confirm_fresh: visible(fresh),
        page.confirm: visible(question),
        page.decline: visible(fresh or question),
    }


def result_updates(page: Page, result: ActionResult) -> Updates:
    """What a press did that may have changed the script, and what can take it back."""
    has_undo, has_question = result.receipt is not None, result.question is not None
    return {
        **message_updates(page, result.message, undo=has_undo, question=has_question),
        page.receipt: result.receipt,
        page.written: Written(result.state_path, result.is_undo) if result.written else None,
    }


def picker_updates(
    page: Page, choices: list[tuple[str, PageName]], listed: Any, run: PageName, picked: PageName
) -> Updates:
    """The runs to pick from, and the one that is shown; a message about another run goes.

    :param listed: the choices that the page has already.
    :param picked: what its picker holds.
    """
    if run != picked:
        picker = gr.update(choices=choices, value=run or None)
        return {page.runs: picker, page.receipt: None, **message_updates(page, "")}
    # An unchanged list is not sent again: it would close the picker under the user's hand.
    same = choices == listed
    picker = gr.skip() if same else gr.update(choices=choices, value=run or None)
    return {page.runs: picker}


def interpreter_updates(page: Page, now: InterpreterView, before: InterpreterView | None) -> Updates:
    """Which Python trains, and which could."""
    if now == before:
        return unchanged(page.interpreter)
    return {
        page.interpreters: now,
        page.interpreter: gr.update(choices=now.choices, value=now.chosen),
        page.environment: now.environment,
    }


def run_updates(page: Page, view: RunView, before: RunView | None = None, *, again: bool = False) -> Updates:
    """A run, of ``page.run_parts``; nothing at all where nothing differs, so that a refresh moves nothing.

    :param again: send it whether it differs or not; what the user ticked or closed stays all the same.
    """
    if view == before and not again:
        return unchanged(page.headline)
    return {
        page.headline: view.headline,
        page.table: view.table,
        page.recovery: view.options,
        page.panel: view.panel,
        page.preview: view.preview,
        page.refusal: error_view(view.refusal) if view.refusal else "",
        page.repair: visible(view.repair_plan is not None),
        page.resume_now: enabled(view.resumes),
        page.resume: enabled(view.resumes),
        page.rehearse: enabled(bool(view.selected)),
        page.verify: enabled(bool(view.selected)),
        page.fresh: enabled(bool(view.run)),
        page.download: enabled(bool(view.run)),
        **_disk_updates(page, view, before),
    }


def _disk_updates(page: Page, view: RunView, before: RunView | None) -> Updates:
    """The disk; what is ticked stays while it is offered, and what the user closed stays closed."""
    choices, same_run = list(view.disk.choices), before is not None and before.run == view.run
    updates: Updates = {page.disk: view.disk.view, page.remove: visible(bool(choices))}
    if before is None or not same_run or before.disk.choices != view.disk.choices:
        offered = {name for _, name in choices}
        known = before.disk.choices if before is not None and same_run else ()
        # A refresh that only adds or rewords must not take a tick away under the user's hand.
        keeps = bool(known) and offered.issuperset(name for _, name in known)
        cleared: Updates = {page.removable: gr.update(choices=choices, value=[], visible=bool(choices))}
        kept: Updates = {page.removable: gr.update(choices=choices, visible=True)}
        updates |= kept if keeps else cleared
    was_tight = before is not None and same_run and before.disk.is_tight
    if view.disk.is_tight and not was_tight:
        updates[page.disk_part] = gr.update(open=True)
    return updates


def training_updates(page: Page, now: TrainingView, before: TrainingView | None) -> Updates:
    """A training, of ``page.training_parts``; each only where it differs, so that an open log stays where it is."""
    shown: list[tuple[Block, str, Callable[[Any], Any]]] = [
        (page.training, "training", str),
        (page.log_part, "has_trace", visible),
        (page.log, "log", str),
        (page.journal_part, "has_trace", visible),
        (page.journal, "journal", str),
        (page.start, "can_start", visible),
        (page.stop, "can_stop", visible),
        (page.retry, "can_retry", visible),
        (page.watch, "can_watch", visible),
        (page.restart, "bring_back", lambda value: gr.update(value=value)),
    ]
    changed = {
        part: update(getattr(now, name))
        for part, name, update in shown
        if before is None or getattr(before, name) != getattr(now, name)
    }
    return changed or unchanged(page.training)
