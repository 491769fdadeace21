"""The command line: ``python -m checkpoint_core``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import DownloadColumn, MofNCompleteColumn, TextColumn

from checkpoint_core.atomic_write import backups_of, new_file
from checkpoint_core.audit import (
    Auditor,
    AuditReport,
    CheckpointReport,
    FindingKind,
    RunReport,
    audit_state,
    find_latest_resumable,
    fluxgym_root,
    title,
)
from checkpoint_core.cli import exit_codes
from checkpoint_core.cli.options import (
    LayoutOption,
    PythonOption,
    RehearseOption,
    RunDirArgument,
    audited_run,
    auditor_of,
    named_checkpoint,
    tell_how_to_go_on,
    usable_python,
)
from checkpoint_core.cli.output import (
    Usage,
    prepare_streams,
    print_csv,
    print_json,
    problems_told,
    progress,
    say,
    show,
    stop,
)
from checkpoint_core.cli.prune import prune as prune_command
from checkpoint_core.cli.repair import recover as recover_command
from checkpoint_core.cli.repair import repair as repair_command
from checkpoint_core.cli.restore import restore_replaced as restore_command
from checkpoint_core.cli.training import status as status_command
from checkpoint_core.cli.training import stop_training as stop_command
from checkpoint_core.cli.training import watch as watch_command
from checkpoint_core.cli.views import checkpoint_view, diff_view, scan_view
from checkpoint_core.environment import (
    Environment,
    RehearsalOutcome,
    RehearsalStage,
    environment_source,
    rehearse_state,
)
from checkpoint_core.recovery import plan_checked, plan_recovery, set_aside_from
from checkpoint_core.report import check_json, diagnosis_for, scan_json
from checkpoint_core.scripts import NoScript, ScriptChange, find_script, plan_fresh
from checkpoint_core.states import StateFacts

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: the same text on every terminal, and in docs/cli.md
    context_settings={"help_option_names": ["--help"], "terminal_width": 80, "max_content_width": 80},
    help="""Find, judge and resume the training states of FluxGym.

    Nothing of a checkpoint is ever executed. Only these write: "resume" (the train script, with a backup),
    "repair", "recover" and "restore" with --apply (with a way back), "prune" with --remove, "report" (the report), and
    "watch", which trains and, unless told otherwise, restarts a crashed training (it repairs and edits as "recover"
    does).

    Exit status: 0 will resume; 1 will not resume, or was refused; 2 could not tell, or wrong usage.""",
)


@app.callback()
def _prepare() -> None:
    prepare_streams()


@app.command()
def scan(
    outputs: Annotated[Path, typer.Argument(metavar="OUTPUTS", help="FluxGym's outputs folder.")],
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this run.", show_default=False)
    ] = None,
    layout: LayoutOption = None,
    python: PythonOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the table as CSV and nothing else.")] = False,
) -> None:
    """List the checkpoints of every run, and whether they will resume.

    Exit status: 0 when every run that has checkpoints has one that resumes; 1 when a run has none that does, or when
    there are no checkpoints at all; 2 when it could not be told.
    """
    with problems_told():
        if as_json and as_csv:
            raise Usage("Give either --json or --csv, not both.")
        auditor = auditor_of(outputs, layout, python)
        report = _scanned(auditor, run)
        if as_json:
            print_json(scan_json(report, {each.name: plan_recovery(auditor, each) for each in report.runs}))
        elif as_csv:
            print_csv(report)
        else:
            show(scan_view(report))
        raise typer.Exit(exit_codes.of_runs(report.runs))


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
    python: PythonOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte: checksums, NaN and Inf.")] = False,
    rehearse: RehearseOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Judge one checkpoint and tell every finding.

    Each finding says what is wrong, what it does to the training, and how to fix it.

    Exit status: 0 it will resume; 1 it will not, or there is no state directory; 2 could not tell (an unreadable
    file, a save that is still going on).
    """
    with problems_told():
        with progress("Reading every byte", DownloadColumn(), enabled=deep) as bar:
            task = bar.add_task("")
            checkpoint = audit_state(
                state,
                script,
                layout,
                deep,
                lambda done, total: bar.update(task, completed=done, total=total),
                environment=environment_source(fluxgym_root(state), chosen=usable_python(python))(),
                rehearse=_rehearse if rehearse else None,
            )
        if as_json:
            print_json(check_json(checkpoint))
        else:
            show(checkpoint_view(checkpoint))
        raise typer.Exit(exit_codes.of_checkpoint(checkpoint))


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
    python: PythonOption = None,
    rehearse: RehearseOption = False,
) -> None:
    """Write --resume into the run's train script, and say how to train.

    The change is shown as a diff, the old script is kept as a backup, and a checkpoint that will not resume is
    refused.

    Exit status: 0 done; 1 refused, the script is as it was; 2 wrong usage.
    """
    with problems_told():
        if sum((state is not None, latest, fresh, undo)) > 1:
            raise Usage("Give only one of --state, --latest, --fresh and --undo.")
        folder = Path(os.path.abspath(run_dir))
        if undo:
            change = _plan_undo(folder)
        elif fresh:
            change = plan_fresh(audited_run(folder, layout, python).facts.path)
        else:
            auditor = auditor_of(folder.parent, layout, python)
            run = audited_run(folder, layout, python, auditor)
            change = _plan(run, _tried(auditor, _chosen(run, state), rehearse))
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
    python: PythonOption = None,
) -> None:
    """Write a diagnosis to send to whoever helps.

    It is one zip with Markdown, JSON and the run's small files. Home folders, user names and tokens are taken out,
    and there are no weights in it. An existing file is not overwritten.

    Exit status: 0 written; 1 it could not be written; 2 wrong usage.
    """
    with problems_told():
        folder = Path(os.path.abspath(run_dir))
        auditor = auditor_of(folder.parent, layout, python)
        run = audited_run(folder, layout, python, auditor)
        diagnosis = diagnosis_for(run, plan_recovery(auditor, run))
        path = output if output is not None else Path(diagnosis.file_name)
        if path.is_dir():
            path = path / diagnosis.file_name
        if os.path.lexists(path):
            raise Usage(f"{path} exists already. Give another name with -o, or remove it.")
        if not path.parent.is_dir():
            raise Usage(f"There is no folder {path.parent} to write the report to.")
        new_file(path, diagnosis.zip_bytes)
        say(f"Written: {path}")
        say("Look through diagnosis.md in it before you send it: prompts and names of runs are still there.")


# In the order of the help; their functions stand in modules of their own.
repair = app.command()(repair_command)
recover = app.command()(recover_command)
watch = app.command()(watch_command)
status = app.command()(status_command)
stop_training = app.command(name="stop")(stop_command)
prune = app.command()(prune_command)
restore = app.command(name="restore")(restore_command)


def _scanned(auditor: Auditor, run: str | None) -> AuditReport:
    if run is not None:
        return AuditReport(auditor.outputs, time.time_ns(), (auditor.audit_run(run),), ())
    with progress("Reading runs", MofNCompleteColumn()) as bar:
        task = bar.add_task("", total=len(auditor.run_names()))
        return auditor.audit(lambda _: bar.advance(task))


def _chosen(run: RunReport, state: str | None) -> CheckpointReport:
    """The checkpoint to resume from; leaves with the reasons where there is none."""
    if state is not None:
        checkpoint = named_checkpoint(run, state)
        if not checkpoint.verdict.resumes:
            show(checkpoint_view(checkpoint))
            stop("Refused: this checkpoint will not resume as it is. The train script was not changed.")
        return checkpoint
    found = find_latest_resumable(run)
    for name, reason in found.passed_over:
        say(f"Passed over: {name}, {reason}")
    if found.checkpoint is None:
        reason = (
            "None of the checkpoints resumes as it is" if run.checkpoints else "The run has no checkpoints"
        )
        stop(f"Refused: {reason}. The train script was not changed.")
    return found.checkpoint


def _rehearse(facts: StateFacts, environment: Environment) -> RehearsalOutcome:
    """A rehearsal with its stages shown."""
    with progress("Rehearsing", TextColumn("{task.description}")) as bar:
        task = bar.add_task("", total=len(RehearsalStage))

        def on_stage(stage: RehearsalStage) -> None:
            bar.update(task, completed=list(RehearsalStage).index(stage), description=stage.value)

        return rehearse_state(facts, environment, on_stage)


def _tried(auditor: Auditor, checkpoint: CheckpointReport, wanted: bool) -> CheckpointReport:
    """The checkpoint after a rehearsal, if one is wanted or the versions are unusual; leaves where it fails."""
    if not wanted and not checkpoint.needs_rehearsal:
        return checkpoint
    tried = auditor.rehearse(checkpoint.run, checkpoint.name, _rehearse)
    if not tried.verdict.resumes:
        show(checkpoint_view(tried))
        stop("Refused: it failed its test load. The train script was not changed.")
    for found in tried.findings:
        if found.kind is FindingKind.REHEARSAL:
            say(found.message)
    return tried


def _plan(run: RunReport, checkpoint: CheckpointReport) -> ScriptChange:
    say(f"Resuming from {title(checkpoint)}: {checkpoint.name}")
    if kept := set_aside_from(run, checkpoint).sentence:
        say(f"Before it starts: {kept}")
    return plan_checked(run, checkpoint)


def _plan_undo(folder: Path) -> ScriptChange:
    """The script's newest backup in the script's place.

    :raises NoScript: when the run has no script.
    """
    script = find_script(folder)
    if script is None:
        raise NoScript(folder, "train.sh or train.bat")
    backup = next(iter(backups_of(Path(os.path.realpath(script)))), None)
    if backup is None:
        raise Usage(f"{script} has no backup, so there is nothing to undo.")
    return ScriptChange(
        script, script.read_bytes(), backup.read_bytes(), (f"{script.name} put back from {backup.name}",)
    )


def _carry_out(change: ScriptChange, folder: Path, dry_run: bool) -> None:
    """Show a change, write it unless it is a trial, and say how to go on."""
    for line in change.notes:
        say(f"Note: {line}")
    if change.is_noop:
        say("The train script already says this; nothing was written.")
    else:
        for line in change.summary:
            say(f"Change: {line}")
        show(diff_view(change.diff))
    if dry_run:
        say("Dry run: nothing was written.")
        return
    tell_how_to_go_on(change.execute(), folder)
