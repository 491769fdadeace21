"""A page of the tab's components, built but not served."""

from __future__ import annotations

import gradio as gr
import pytest

from checkpoint_core.tab.ui.components import Page


@pytest.fixture
def page() -> Page:
    with gr.Blocks():
        return Page(None)
