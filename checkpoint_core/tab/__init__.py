"""The Checkpoints tab: presenters, views as HTML, the host FluxGym, and ``ui/``, the page in Gradio."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from checkpoint_core.tab.host.app_edit import NotEdited, NotFluxGym, add_tab, app_in, outputs_in, remove_tab
from checkpoint_core.tab.host.mounting import run_app, snapshot

if TYPE_CHECKING:
    from checkpoint_core.tab.ui.build import add_to_page, build_tab, make_app, tabs_of

__all__ = [
    "NotEdited",
    "NotFluxGym",
    "add_tab",
    "add_to_page",
    "app_in",
    "build_tab",
    "make_app",
    "outputs_in",
    "remove_tab",
    "run_app",
    "snapshot",
    "tabs_of",
]

#: The page needs Gradio, which the presenters and the install command do not.
_LATER = dict.fromkeys(("add_to_page", "build_tab", "make_app", "tabs_of"), "checkpoint_core.tab.ui.build")


def __getattr__(name: str) -> Any:
    """Import on first use what is not always needed."""
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
