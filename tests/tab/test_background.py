"""Long work: told meanwhile, once at a time for each thing, stopped when asked or when nobody looks any more.

However it fails, the page is told: what is raised in a thread has nobody above it who could.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.reports import CheckpointReport
from checkpoint_core.states.discovery import OutputsFolderError
from checkpoint_core.states.verification import Progress
from checkpoint_core.tab.background import BackgroundTasks, Work
from checkpoint_core.tab.presenter import TabPresenter
from tests.tab.conftest import EPOCH_2, GOOD

A, B = ("run", "a"), ("run", "b")
UNLESS = "It was not done"


@pytest.fixture
def tasks(tmp_path: Path) -> BackgroundTasks:
    return BackgroundTasks(TabPresenter(tmp_path))


def waiting_for(event: threading.Event) -> Work:
    def work(_: Callable[[], bool]) -> str:
        assert event.wait(30)
        return "done"

    return work


def until_stopped(stopped: threading.Event) -> Work:
    def work(cancelled: Callable[[], bool]) -> str:
        while not cancelled():
            stopped.wait(0.01)
        stopped.set()
        return "stopped"

    return work


def test_progress_is_shown_until_the_result_is_there(tasks: BackgroundTasks) -> None:
    go = threading.Event()
    shown = tasks.run(A, UNLESS, waiting_for(go), lambda: "still at it", "busy")

    assert next(shown) == "still at it"
    go.set()
    assert [*shown][-1] == "done"


def test_the_same_work_is_not_done_twice_at_a_time_and_other_work_is_not_kept_waiting(
    tasks: BackgroundTasks,
) -> None:
    go = threading.Event()
    first = tasks.run(A, UNLESS, waiting_for(go), lambda: "…", "busy")
    next(first)

    assert list(tasks.run(A, UNLESS, waiting_for(go), lambda: "…", "busy")) == ["busy"]
    go.set()
    assert list(tasks.run(B, UNLESS, waiting_for(go), lambda: "…", "busy"))[-1] == "done"
    assert list(first)[-1] == "done"
    assert list(tasks.run(A, UNLESS, waiting_for(go), lambda: "…", "busy"))[-1] == "done"


def test_it_stops_when_it_is_asked_to(tasks: BackgroundTasks) -> None:
    stopped = threading.Event()
    running = tasks.run(A, UNLESS, until_stopped(stopped), lambda: "…", "busy")
    next(running)

    tasks.cancel(*B)
    assert not stopped.is_set()
    tasks.cancel(*A)
    assert list(running)[-1] == "stopped"


def test_it_stops_when_the_browser_goes_away(tasks: BackgroundTasks) -> None:
    stopped = threading.Event()
    running = tasks.run(A, UNLESS, until_stopped(stopped), lambda: "…", "busy")
    next(running)

    running.close()  # what Gradio does to a handler whose client has gone
    assert stopped.wait(30)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even its text can be had")


UNFORESEEN = [
    RuntimeError("a <defect>"),
    KeyError("missing"),
    MemoryError(),
    RecursionError("too deep"),
    UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogates not allowed"),
    Unprintable(),
    SystemExit(3),
    GeneratorExit(),
]


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_whatever_the_work_raises_is_told_and_logged_and_it_can_be_tried_again(
    tasks: BackgroundTasks, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def work(_: Callable[[], bool]) -> str:
        raise error

    told = list(tasks.run(A, UNLESS, work, lambda: "43 %", "busy"))[-1]

    assert "It was not done: an unexpected error stopped it. Nothing was changed." in told
    assert type(error).__name__ in told
    assert "Try again" in told
    assert "<defect>" not in told
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]
    assert list(tasks.run(A, UNLESS, lambda _: "done", lambda: "…", "busy"))[-1] == "done"


def test_a_progress_that_fails_ends_the_work_and_is_told(
    tasks: BackgroundTasks, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = threading.Event()

    def progress() -> str:
        raise ZeroDivisionError

    told = list(tasks.run(A, UNLESS, until_stopped(stopped), progress, "busy"))

    assert "ZeroDivisionError" in "".join(told)
    assert "ZeroDivisionError" in caplog.text
    assert stopped.wait(30)
    assert list(tasks.run(A, UNLESS, lambda _: "done", lambda: "…", "busy"))[-1] == "done"


class FailingAuditor(Auditor):
    """Reads a part, then meets what nobody foresaw."""

    def verify(
        self,
        run: str,
        checkpoint: str,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> CheckpointReport:
        if progress:
            progress(43, 100)
        raise AttributeError("of something that is None")


class FailingPresenter(TabPresenter):
    def auditor(self, layout: str = "") -> Auditor:
        return FailingAuditor(self.outputs)


class BlindPresenter(TabPresenter):
    def auditor(self, layout: str = "") -> Auditor:
        raise AttributeError("of something that is None")


def test_a_checkpoint_that_cannot_be_verified_is_named_and_nothing_stays_behind(
    outputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = BackgroundTasks(FailingPresenter(outputs))

    for _ in range(2):
        told = list(tasks.verify(GOOD, EPOCH_2))[-1]
        assert "Epoch 2 was not verified: an unexpected error stopped it. Nothing was changed." in told
    assert "AttributeError: of something that is None" in caplog.text


def test_a_run_that_cannot_even_be_looked_up_is_told_too(
    outputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = list(BackgroundTasks(BlindPresenter(outputs)).verify(GOOD, EPOCH_2))

    assert len(told) == 1
    assert "The checkpoint was not verified" in told[0]
    assert "AttributeError" in caplog.text


def test_what_was_foreseen_is_said_without_the_alarm(outputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    class GoneAuditor(Auditor):
        def verify(self, *_: object, **__: object) -> CheckpointReport:
            raise OutputsFolderError("There is no folder any more.")

    class GonePresenter(TabPresenter):
        def auditor(self, layout: str = "") -> Auditor:
            return GoneAuditor(self.outputs)

    told = list(BackgroundTasks(GonePresenter(outputs)).verify(GOOD, EPOCH_2))[-1]

    assert "Not verified: There is no folder any more." in told
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
