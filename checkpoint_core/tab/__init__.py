"""The Checkpoints tab: presenters, views as HTML, and the host FluxGym."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from checkpoint_core.tab.host.app_edit import NotEdited, NotFluxGym, add_tab, app_in, outputs_in, remove_tab
from checkpoint_core.tab.host.gym import find_gym
from checkpoint_core.tab.host.mounting import run_app, snapshot
from checkpoint_core.tab.views.assets import OPENED, SCRIPT

if TYPE_CHECKING:
    from checkpoint_core.tab.ui.build import build_tab
    from checkpoint_core.tab.ui.compat import UNLISTED

__all__ = [
    "OPENED",
    "SCRIPT",
    "UNLISTED",
    "NotEdited",
    "NotFluxGym",
    "add_tab",
    "app_in",
    "build_tab",
    "find_gym",
    "outputs_in",
    "remove_tab",
    "run_app",
    "snapshot",
]

#: Imported on first use: pandas and Gradio take time that the command line need not spend.
_LATER = {
    "UNLISTED": "checkpoint_core.tab.ui.compat",
    "build_tab": "checkpoint_core.tab.ui.build",
}


def __getattr__(name: str) -> Any:
    """Import what is not always needed when somebody asks for it."""
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
