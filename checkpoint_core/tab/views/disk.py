"""The disk against the saves to come, and what may go to make room, as HTML; removing is confirmed elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from checkpoint_core.recovery import Candidate, DiskForecast, RetentionPlan
from checkpoint_core.tab.page_names import PageName, on_disk, page_name
from checkpoint_core.tab.views.markup import notice, safe_name, text
from checkpoint_core.text import counted, human_bytes


def disk_view(forecast: DiskForecast) -> str:
    """A warning where the saves do not fit, else a quiet line; what could not be told is said, never shown as fine."""
    if forecast.is_enough is False:
        return notice("warning", f'<p class="ck-headline">{text(forecast.sentence)}</p>')
    doubt = "Could not tell whether the saves to come fit: " if forecast.is_enough is None else ""
    return f'<p class="ck-quiet">{doubt}{text(forecast.sentence)}</p>'


def retention_view(forecast: DiskForecast, plan: RetentionPlan) -> str:
    """The disk, and the proposal: what may go, with size and reason, and what stays and why. Folded where all fits."""
    opened = " open" if forecast.is_enough is False else ""
    return (
        f'{disk_view(forecast)}<details class="ck-retention"{opened}><summary>{_summary(plan)}</summary>'
        f"{_may_go(plan)}{_stays(plan)}</details>"
    )


def _summary(plan: RetentionPlan) -> str:
    count = len(plan.candidates)
    if not count:
        return "No checkpoint can be spared"
    return f"{counted(count, 'checkpoint')} could go and free {human_bytes(plan.gain_bytes)}"


def _may_go(plan: RetentionPlan) -> str:
    if not plan.candidates:
        return ""
    told = "Only what you choose is removed, and for good. The LoRA files of these checkpoints stay."
    lines = (
        f"<strong>{text(each.title)}</strong> ({human_bytes(each.size_bytes)}): {text(each.reason)}"
        f'<div class="ck-quiet">{text(each.name)}</div>'
        for each in plan.candidates
    )
    return f"<p>{told}</p>{_list(lines)}"


def _stays(plan: RetentionPlan) -> str:
    lines = [f"<strong>{text(each.title)}</strong>: {text(each.why)}" for each in plan.kept]
    return f'<p>What stays:</p><div class="ck-quiet">{_list(lines)}</div>' if lines else ""


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"


def retention_choices(plan: RetentionPlan) -> list[tuple[str, PageName]]:
    """Label and name of each candidate, for boxes to tick: ``Epoch 2 (957 MB): damaged``."""
    return [(safe_name(_label(each)), page_name(each.name)) for each in plan.candidates]


def _label(each: Candidate) -> str:
    return f"{each.title} ({human_bytes(each.size_bytes)}): {each.word}"


def chosen_names(plan: RetentionPlan, ticked: Iterable[PageName]) -> tuple[str, ...]:
    """The candidates' own names for those that a page sends; any other name stays, to be refused."""
    names = [each.name for each in plan.candidates]
    return tuple(on_disk(name, names) or str(name) for name in ticked)
