"""The training interpreter, as the tab shows it and lets it be chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from checkpoint_core.atomic_write import WriteFailed
from checkpoint_core.audit import environment_line
from checkpoint_core.environment import EnvironmentFacts, choices, environment_source, remember, remembered
from checkpoint_core.tab.page_names import NOTHING, PageName, page_name
from checkpoint_core.tab.views.actions import error_view, info_view, warning_view
from checkpoint_core.tab.views.markup import safe_name


@dataclass(frozen=True)
class InterpreterView:
    """What the page shows: the picker's choices and value, and the training interpreter with its versions, as HTML."""

    choices: list[tuple[str, PageName]]
    chosen: PageName
    environment: str


class InterpreterPicker:
    """The training interpreter in one FluxGym folder.

    Only one that this machine itself names can be chosen: no path comes from the browser.

    :param root: FluxGym's folder.
    :param chosen: the one that was named when the tab was started.
    :param hosting: this process is FluxGym itself.
    """

    def __init__(self, root: Path, chosen: Path | None, hosting: bool) -> None:
        self._root = root
        self.environment = environment_source(root, chosen=chosen, hosting=hosting)

    def show(self) -> InterpreterView:
        """All that the page shows of it."""
        return InterpreterView(self.choices(), self.chosen(), self.view())

    def choices(self) -> list[tuple[str, PageName]]:
        """The Pythons for the picker: what is shown, and the value."""
        found = [(f"{item.path} ({item.source})", str(item.path)) for item in choices(self._root)]
        return [("Automatic", NOTHING), *((safe_name(label), page_name(path)) for label, path in found)]

    def chosen(self) -> PageName:
        """The value of the picker; empty where the Python is found automatically."""
        known = remembered(self._root)
        return page_name(str(known)) if known else NOTHING

    def choose(self, value: PageName) -> str:
        """Keep which Python trains in this FluxGym; empty for automatic. Returns what to show, as HTML."""
        offered = {page_name(str(item.path)): item.path for item in choices(self._root)}
        if value and value not in offered:
            return error_view(f"There is no Python {value} any more; nothing was changed.")
        try:
            remember(self._root, offered.get(value))
        except WriteFailed as error:
            return error_view(f"The choice was not kept. {error}")
        return self.view()

    def view(self) -> str:
        """The training interpreter, and its versions, as HTML."""
        environment = self.environment()
        told = f"Training environment: {environment_line(environment)}"
        is_known = isinstance(environment, EnvironmentFacts)
        return info_view(told) if is_known else warning_view(told)
