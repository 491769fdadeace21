"""An audit, one checkpoint and the recovery options, as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from checkpoint_core.audit import (
    VERDICT_WORDS,
    AuditReport,
    CheckpointReport,
    Finding,
    RunReport,
    Severity,
    Verdict,
    environment_line,
    headline,
    judgement,
    note,
)
from checkpoint_core.recovery import RecoveryOption, RecoveryPlan, RepairPlan
from checkpoint_core.text import human_bytes, local_time, number_or_dash, printable
from checkpoint_core.trainer import forecast_sentence

_STYLES = {
    Verdict.READY: "green",
    Verdict.READY_WITH_WARNINGS: "yellow",
    Verdict.NEEDS_FIX: "dark_orange",
    Verdict.DAMAGED: "red",
    Verdict.SAVING: "blue",
    Verdict.UNKNOWN: "magenta",
}
_SEVERITY_WORDS = {
    Severity.INFO: ("Note", "dim"),
    Severity.WARNING: ("Warning", "yellow"),
    Severity.FIXABLE: ("Needs a fix", "dark_orange"),
    Severity.ERROR: ("Damage", "red"),
    Severity.UNKNOWN: ("Could not tell", "magenta"),
    Severity.SAVING: ("Being saved", "blue"),
}


def scan_view(report: AuditReport) -> RenderableType:
    """An outputs folder: every run with its checkpoints, newest first."""
    parts: list[RenderableType] = []
    for run in report.runs:
        parts += [run_view(run), Text()]
    if not report.runs:
        parts.append(Text(f"There are no runs in {printable(str(report.outputs))} yet."))
    parts += [_left_out(entry.name, entry.reason) for entry in report.skipped]
    return Group(*parts)


def run_view(run: RunReport) -> RenderableType:
    """One run: its headline, its table, and what to know about each checkpoint."""
    parts: list[RenderableType] = [Text(printable(run.name), style="bold"), Text(printable(headline(run)))]
    if run.checkpoints:
        parts.append(_table(run.checkpoints))
        parts += _notes(run.checkpoints)
    parts += findings_view(run.findings)
    parts += [_left_out(entry.name, entry.reason) for entry in run.facts.skipped]
    return Group(*parts)


def _table(checkpoints: Iterable[CheckpointReport]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("State")
    table.add_column("Checkpoint", overflow="fold")
    for title in ("Epoch", "Step"):
        table.add_column(title, justify="right")
    table.add_column("Saved")
    table.add_column("Size", justify="right")
    for item in checkpoints:
        table.add_row(
            verdict_view(item.verdict),
            Text(printable(item.name)),
            number_or_dash(item.position.epoch),
            number_or_dash(item.position.step),
            local_time(item.facts.saved_ns),
            human_bytes(item.facts.size_bytes),
        )
    return table


def verdict_view(verdict: Verdict) -> Text:
    """A verdict as a coloured word."""
    return Text(VERDICT_WORDS[verdict], style=_STYLES[verdict])


def _notes(checkpoints: Iterable[CheckpointReport]) -> Iterator[RenderableType]:
    for item in checkpoints:
        if told := note(item):
            yield Padding(Text(f"{printable(item.name)}: {printable(told)}"), (0, 0, 0, 2), expand=False)


def checkpoint_view(checkpoint: CheckpointReport) -> RenderableType:
    """One checkpoint: its verdict, where it stands, and every finding."""
    facts, position = checkpoint.facts, checkpoint.position
    path = (printable(str(facts.path)), "bold")
    parts: list[RenderableType] = [
        _unbroken(Text.assemble(verdict_view(checkpoint.verdict), ": ", path)),
        Text(judgement(checkpoint)),
    ]
    if facts.files:
        parts.append(
            Text(
                f"Epoch {number_or_dash(position.epoch)}, step {number_or_dash(position.step)}, "
                f"saved {local_time(facts.saved_ns)}, {human_bytes(facts.size_bytes)}, "
                f"layout {facts.layout.value} ({printable(facts.layout_source)})"
            )
        )
    if checkpoint.forecast:
        parts.append(Text(forecast_sentence(checkpoint.forecast)))
    if checkpoint.environment:
        parts.append(Text(f"Training environment: {printable(environment_line(checkpoint.environment))}"))
    return Group(*parts, *findings_view(checkpoint.findings))


def findings_view(findings: Iterable[Finding]) -> Iterator[RenderableType]:
    """Each finding as cause, what happens to the training, cure."""
    for found in findings:
        word, style = _SEVERITY_WORDS[found.severity]
        yield Text.assemble((f"{word}: ", style), printable(found.message), (f" [{found.code}]", "dim"))
        # A note that neither does anything nor asks for anything needs one line.
        if found.severity is not Severity.INFO:
            told = f"Training: {printable(found.effect)}\nFix: {printable(found.cure)}"
            yield Padding(Text(told), (0, 0, 0, 4), expand=False)


def diff_view(diff: str) -> RenderableType:
    """A unified diff with its added and removed lines coloured."""
    styles = {"+": "green", "-": "red", "@": "cyan"}
    # In a group, because the console joins bare texts into one that forgets how they are to be wrapped.
    return Group(
        *(_unbroken(Text(printable(line, keep="\t"), styles.get(line[:1], ""))) for line in diff.splitlines())
    )


def _unbroken(text: Text) -> Text:
    """The text with its lines as they are, however wide: what is copied from them must be whole."""
    text.no_wrap, text.overflow = True, "ignore"
    return text


def _left_out(name: str, reason: str) -> Text:
    return Text(f"Skipped: {printable(name)}, because {printable(reason)}.")


def recovery_view(recovery: RecoveryPlan) -> RenderableType:
    """The recovery options, numbered, the best first."""
    parts: list[RenderableType] = [Text(printable(recovery.headline), style="bold")]
    for number, option in enumerate(recovery.options, 1):
        parts += _option(number, option, is_best=option is recovery.recommended)
    return Group(*parts)


def _option(number: int, option: RecoveryOption, is_best: bool) -> Iterator[RenderableType]:
    best = (" (recommended)", "green") if is_best else ("", "")
    yield Text.assemble((f"{number}. {printable(option.title)}", "bold"), best)
    told = [
        f"Keeps: {option.keeps}",
        f"Loses: {option.loses}",
        *([option.forecast] if option.forecast else []),
    ]
    yield Padding(Text("\n".join(printable(line) for line in told)), (0, 0, 0, 3), expand=False)


def repair_view(repair_plan: RepairPlan) -> RenderableType:
    """Everything that a repair changes, what it costs, and what will come of it."""
    lines = [
        *(f"Change: {line}" for line in repair_plan.does),
        *(f"Loses: {line}" for line in repair_plan.costs),
    ]
    lines += [f"Note: {line}" for line in repair_plan.notes]
    parts: list[RenderableType] = [Text("\n".join(printable(line) for line in lines))] if lines else []
    parts.append(diff_view(repair_plan.diff))
    if repair_plan.forecast:
        parts.append(Text(printable(repair_plan.forecast)))
    return Group(*parts)
