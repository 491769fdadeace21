"""What a handler sends back: only what differs, and only to what its event may change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from checkpoint_core.tab.interpreter_picker import InterpreterView
from checkpoint_core.tab.page_names import PageName
from checkpoint_core.tab.presenter import RunView
from checkpoint_core.tab.results import ActionResult, Written
from checkpoint_core.tab.training_presenter import DiskView, TrainingView
from checkpoint_core.tab.ui.components import Page
from checkpoint_core.tab.ui.updates import (
    Updates,
    interpreter_updates,
    message_updates,
    picker_updates,
    result_updates,
    run_updates,
    training_updates,
)

DISK = DiskView("<p>9 GB</p>", (("Epoch 1", "one"),))
VIEW = RunView("run", "headline", "table", selected="one", resumes=True, disk=DISK)
TIGHT = replace(VIEW, disk=replace(DISK, is_tight=True))
TRAINING = TrainingView("<p>epoch 3</p>", "log", "journal", has_trace=True, can_stop=True)
CHOICES = [("Run a (2 checkpoints)", "a"), ("Run b", "b")]


def values(updates: Updates) -> list[object]:
    """The updates that change anything; there must be one at all, or Gradio takes the dict for a value."""
    assert updates
    return [value for value in updates.values() if value != gr.skip()]


def test_a_first_look_fills_all_that_shows_a_run(page: Page) -> None:
    assert set(run_updates(page, TIGHT)) == set(page.run_parts)
    assert set(training_updates(page, TRAINING, None)) == set(page.training_parts)
    assert set(message_updates(page, "done")) == set(page.message_parts)


def test_where_nothing_differs_nothing_is_sent(page: Page) -> None:
    view = InterpreterView([("Automatic", "")], "", "Python 3.11")

    assert values(run_updates(page, VIEW, VIEW)) == []
    assert values(training_updates(page, TRAINING, TRAINING)) == []
    assert values(interpreter_updates(page, view, view)) == []


def test_of_a_training_only_what_differs_is_sent(page: Page) -> None:
    now = replace(TRAINING, log="log, longer", can_watch=True)

    assert training_updates(page, now, TRAINING) == {
        page.log: "log, longer",
        page.watch: gr.update(visible=True),
    }


def test_what_is_ticked_stays_while_the_choice_is_the_same(page: Page) -> None:
    selected = replace(VIEW, selected="two")

    assert page.removable not in run_updates(page, selected, VIEW)
    assert run_updates(page, replace(selected, run="other"), VIEW)[page.removable]["value"] == []
    more = replace(selected, disk=replace(DISK, choices=()))
    assert run_updates(page, more, VIEW)[page.removable] == gr.update(choices=[], value=[], visible=False)


def test_what_is_ticked_stays_when_another_choice_comes_or_all_is_sent_again(page: Page) -> None:
    assert page.removable not in run_updates(page, VIEW, VIEW, again=True)
    added = [*DISK.choices, ("another", PageName("another"))]
    sent = run_updates(page, replace(VIEW, disk=replace(DISK, choices=tuple(added))), VIEW)[page.removable]
    assert sent == gr.update(choices=added, visible=True)


def test_the_disk_is_opened_when_it_becomes_tight_and_not_again(page: Page) -> None:
    assert run_updates(page, TIGHT, VIEW)[page.disk_part] == gr.update(open=True)
    assert page.disk_part not in run_updates(page, replace(TIGHT, selected="two"), TIGHT)
    assert run_updates(page, replace(TIGHT, run="other"), TIGHT)[page.disk_part] == gr.update(open=True)


def test_an_open_picker_is_left_alone_and_another_run_silences_the_page(page: Page) -> None:
    assert values(picker_updates(page, CHOICES, CHOICES, "a", "a")) == []
    assert picker_updates(page, CHOICES, None, "a", "a")[page.runs] == gr.update(choices=CHOICES, value="a")
    other = picker_updates(page, CHOICES, CHOICES, "b", "a")
    assert other[page.runs] == gr.update(choices=CHOICES, value="b")
    assert other[page.result] == ""


@pytest.mark.parametrize(
    ("result", "token"),
    [
        (ActionResult("no"), None),
        (ActionResult("fresh", written=True), Written()),
        (ActionResult("resumed", state_path=Path("state"), written=True), Written(Path("state"))),
        (ActionResult("undone", written=True, is_undo=True), Written(is_undo=True)),
    ],
    ids=["nothing written", "--resume removed", "--resume set", "reverted"],
)
def test_what_the_gym_tab_is_told(page: Page, result: ActionResult, token: Written | None) -> None:
    assert result_updates(page, result)[page.written] == token


def test_a_question_and_an_undo_bring_their_buttons(page: Page) -> None:
    shown = {
        part: update["visible"]
        for part, update in message_updates(page, "sure?", undo=True, question=True).items()
        if part is not page.result
    }

    assert shown == {page.undo: True, page.confirm_fresh: False, page.confirm: True, page.decline: True}
