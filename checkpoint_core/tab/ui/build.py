"""The tab, built into the present Gradio context."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from checkpoint_core.tab.host.gym import Gym
from checkpoint_core.tab.presenter import TabPresenter
from checkpoint_core.tab.ui.components import Page
from checkpoint_core.tab.ui.wiring import api, long_work, options, script, training, views
from checkpoint_core.tab.ui.wiring.shared import Tab


def build_tab(
    outputs: Path | str, gym: Gym | None = None, *, python: Path | None = None, hosting: bool = False
) -> gr.Column:
    """Build the tab's content into the present Gradio context.

    :param outputs: FluxGym's ``outputs`` folder; it need not exist yet.
    :param gym: FluxGym's own components, found by :func:`checkpoint_core.tab.host.gym.find_gym`, to keep them in step.
    :param python: the Python that trains, if it is neither this one nor found in FluxGym's folder.
    :param hosting: this process is FluxGym itself, so its own Python starts the training.
    :returns: the column that holds everything (``elem_id`` ``ck-root``).
    """
    root = gr.Column(elem_id="ck-root")
    with root:
        page = Page(gym)
    tab = Tab(TabPresenter(outputs, python=python, hosting=hosting), page, gym)
    for part in (views, script, training, long_work, options, api):
        part.wire(tab)
    return root
