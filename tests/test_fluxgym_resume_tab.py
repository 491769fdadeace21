"""The tab put into a page: all of it or none, and nothing of Gradio or of the process left changed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.context import Context

import fluxgym_resume_tab
from checkpoint_core.tab.ui.wiring import script

PAGE = """
import gradio as gr
with gr.Blocks() as demo:
    with gr.Column():
        with gr.Tabs() as tabs:
            with gr.TabItem("Gym"):
                gr.Markdown("hello")
"""


def process() -> tuple[object, ...]:
    """What must be the same again when FluxGym has ended."""
    return (
        *(os.getcwd(), id(sys.path), list(sys.path), id(sys.argv), list(sys.argv)),
        *(gr.Blocks.__exit__, Context.root_block, Context.block),
    )


def names(page: gr.Blocks) -> list[str]:
    """The tabs of a page."""
    return [block.label for block in page.blocks.values() if isinstance(block, gr.TabItem)]


def launched(folder: Path, app: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Launch an app; the tabs of its page at its end."""
    pages: list[gr.Blocks] = []
    (folder / "app.py").write_text(app)
    monkeypatch.setattr(gr.Blocks, "launch", lambda page: pages.append(page))
    fluxgym_resume_tab.launch(folder, [])
    return [name for page in pages for name in names(page)]


def test_the_tab_is_in_the_page_and_nothing_else_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = process()

    assert launched(tmp_path, PAGE + "demo.launch()", monkeypatch) == ["Gym", "Checkpoints"]
    assert process() == before


ENDS = {
    "before its page": ("1 / 0", ZeroDivisionError),
    "in its page": (PAGE.replace('gr.Markdown("hello")', "1 / 0"), ZeroDivisionError),
    "after its page": (PAGE + "1 / 0", ZeroDivisionError),
    "by leaving": ("raise SystemExit(1)", SystemExit),
    "without a page": ("", None),
    "with a page that has no tabs": (
        "import gradio as gr\nwith gr.Blocks() as demo:\n    gr.Markdown('x')\n",
        None,
    ),
}


@pytest.mark.parametrize(("app", "error"), ENDS.values(), ids=ENDS)
def test_a_fluxgym_that_ends_leaves_nothing_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, app: str, error: type[BaseException] | None
) -> None:
    before = process()

    if error is None:
        launched(tmp_path, app, monkeypatch)
    else:
        with pytest.raises(error):
            launched(tmp_path, app, monkeypatch)

    assert process() == before


def failing(error: BaseException) -> Any:
    wire = script.wire

    def wire_and_fail(*arguments: Any) -> None:
        wire(*arguments)
        raise error

    return wire_and_fail


def test_a_defect_in_the_tab_does_not_keep_fluxgym_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(script, "wire", failing(RuntimeError("a defect")))
    before = process()

    assert launched(tmp_path, PAGE + "demo.launch()", monkeypatch) == ["Gym"]
    assert "RuntimeError: a defect" in caplog.text
    assert process() == before


def test_an_interrupted_mounting_ends_fluxgym_and_leaves_nothing_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "wire", failing(KeyboardInterrupt()))
    before = process()

    with pytest.raises(KeyboardInterrupt):
        launched(tmp_path, PAGE + "demo.launch()", monkeypatch)

    assert process() == before


def layout(page: gr.Blocks) -> Any:
    """A page's components as they hang together, its own numbers, and its events."""

    def below(block: Any) -> Any:
        return [(id(child), id(child.parent), below(child)) for child in getattr(block, "children", [])]

    return below(page), sorted(page.blocks), sorted(page.fns)


@pytest.mark.parametrize("breaks", ["build_tab", "find_gym"])
@pytest.mark.parametrize(
    "error", [RuntimeError("a defect"), KeyboardInterrupt()], ids=["defect", "interrupt"]
)
def test_a_page_is_as_it_was_when_the_tab_cannot_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: str, error: BaseException
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(fluxgym_resume_tab, breaks, fail)
    assert_page_is_left_alone(tmp_path, error)


@pytest.mark.parametrize(
    "error", [RuntimeError("a defect"), KeyboardInterrupt()], ids=["defect", "interrupt"]
)
def test_a_page_is_as_it_was_when_the_last_event_cannot_be_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    # The tab has been closed by then: Gradio has put its blocks in order once more.
    monkeypatch.setattr(gr.Blocks, "load", fail)
    assert_page_is_left_alone(tmp_path, error)


def assert_page_is_left_alone(folder: Path, error: BaseException) -> None:
    with gr.Blocks() as page:
        with gr.Column(), gr.Tabs(), gr.TabItem("Gym"):
            gr.Markdown("hello")
        before = layout(page)
        if isinstance(error, Exception):
            fluxgym_resume_tab.mount(page, folder)
        else:
            with pytest.raises(type(error)):
                fluxgym_resume_tab.mount(page, folder)
        assert layout(page) == before
        assert Context.block is page


def test_what_is_no_page_is_refused_without_an_error(caplog: pytest.LogCaptureFixture) -> None:
    fluxgym_resume_tab.mount(None)  # type: ignore[arg-type]

    assert "The Checkpoints tab was not added." in caplog.text
