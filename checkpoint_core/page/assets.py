"""The tab's style sheet and script, as text."""

from __future__ import annotations

from importlib.resources import files

#: Scoped to ``#ck-root``; goes into the page with the tab's HTML, because FluxGym's Blocks is made by FluxGym.
STYLE = (files(__package__) / "tab.css").read_text(encoding="utf-8")
#: One JavaScript function, to be run when the page has loaded.
SCRIPT = (files(__package__) / "tab.js").read_text(encoding="utf-8")
