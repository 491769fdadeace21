"""The run's headline and the table of its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from checkpoint_core.audit import (
    CheckpointReport,
    RunReport,
    Severity,
    Verdict,
    find_latest_resumable,
    headline,
    note,
    title,
)
from checkpoint_core.tab.page_names import PageName, page_name
from checkpoint_core.tab.views.markup import SELECTED_BOX, SORT_BOX, badge, notice, sets, text
from checkpoint_core.text import counted, human_bytes, local_time, number_or_dash

#: Column key to heading and sort key; ``note`` is not sorted by.
_WORST_LAST = list(Verdict)
COLUMNS: dict[str, tuple[str, Callable[[CheckpointReport], Any]]] = {
    "state": ("State", lambda item: _WORST_LAST.index(item.verdict)),
    "name": ("Checkpoint", lambda item: item.name),
    "epoch": ("Epoch", lambda item: item.position.epoch or -1),
    "step": ("Step", lambda item: item.position.step or -1),
    "saved": ("Saved", lambda item: item.facts.saved_ns),
    "size": ("Size", lambda item: item.facts.size_bytes),
}
DEFAULT_SORT = "epoch:down"

_HEADLINE_KINDS = {
    Verdict.READY: "good",
    Verdict.READY_WITH_WARNINGS: "warning",
    Verdict.SAVING: "info",
}


def headline_view(run: RunReport) -> str:
    """The one thing to know, and what was found about the run as a whole."""
    best = find_latest_resumable(run).checkpoint
    newest = run.checkpoints[0] if run.checkpoints else None
    kind = "warning" if best or newest is None else "bad"
    if newest is not None and (best is newest or newest.verdict is Verdict.SAVING):
        kind = _HEADLINE_KINDS.get(newest.verdict, kind)
    shown = run.findings if run.checkpoints else run.findings[1:]
    told = [found for found in shown if found.severity is not Severity.INFO]
    items = "".join(
        f"<li>{text(found.message)} <span class='ck-quiet'>{text(found.effect)} {text(found.cure)}</span></li>"
        for found in told
    )
    extra = f"<ul>{items}</ul>" if items else ""
    skipped = "".join(f"<li>{text(entry.name)}: {text(entry.reason)}</li>" for entry in run.facts.skipped)
    if skipped:
        left_out = counted(len(run.facts.skipped), "item")
        extra += f"<details><summary>{left_out} left out</summary><ul>{skipped}</ul></details>"
    return notice(kind, f'<p class="ck-headline">{text(headline(run))}</p>{extra}')


def table_view(run: RunReport, selected: PageName | None, sort: str = DEFAULT_SORT) -> str:
    """The table; a row is pressed (or Enter on it) to select it, a heading to sort by it."""
    if not run.checkpoints:
        return ""
    key, direction = sort_order(sort)
    rows = sorted(run.checkpoints, key=COLUMNS[key][1], reverse=direction == "down")
    heads = "".join(_heading(name, label, key, direction) for name, (label, _) in COLUMNS.items())
    body = "".join(_row(item, page_name(item.name) == selected) for item in rows)
    layouts = sorted({(item.facts.layout.value, item.facts.layout_source) for item in rows})
    told = "; ".join(f"{name} ({source})" for name, source in layouts)
    return (
        f'<table class="ck-table" data-ck-run="{text(run.name)}">'
        f'<caption class="ck-quiet">Layout: {text(told)}</caption>'
        f"<thead><tr>{heads}<th scope='col' class='ck-note'>What to know</th></tr></thead><tbody>{body}</tbody></table>"
    )


def sort_order(sort: str) -> tuple[str, str]:
    """A sort as the page sends it, ``key:up`` or ``key:down``; anything else gives the default."""
    key, _, direction = sort.partition(":")
    return (key, direction) if key in COLUMNS and direction in ("up", "down") else ("epoch", "down")


def _heading(name: str, label: str, key: str, direction: str) -> str:
    current = name == key
    turned = "up" if current and direction == "down" else "down"
    state = {"up": "ascending", "down": "descending"}[direction] if current else "none"
    arrow = {"up": " ▲", "down": " ▼"}[direction] if current else ""
    return (
        f'<th scope="col" class="ck-{name}" aria-sort="{state}"><button type="button" class="ck-sort" '
        f'{sets(SORT_BOX, f"{name}:{turned}")}>{label}<span aria-hidden="true">{arrow}</span></button></th>'
    )


def _row(item: CheckpointReport, selected: bool) -> str:
    position = item.position
    cells = (
        ("state", "State", badge(item.verdict)),
        ("name", "Checkpoint", text(item.name)),
        ("epoch", "Epoch", number_or_dash(position.epoch)),
        ("step", "Step", number_or_dash(position.step)),
        ("saved", "Saved", text(local_time(item.facts.saved_ns))),
        ("size", "Size", text(human_bytes(item.facts.size_bytes))),
        ("note", "What to know", text(note(item)) or "<span class='ck-quiet'>–</span>"),
    )
    body = "".join(f'<td class="ck-{name}" data-label="{label}">{value}</td>' for name, label, value in cells)
    return (
        f'<tr class="ck-row" tabindex="0" role="button" aria-pressed="{str(selected).lower()}" '
        f'aria-label="{text(title(item))}, {text(item.verdict.value)}" '
        f"{sets(SELECTED_BOX, str(page_name(item.name)))}>{body}</tr>"
    )
