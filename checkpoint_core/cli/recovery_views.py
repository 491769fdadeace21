"""What the command line shows of repairs and of the ways on; pure."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from checkpoint_core.cli.views import diff_view
from checkpoint_core.recovery.options import Recovery, Way
from checkpoint_core.recovery.repair import Mend
from checkpoint_core.text import printable


def recovery_view(recovery: Recovery) -> RenderableType:
    """The ways on, numbered, the best first."""
    parts: list[RenderableType] = [Text(printable(recovery.headline), style="bold")]
    for number, way in enumerate(recovery.ways, 1):
        parts += _way(number, way, is_best=way is recovery.recommended)
    return Group(*parts)


def _way(number: int, way: Way, is_best: bool) -> Iterator[RenderableType]:
    best = (" (recommended)", "green") if is_best else ("", "")
    yield Text.assemble((f"{number}. {printable(way.title)}", "bold"), best)
    told = [f"Keeps: {way.keeps}", f"Loses: {way.loses}", *([way.outlook] if way.outlook else [])]
    yield Padding(Text("\n".join(printable(line) for line in told)), (0, 0, 0, 3), expand=False)


def mend_view(mend: Mend) -> RenderableType:
    """Everything that a repair changes, what it costs, and what will come of it."""
    lines = [*(f"Change: {line}" for line in mend.does), *(f"Loses: {line}" for line in mend.costs)]
    lines += [f"Note: {line}" for line in mend.notes]
    parts: list[RenderableType] = [Text("\n".join(printable(line) for line in lines))] if lines else []
    parts.append(diff_view(mend.diff))
    if mend.outlook:
        parts.append(Text(printable(mend.outlook)))
    return Group(*parts)
