"""Long work as the page follows it: what is said meanwhile, and what stays when it is over."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from checkpoint_core.tab.session import PageSession
from checkpoint_core.tab.ui.components import Page
from checkpoint_core.tab.ui.wiring.long_work import follow


def work(run: str, checkpoint: str, layout: str) -> Iterator[str]:
    yield f"{run}/{checkpoint} by {layout}: 43 %"
    yield "done"


def nothing(*_: str) -> Iterator[str]:
    yield from ()


def test_the_last_word_stays_and_the_button_to_cancel_goes(page: Page) -> None:
    session = PageSession()
    session.selected = "state"

    first, second, last = follow(work, page, session, "run")

    assert first == {
        page.progress: "run/state by auto: 43 %",
        page.cancel: gr.update(visible=True),
        page.working: ("run", "state"),
    }
    assert second[page.progress] == "done"
    assert last == {page.progress: "done", page.cancel: gr.update(visible=False), page.working: None}


def test_work_that_has_nothing_to_do_leaves_nothing(page: Page) -> None:
    assert [update[page.progress] for update in follow(nothing, page, PageSession(), None)] == [""]
