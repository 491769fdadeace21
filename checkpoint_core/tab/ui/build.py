"""The tab, built into the present Gradio context, into FluxGym's page, or as a page of its own."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from checkpoint_core.tab.host.gym import Gym, find_gym
from checkpoint_core.tab.presenter import TabPresenter
from checkpoint_core.tab.ui.compat import UNLISTED
from checkpoint_core.tab.ui.components import Page
from checkpoint_core.tab.ui.wiring import api, long_work, options, script, training, views
from checkpoint_core.tab.ui.wiring.shared import Tab
from checkpoint_core.tab.views.assets import OPENED, SCRIPT


def build_tab(
    outputs: Path | str, gym: Gym | None = None, *, python: Path | None = None, hosting: bool = False
) -> gr.Column:
    """Build the tab's content into the present Gradio context.

    :param outputs: FluxGym's ``outputs`` folder; it need not exist yet.
    :param gym: FluxGym's own components, found by :func:`checkpoint_core.tab.host.gym.find_gym`, to keep them in step.
    :param python: the training interpreter, if it is neither this one nor found in FluxGym's folder.
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


def add_to_page(demo: gr.Blocks, outputs: Path) -> None:
    """Add the tab beside FluxGym's own, inside its page's ``with``.

    :raises LookupError: when the page has no tabs.
    """
    tabs = tabs_of(demo)
    if tabs is None:
        raise LookupError("the page has no tabs")
    with tabs, gr.TabItem("Checkpoints", id="checkpoints", elem_id="ck-tab") as tab:
        gym = find_gym(demo.blocks.values(), demo.fns.values())
        build_tab(outputs, gym, hosting=True)
    # A tab that is opened shows what is on the disk now; opened or not, it costs FluxGym's page nothing.
    tab.select(None, None, None, js=OPENED, **UNLISTED)
    demo.load(None, None, None, js=SCRIPT, **UNLISTED)


def tabs_of(page: gr.Blocks) -> gr.Tabs | None:
    """The outermost tabs of a page."""
    return next((block for block in page.blocks.values() if isinstance(block, gr.Tabs)), None)


def make_app(outputs: Path | str, python: Path | None = None) -> gr.Blocks:
    """The tab alone, as a page of its own.

    :param python: the training interpreter, if it is not found in FluxGym's folder.
    """
    demo = gr.Blocks(title="Checkpoints")
    with demo:
        build_tab(outputs, python=python)
        demo.load(None, None, None, js=SCRIPT, **UNLISTED)
        demo.load(None, None, None, js=OPENED, **UNLISTED)
    return demo
