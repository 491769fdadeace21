"""The command line: ``python -m checkpoint_core``; all printing of the core is here."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from checkpoint_core import console_view, exit_code
from checkpoint_core.audit import (
    Auditor,
    AuditReport,
    CheckpointReport,
    RunReport,
    UnknownName,
    find_latest_resumable,
)
from checkpoint_core.audit_state import ScriptUnusable, audit_state
from checkpoint_core.collect import diagnosis_for
from checkpoint_core.discovery import OutputsFolderError, find_runs
from checkpoint_core.exit_code import ExitCode
from checkpoint_core.layout import Layout
from checkpoint_core.plain_text import printable
from checkpoint_core.report_schema import check_json, scan_json
from checkpoint_core.run_command import run_command
from checkpoint_core.safe_write import WriteFailed, backups_of, new_file
from checkpoint_core.script_change import (
    NoScript,
    Receipt,
    ScriptChange,
    ScriptChangedSinceShown,
    plan_fresh,
    plan_resume,
)
from checkpoint_core.script_facts import read_script
from checkpoint_core.train_script import InexpressiblePath, ScriptNotUnderstood, find_script
from checkpoint_core.wording import title

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: the same text on every terminal, and in the README
    context_settings={"help_option_names": ["--help"], "terminal_width": 80, "max_content_width": 80},
    help="""Find, judge and resume the training states of FluxGym.

    Nothing of a checkpoint is ever executed, and nothing is written but by "resume" (the train script, with a
    backup) and "report" (the report).

    Exit status: 0 will resume; 1 will not resume, or was refused; 2 could not tell, or wrong usage.""",
)

LayoutOption = Annotated[
    Layout | None,
    typer.Option(
        help="Judge by this layout instead of by the trainer that the train script names.", show_default=False
    ),
]
RunDirArgument = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, such as outputs/my-lora.")
]


class _Usage(Exception):
    """The command was used wrongly; the text says how to use it."""


@app.callback()
def _prepare() -> None:
    for stream in (sys.stdout, sys.stderr):
        # A terminal or a file of another encoding shows an escape where it lacks a letter, never a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@app.command()
def scan(
    outputs: Annotated[Path, typer.Argument(metavar="OUTPUTS", help="FluxGym's outputs folder.")],
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this run.", show_default=False)
    ] = None,
    layout: LayoutOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the table as CSV and nothing else.")] = False,
) -> None:
    """List the checkpoints of every run, and whether they will resume.

    Exit status: 0 when every run that has checkpoints has one that resumes; 1 when a run has none that does, or when
    there are no checkpoints at all; 2 when it could not be told.
    """
    with _problems_told():
        if as_json and as_csv:
            raise _Usage("Give either --json or --csv, not both.")
        report = _scanned(Auditor(outputs, layout), run)
        if as_json:
            _print_json(scan_json(report))
        elif as_csv:
            _print_csv(report)
        else:
            _show(console_view.scan_view(report))
        raise typer.Exit(exit_code.of_runs(report.runs))


@app.command()
def check(
    state: Annotated[Path, typer.Argument(metavar="STATE", help="A state directory (…-state).")],
    script: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Judge with this train script instead of the run's own.", show_default=False
        ),
    ] = None,
    layout: LayoutOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte: checksums, NaN and Inf.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Judge one checkpoint and tell every finding.

    A finding is told as its cause, what happens to the training, and the cure.
    Exit status: 0 it will resume; 1 it will not, or there is no state directory; 2 could not tell (an unreadable
    file, a save that is still going on).
    """
    with _problems_told():
        with _progress("Reading every byte", DownloadColumn(), enabled=deep) as bar:
            task = bar.add_task("")
            checkpoint = audit_state(
                state, script, layout, deep, lambda done, total: bar.update(task, completed=done, total=total)
            )
        if as_json:
            _print_json(check_json(checkpoint))
        else:
            _show(console_view.checkpoint_view(checkpoint))
        raise typer.Exit(exit_code.of_checkpoint(checkpoint))


@app.command()
def resume(
    run_dir: RunDirArgument,
    state: Annotated[
        str | None, typer.Option(metavar="NAME", help="Resume from this state directory.", show_default=False)
    ] = None,
    latest: Annotated[
        bool,
        typer.Option("--latest", help="Resume from the newest checkpoint that will resume (the default)."),
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove --resume: train from the start.")] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Bring the script's newest backup back; a second time: the change.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the change and write nothing.")] = False,
    layout: LayoutOption = None,
) -> None:
    """Write --resume into the run's train script, and say how to train.

    The change is shown as a diff, the old script is kept as a backup, and a checkpoint that will not resume is
    refused.

    Exit status: 0 done; 1 refused, the script is as it was; 2 wrong usage.
    """
    with _problems_told():
        if sum((state is not None, latest, fresh, undo)) > 1:
            raise _Usage("Give only one of --state, --latest, --fresh and --undo.")
        folder = Path(os.path.abspath(run_dir))
        if undo:
            change = _plan_undo(folder)
        elif fresh:
            change = plan_fresh(_audited(folder, layout).facts.path)
        else:
            run = _audited(folder, layout)
            change = _plan(run, _chosen(run, state))
        _carry_out(change, folder, dry_run)


@app.command()
def report(
    run_dir: RunDirArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write it; by default RUN-diagnosis-TIME.zip in the current folder.",
            show_default=False,
        ),
    ] = None,
    layout: LayoutOption = None,
) -> None:
    """Write a diagnosis to send to whoever helps.

    It is one zip with Markdown, JSON and the run's small files. Home folders, user names and tokens are taken out,
    and there are no weights in it. An existing file is not overwritten.

    Exit status: 0 written; 1 it could not be written; 2 wrong usage.
    """
    with _problems_told():
        diagnosis = diagnosis_for(_audited(Path(os.path.abspath(run_dir)), layout))
        path = output if output is not None else Path(diagnosis.file_name)
        if path.is_dir():
            path = path / diagnosis.file_name
        if os.path.lexists(path):
            raise _Usage(f"{path} exists already. Give another name with -o, or remove it.")
        if not path.parent.is_dir():
            raise _Usage(f"There is no folder {path.parent} to write the report to.")
        new_file(path, diagnosis.zip_bytes)
        _say(f"Written: {path}")
        _say("Look through diagnosis.md in it before you send it: prompts and names of runs are still there.")


def _scanned(auditor: Auditor, run: str | None) -> AuditReport:
    if run is not None:
        return AuditReport(auditor.outputs, time.time_ns(), (auditor.audit_run(run),), ())
    with _progress("Reading runs", MofNCompleteColumn()) as bar:
        task = bar.add_task("", total=len(auditor.run_names()))
        return auditor.audit(lambda _: bar.advance(task))


def _audited(folder: Path, layout: Layout | None) -> RunReport:
    """The run whose folder was given.

    :raises UnknownName: when the folder is none.
    """
    if not folder.is_dir():
        raise _Usage(f"There is no folder {folder}. Give a run's folder, such as outputs/my-lora.")
    try:
        run = Auditor(folder.parent, layout).audit_run(folder.name)
    except UnknownName as error:
        hint = "Give a run's folder, such as outputs/my-lora; a link to a folder elsewhere is not followed."
        raise _Usage(f"{folder} is not a run's folder. {hint}") from error
    if not run.checkpoints and run.facts.script is None and (runs := _runs_in(folder)):
        raise _Usage(f"{folder} is not a run's folder but holds some. Give one of them: {', '.join(runs)}.")
    return run


def _runs_in(folder: Path) -> list[str]:
    """The runs with checkpoints or a script in a folder that was taken for a run itself."""
    return [found.path.name for found in find_runs(folder) if found.states or find_script(found.path)]


def _chosen(run: RunReport, state: str | None) -> CheckpointReport:
    """The checkpoint to resume from; leaves with the reasons where there is none."""
    if state is not None:
        checkpoint = _named(run, state)
        if not checkpoint.verdict.resumes:
            _show(console_view.checkpoint_view(checkpoint))
            _stop("Refused: this checkpoint will not resume as it is. The train script was not changed.")
        return checkpoint
    found = find_latest_resumable(run)
    for name, reason in found.passed_over:
        _say(f"Passed over: {name}, {reason}")
    if found.checkpoint is None:
        reason = (
            "None of the checkpoints resumes as it is" if run.checkpoints else "The run has no checkpoints"
        )
        _stop(f"Refused: {reason}. The train script was not changed.")
    return found.checkpoint


def _named(run: RunReport, state: str) -> CheckpointReport:
    """The checkpoint of that name; its path, as a shell completes it, is understood too."""
    wanted = f"/{Path(state).as_posix()}"
    named = [checkpoint.name for checkpoint in run.checkpoints if wanted.endswith(f"/{checkpoint.name}")]
    try:
        return run.checkpoint(max(named, key=len, default=state))
    except UnknownName as error:
        names = ", ".join(checkpoint.name for checkpoint in run.checkpoints) or "none"
        raise _Usage(f"{error} It has: {names}.") from error


def _plan(run: RunReport, checkpoint: CheckpointReport) -> ScriptChange:
    _say(f"Resuming from {title(checkpoint)}: {checkpoint.name}")
    return plan_resume(run.facts.path, checkpoint.name)


def _plan_undo(folder: Path) -> ScriptChange:
    """The script's newest backup in the script's place.

    :raises NoScript: when the run has no script.
    """
    script = find_script(folder)
    if script is None:
        raise NoScript(folder, "train.sh or train.bat")
    backup = next(iter(backups_of(Path(os.path.realpath(script)))), None)
    if backup is None:
        raise _Usage(f"{script} has no backup, so there is nothing to undo.")
    return ScriptChange(
        script, script.read_bytes(), backup.read_bytes(), (f"{script.name} put back from {backup.name}",)
    )


def _carry_out(change: ScriptChange, folder: Path, dry_run: bool) -> None:
    """Show a change, write it unless it is a trial, and say how to go on."""
    for line in change.notes:
        _say(f"Note: {line}")
    if change.is_noop:
        _say("The train script says so already; nothing was written.")
    else:
        for line in change.summary:
            _say(f"Change: {line}")
        _show(console_view.diff_view(change.diff))
    if dry_run:
        _say("Dry run: nothing was written.")
        return
    _tell_how_to_go_on(change.execute(), folder)


def _tell_how_to_go_on(receipt: Receipt, folder: Path) -> None:
    script, _ = read_script(receipt.path)
    run_it = run_command(folder / receipt.path.name, script.output_dir if script else None)
    if receipt.backup:
        _say(f"Written: {receipt.path}")
        _say(f"Backup: {receipt.backup}")
        _say("To undo: the same command with --undo, or copy the backup over the script.")
    _say(f"To train, run this in {run_it.folder}, with FluxGym's environment active:")
    _say(f"  {run_it.command}")


@contextmanager
def _problems_told() -> Iterator[None]:
    """Turns what can go wrong into one sentence and an exit status; anything else is a defect and shows itself."""
    try:
        yield
    except (_Usage, UnknownName, OutputsFolderError, ScriptUnusable) as error:
        _stop(str(error), ExitCode.COULD_NOT_TELL)
    except (NoScript, ScriptNotUnderstood, ScriptChangedSinceShown, InexpressiblePath, WriteFailed) as error:
        _stop(f"Refused: {error}")
    except OSError as error:
        _stop(
            f"{error.filename or 'A file'} could not be read: {error.strerror or error}.",
            ExitCode.COULD_NOT_TELL,
        )
    except KeyboardInterrupt:
        _stop("Cancelled. Nothing was changed.", ExitCode.COULD_NOT_TELL)


def _stop(message: str, code: ExitCode = ExitCode.DOES_NOT) -> NoReturn:
    _console(stderr=True).print(Text(printable(message, keep="\n")), soft_wrap=True)
    raise typer.Exit(code)


def _console(stderr: bool = False) -> Console:
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def _show(view: RenderableType) -> None:
    _console().print(view, crop=False)


def _say(line: str) -> None:
    """One line, never wrapped: paths and commands are copied from it."""
    _console().print(Text(printable(line)), soft_wrap=True)


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def _print_csv(report: AuditReport) -> None:
    from checkpoint_core.table import (
        to_dataframe,
    )  # pandas takes half a second that the other commands need not spend

    text = to_dataframe(report).to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ", lineterminator="\n")
    typer.echo(text.encode("utf-8", "surrogateescape"), nl=False)


def _progress(what: str, amount: ProgressColumn, enabled: bool = True) -> Progress:
    """A bar on stderr, so that stdout holds the answer alone; none where no terminal shows it."""
    console = _console(stderr=True)
    shown = enabled and console.is_terminal
    return Progress(TextColumn(what), BarColumn(), amount, console=console, transient=True, disable=not shown)
