"""Where Gradio 4.44.1 (FluxGym's), 5.x and 6.x differ, in one place."""

from __future__ import annotations

import inspect
from typing import Any

import gradio as gr

_KNOWS_SHOW_API = "show_api" in inspect.signature(gr.Button.click).parameters
#: For an event of the page alone. Gradio 6 renamed the switch that keeps it out of the API's documentation.
UNLISTED: dict[str, Any] = {"show_api": False} if _KNOWS_SHOW_API else {"api_visibility": "private"}
#: For an event that programs may call.
LISTED: dict[str, Any] = {} if _KNOWS_SHOW_API else {"api_visibility": "public"}
#: For an event of the page that shows no spinner.
QUIET: dict[str, Any] = {"show_progress": "hidden", **UNLISTED}
