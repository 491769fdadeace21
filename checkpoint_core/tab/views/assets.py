"""The tab's style sheet and scripts, as text. A script is one JavaScript function, as Gradio's ``js=`` takes it."""

from __future__ import annotations

from importlib.resources import files

_HERE = files(__package__)

#: Scoped to ``#ck-root``; goes into the page with the tab's HTML, because FluxGym's Blocks is made by FluxGym.
STYLE = (_HERE / "tab.css").read_text(encoding="utf-8")
#: To be run once, when the page has loaded.
SCRIPT = (_HERE / "tab.js").read_text(encoding="utf-8")
#: To be run when the tab comes into view.
OPENED = (_HERE / "opened.js").read_text(encoding="utf-8")
#: To be run with the file that was made for a download.
DOWNLOAD = (_HERE / "download.js").read_text(encoding="utf-8")
#: To be run when the page asks something far below what was pressed.
ASKED = (_HERE / "asked.js").read_text(encoding="utf-8")
