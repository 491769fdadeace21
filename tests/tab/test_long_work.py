"""Long work: told meanwhile, once at a time for each thing, stopped when asked or when nobody looks any more."""

from __future__ import annotations

import threading
from collections.abc import Callable

from checkpoint_core.tab.long_work import LongWork

Work = Callable[[Callable[[], bool]], str]


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


def test_progress_is_shown_until_the_result_is_there() -> None:
    go = threading.Event()
    shown = LongWork().run("a", waiting_for(go), lambda: "still at it", "busy")

    assert next(shown) == "still at it"
    go.set()
    assert [*shown][-1] == "done"


def test_the_same_work_is_not_done_twice_at_a_time_and_other_work_is_not_kept_waiting() -> None:
    works, go = LongWork(), threading.Event()
    first = works.run("a", waiting_for(go), lambda: "…", "busy")
    next(first)

    assert list(works.run("a", waiting_for(go), lambda: "…", "busy")) == ["busy"]
    go.set()
    assert list(works.run("b", waiting_for(go), lambda: "…", "busy"))[-1] == "done"
    assert list(first)[-1] == "done"
    assert list(works.run("a", waiting_for(go), lambda: "…", "busy"))[-1] == "done"


def test_it_stops_when_it_is_asked_to() -> None:
    works, stopped = LongWork(), threading.Event()
    running = works.run("a", until_stopped(stopped), lambda: "…", "busy")
    next(running)

    works.cancel("b")
    assert not stopped.is_set()
    works.cancel("a")
    assert list(running)[-1] == "stopped"


def test_it_stops_when_the_browser_goes_away() -> None:
    works, stopped = LongWork(), threading.Event()
    running = works.run("a", until_stopped(stopped), lambda: "…", "busy")
    next(running)

    running.close()  # what Gradio does to a handler whose client has gone
    assert stopped.wait(30)
