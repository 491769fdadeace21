"""The Checkpoints tab: presenters, views as HTML, and the host FluxGym."""

from __future__ import annotations

from checkpoint_core.tab.api import apply_resume, check, checkpoint_table, preview_resume, runs
from checkpoint_core.tab.host.app_edit import NotEdited, NotFluxGym, add_tab, app_in, outputs_in, remove_tab
from checkpoint_core.tab.host.gym import Gym, find_gym
from checkpoint_core.tab.host.mounting import run_app, snapshot
from checkpoint_core.tab.presenter import LAYOUTS, Outcome, RunView, TabPresenter
from checkpoint_core.tab.session import PageSession
from checkpoint_core.tab.training_presenter import Told, TrainingView
from checkpoint_core.tab.views.actions import error_view, info_view
from checkpoint_core.tab.views.assets import ASKED, DOWNLOAD, OPENED, SCRIPT, STYLE
from checkpoint_core.tab.views.markup import SELECTED_BOX, SORT_BOX, WAY_BOX
from checkpoint_core.tab.views.table import DEFAULT_SORT

__all__ = [
    "ASKED",
    "DEFAULT_SORT",
    "DOWNLOAD",
    "LAYOUTS",
    "OPENED",
    "SCRIPT",
    "SELECTED_BOX",
    "SORT_BOX",
    "STYLE",
    "WAY_BOX",
    "Gym",
    "NotEdited",
    "NotFluxGym",
    "Outcome",
    "PageSession",
    "RunView",
    "TabPresenter",
    "Told",
    "TrainingView",
    "add_tab",
    "app_in",
    "apply_resume",
    "check",
    "checkpoint_table",
    "error_view",
    "find_gym",
    "info_view",
    "outputs_in",
    "preview_resume",
    "remove_tab",
    "run_app",
    "runs",
    "snapshot",
]
