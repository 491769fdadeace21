"""The command that makes room: ``prune`` shows what a run's old checkpoints take, and removes those that are named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from checkpoint_core.audit import Auditor, RunReport
from checkpoint_core.cli.exit_codes import ExitCode
from checkpoint_core.cli.options import (
    LayoutOption,
    PythonOption,
    RunDirArgument,
    audited_run,
    auditor_of,
    named_checkpoint,
    settled,
)
from checkpoint_core.cli.output import Usage, print_json, problems_told, say, show, stop, tell
from checkpoint_core.cli.restore import refuse_while_training, replaced_json, replaced_line
from checkpoint_core.recovery import (
    DiskForecast,
    NothingToRestore,
    RemovalRefused,
    RetentionPlan,
    disk_forecast,
    finish_removals,
    look_again_at_run,
    plan_removal,
    read_replaced,
    retention_of,
)
from checkpoint_core.recovery import remove_replaced as discard
from checkpoint_core.report import SCHEMA_VERSION, Json
from checkpoint_core.text import human_bytes, printable
from checkpoint_core.training import in_use

RemoveOption = Annotated[
    list[str] | None,
    typer.Option(
        "--remove",
        metavar="NAME",
        help="Remove this checkpoint for good; give it once for each. Without it nothing is removed.",
        show_default=False,
    ),
]

RemoveReplacedOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Remove for good what a start had set aside under this name; “restore” lists it.",
        show_default=False,
    ),
]


def prune(
    run_dir: RunDirArgument,
    remove: RemoveOption = None,
    remove_replaced: RemoveReplacedOption = None,
    layout: LayoutOption = None,
    python: PythonOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Show whether the saves to come fit on the disk, and which old checkpoints could go; remove those named.

    Never removed: the last good checkpoint and one to fall back to, the newest, the one from which the train script or
    the best recovery option goes on, and what could not be judged. LoRA files stay.

    Exit status: 0 there is room enough, or it was removed; 1 there is not, or it was refused; 2 could not tell, or
    wrong usage.
    """
    with problems_told():
        if as_json and (remove or remove_replaced):
            raise Usage("--json shows the proposal and removes nothing. Give either --json or --remove.")
        folder = Path(os.path.abspath(run_dir))
        if remove_replaced is not None:
            _discard(folder, remove_replaced)
            return
        auditor = auditor_of(folder.parent, layout, python)
        run = _settled(auditor, audited_run(folder, layout, python, auditor))
        plan = retention_of(auditor, run, in_use(folder))
        if remove:
            _remove(auditor, run, remove, plan)
            return
        forecast = disk_forecast(run)
        if as_json:
            print_json({**retention_json(run.name, forecast, plan), **replaced_json(folder)})
        else:
            show(_view(forecast, plan))
            for record in read_replaced(folder):
                say(f"Kept from being overwritten: {replaced_line(record)}")
        raise typer.Exit(_exit_code(forecast))


def _settled(auditor: Auditor, run: RunReport) -> RunReport:
    """The run, after what an earlier repair or removal left half done is finished."""
    run = settled(auditor, run)
    if not finish_removals(run.facts.path):
        return run
    tell("A removal had been interrupted; what it left is removed now.")
    return auditor.audit_run(run.name)


def _remove(auditor: Auditor, run: RunReport, wanted: Sequence[str], plan: RetentionPlan) -> None:
    names = [named_checkpoint(run, name).name for name in wanted]
    try:
        removal = plan_removal(run, names, plan)
        for line in removal.lines:
            say(line)
        done = removal.execute(look_again_at_run(auditor, run.name, lambda: in_use(run.facts.path)))
    except RemovalRefused as error:
        stop(f"Refused: {error}")
    say(f"Removed: {', '.join(done.names)}. Freed {human_bytes(done.freed_bytes)}.")
    say(disk_forecast(auditor.audit_run(run.name)).sentence)


def _discard(run: Path, identity: str) -> None:
    refuse_while_training(run)
    try:
        freed = discard(run, identity)
    except NothingToRestore as error:
        raise Usage(str(error)) from error
    say(f"Removed: {identity}. {human_bytes(freed)} are free again.")


def _view(forecast: DiskForecast, plan: RetentionPlan) -> RenderableType:
    parts: list[RenderableType] = [Text(printable(forecast.sentence), style="bold")]
    if plan.candidates:
        parts.append(Text(f"These checkpoints could go and free {human_bytes(plan.gain_bytes)}:"))
    for each in plan.candidates:
        line = f"{each.name} ({each.title}, {human_bytes(each.size_bytes)}): {each.reason}"
        parts.append(_indented(line))
    parts.append(Text("These stay:" if plan.kept else "There are no checkpoints."))
    parts += [_indented(f"{each.name} ({each.title}): {each.why}") for each in plan.kept]
    if plan.candidates:
        parts.append(
            Text("Nothing was removed. To remove one, run the same command with --remove and its name.")
        )
    return Group(*parts)


def _indented(line: str) -> RenderableType:
    return Padding(Text(printable(line)), (0, 0, 0, 3), expand=False)


def retention_json(run: str, forecast: DiskForecast, plan: RetentionPlan) -> Json:
    """The document of ``prune --json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "retention",
        "run": run,
        "disk": {
            "free_bytes": forecast.free_bytes,
            "needed_bytes": forecast.needed_bytes,
            "next_save_bytes": forecast.next_save_bytes,
            "is_enough": forecast.is_enough,
            "sentence": forecast.sentence,
        },
        "candidates": [
            {"name": each.name, "title": each.title, "size_bytes": each.size_bytes, "reason": each.reason}
            for each in plan.candidates
        ],
        "kept": [{"name": each.name, "title": each.title, "why": each.why} for each in plan.kept],
        "gain_bytes": plan.gain_bytes,
    }


def _exit_code(forecast: DiskForecast) -> ExitCode:
    if forecast.is_enough is None:
        return ExitCode.COULD_NOT_TELL
    return ExitCode.RESUMES if forecast.is_enough else ExitCode.DOES_NOT
