"""Named endpoints for ``gradio_client``: names in, JSON out. Components of theirs are never in the page."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
from gradio.blocks import Block

from checkpoint_core.atomic_write import WriteFailed
from checkpoint_core.states import OutputsFolderError
from checkpoint_core.tab.api import apply_resume, check, checkpoint_table, preview_resume, runs
from checkpoint_core.tab.page_names import PageName
from checkpoint_core.tab.presenter import TabPresenter
from checkpoint_core.tab.ui.compat import LISTED
from checkpoint_core.tab.ui.wiring.shared import Tab


def wire(tab: Tab) -> None:
    """Add the six endpoints."""
    presenter = tab.presenter
    run, checkpoint = gr.Textbox(visible=False, label="run"), gr.Textbox(visible=False, label="checkpoint")
    answer, file = gr.JSON(visible=False), gr.File(visible=False)
    _endpoint("runs", partial(runs, presenter), [], answer)
    _endpoint("checkpoint_table", partial(checkpoint_table, presenter), [run], answer)
    for function in (check, preview_resume, apply_resume):
        _endpoint(function.__name__, partial(function, presenter), [run, checkpoint], answer)
    _endpoint("diagnosis_report", partial(diagnosis_report, presenter), [run], file)


def _endpoint(name: str, function: Callable[..., Any], inputs: list[Block], output: Block) -> None:
    gr.Button(name, visible=False).click(telling(function), inputs, output, api_name=name, **LISTED)


def diagnosis_report(presenter: TabPresenter, name: PageName) -> str:
    """The path of a run's diagnosis as a zip file."""
    return str(presenter.diagnosis_file(name))


def telling(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with what it raises for the caller's mistakes as a message that Gradio passes on."""

    def told(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (LookupError, OutputsFolderError, WriteFailed) as error:
            raise gr.Error(str(error)) from error

    # For the names of an endpoint's parameters; `functools.wraps` does more than Gradio 4 can read.
    told.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return told
