"""How a training is shown: status, warnings and numbers; everything that comes from outside is text."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from checkpoint_core.tab.views.training import journal_view, log_view, training_view
from checkpoint_core.training.log.files import JournalLine
from checkpoint_core.training.log.progress import LossHistory, Progress
from checkpoint_core.training.record import ProcessId, ProcessState, TrainingRecord
from checkpoint_core.training.status import Life, TrainingStatus

NOW = 1_800_000_000_000_000_000
RECORD = TrainingRecord(
    ProcessState.RUNNING, socket.gethostname(), started_ns=NOW, since_ns=NOW, bring_back=True
)
RUNNING = TrainingStatus(
    Life.WATCHED,
    RECORD,
    Progress(epoch=3, epochs=16, bar_step=20, bar_total=128, steps_per_epoch=8, seconds_per_step=2.5,
             seconds_left=270.0, loss=0.1234, last_saved="epoch 2"),
    LossHistory(),
    (),
    (),
)  # fmt: skip


def view(status: TrainingStatus) -> str:
    return training_view(status, [("Disk left", "3.0 GB")], [], NOW)


def test_a_run_that_was_never_started_shows_nothing() -> None:
    assert view(TrainingStatus(Life.NONE, None, Progress(), LossHistory(), (), ())) == ""


def test_a_running_one_shows_its_numbers_and_asks_for_more() -> None:
    shown = view(RUNNING)
    for told in ("3 of 16", "20 of 128", "2.50 s a step", "4 min 30 s", "0.1234", "epoch 2", "3.0 GB"):
        assert f"<dd>{told}</dd>" in shown
    assert 'value="156"' in shown
    assert "data-ck-live" in shown
    assert "restarts automatically after a crash" in shown


@pytest.mark.parametrize(
    ("status", "word"),
    [(ProcessState.EXITED, "Finished"), (ProcessState.STOPPED, "Stopped"), (ProcessState.FATAL, "Crashed")],
)
def test_one_that_is_over_says_so_and_asks_for_nothing(status: ProcessState, word: str) -> None:
    record = replace(RECORD, status=status, message="The disk is full.")
    shown = view(replace(RUNNING, life=Life.NONE, record=record))
    assert f">{word}</span>" in shown
    assert "The disk is full." in shown
    assert "data-ck-live" not in shown


def test_a_crashed_one_tells_when_it_is_started_again() -> None:
    record = replace(RECORD, status=ProcessState.BACKOFF, next_try_ns=NOW + 40_000_000_000, attempt=2)
    shown = view(replace(RUNNING, record=record))
    assert "next start in 40 s" in shown
    assert "start 2" in shown


def test_one_that_nobody_watches_and_one_that_is_lost_are_told_apart() -> None:
    unwatched = view(replace(RUNNING, life=Life.UNWATCHED))
    assert "Press “Monitor this training”" in unwatched
    lost = view(replace(RUNNING, life=Life.LOST))
    assert "it and its monitor are gone" in lost
    assert "data-ck-live" not in lost


def test_one_that_others_started_has_no_log_here() -> None:
    foreign = TrainingStatus(Life.UNWATCHED, None, Progress(), LossHistory(), (), (), ProcessId(1, 1.0))
    assert "started outside of this tab" in view(foreign)
    assert "Its output is elsewhere" in log_view(foreign)


def test_what_comes_from_outside_is_text() -> None:
    evil = "<img src=x onerror=alert(1)>"
    record = replace(RECORD, message=evil, warnings=(evil,), resumed_from=evil)
    status = replace(RUNNING, record=record, log=(evil,), journal=(JournalLine(NOW, "x", evil),))
    for shown in (view(status), log_view(status), journal_view(status.journal)):
        assert "<img" not in shown
        assert "&lt;img" in shown


def test_a_loss_that_is_no_number_is_told() -> None:
    shown = view(replace(RUNNING, progress=replace(RUNNING.progress, loss=float("nan"))))
    assert "not a number (NaN)" in shown


def test_the_journal_shows_the_latest_first() -> None:
    shown = journal_view([JournalLine(NOW, "a", "first"), JournalLine(NOW, "b", "second")])
    assert shown.index("second") < shown.index("first")
