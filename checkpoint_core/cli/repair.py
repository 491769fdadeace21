"""The commands that repair: ``repair`` for one checkpoint, ``recover`` for a run's best way on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from checkpoint_core.audit.auditor import Auditor, CheckpointReport
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.audit.single_state import run_folder
from checkpoint_core.audit.wording import title
from checkpoint_core.cli.options import (
    LayoutOption,
    PythonOption,
    RunDirArgument,
    audited_run,
    auditor_of,
    named_checkpoint,
    tell_command,
    tell_how_to_go_on,
)
from checkpoint_core.cli.output import Usage, print_json, problems_told, say, show, stop, tell
from checkpoint_core.cli.views import checkpoint_view, diff_view, mend_view, recovery_view
from checkpoint_core.recovery import transaction as workshop
from checkpoint_core.recovery.options import Recovery, Way
from checkpoint_core.recovery.planning import change_of, look_again, mend_of, plan_recovery, take
from checkpoint_core.recovery.repair import Choices, Mend
from checkpoint_core.recovery.script_fixes import CureChoices
from checkpoint_core.report.json_schema import mend_json, recovery_json

ApplyOption = Annotated[bool, typer.Option("--apply", help="Carry it out; without it nothing is written.")]
InStateOption = Annotated[
    bool,
    typer.Option(
        "--epoch-in-state",
        help="Correct a wrong epoch in train_state.json; by default the script says it (--initial_epoch).",
    ),
]
EpochsOption = Annotated[
    int, typer.Option("--more-epochs", min=1, help="How many further epochs a finished run is to train.")
]
SkipOption = Annotated[
    bool,
    typer.Option("--skip-trained-steps", help="Skip the steps of an epoch that were trained already."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def repair(
    state: Annotated[Path, typer.Argument(metavar="STATE", help="A state directory (…-state).")],
    apply: ApplyOption = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Bring back what the last repair of this checkpoint changed.")
    ] = False,
    epoch_in_state: InStateOption = False,
    more_epochs: EpochsOption = 8,
    skip_trained_steps: SkipOption = False,
    layout: LayoutOption = None,
    python: PythonOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what lets a checkpoint resume, and do it with --apply.

    Files of the state are written anew where the others tell what they held, and flags of the train script are set
    as the checkpoint needs them. Originals are kept in the run's folder .repairs, and repairs.json tells what was
    done.

    Exit status: 0 it can be repaired, or needs no repair; 1 no repair is known, or it was refused; 2 wrong usage.
    """
    with problems_told():
        if apply and undo:
            raise Usage("Give either --apply or --undo, not both.")
        path = Path(os.path.abspath(state))
        folder = run_folder(path)
        if undo:
            _undo(folder, path)
            return
        auditor = auditor_of(folder.parent, layout, python)
        if as_json and apply:
            raise Usage("--json shows the repair and does not do it. Give either --json or --apply.")
        run = _settled(auditor, audited_run(folder, layout, python, auditor))
        item = named_checkpoint(run, path.relative_to(folder).as_posix())
        choices = Choices(epoch_in_state, CureChoices(more_epochs, skip_trained_steps))
        _repair(auditor, run, item, mend_of(auditor, run, item, choices), apply, as_json)


def recover(
    run_dir: RunDirArgument,
    apply: ApplyOption = False,
    way: Annotated[
        int | None,
        typer.Option("--way", min=1, help="Take this way instead of the first.", show_default=False),
    ] = None,
    epoch_in_state: InStateOption = False,
    more_epochs: EpochsOption = 8,
    skip_trained_steps: SkipOption = False,
    layout: LayoutOption = None,
    python: PythonOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every way on for a run, best first, and take one with --apply.

    Each way tells what it keeps and what it loses, in steps of training.

    Exit status: 0 a checkpoint can be resumed, as it is or repaired; 1 none can, or it was refused; 2 could not
    tell (a save that is still going on), or wrong usage.
    """
    with problems_told():
        if as_json and (apply or way is not None):
            raise Usage("--json shows the ways on and takes none. Take one without it.")
        folder = Path(os.path.abspath(run_dir))
        auditor = auditor_of(folder.parent, layout, python)
        run = _settled(auditor, audited_run(folder, layout, python, auditor))
        choices = Choices(epoch_in_state, CureChoices(more_epochs, skip_trained_steps))
        recovery = plan_recovery(auditor, run, choices)
        if as_json:
            print_json(recovery_json(run.name, recovery))
        else:
            show(recovery_view(recovery))
        if apply or way is not None:
            _take(auditor, run, _wanted(recovery, way), apply)
        raise typer.Exit(_exit_code(recovery))


def _settled(auditor: Auditor, run: RunReport) -> RunReport:
    """The run, after what an earlier repair left half done is finished: nothing may be judged by it."""
    done = workshop.settle(run.facts.path)
    for record in done:
        tell(f"A repair of {record.state} had been interrupted; it is finished now ({record.status}).")
    return auditor.audit_run(run.name) if done else run


def _repair(
    auditor: Auditor, run: RunReport, item: CheckpointReport, mend: Mend | None, apply: bool, as_json: bool
) -> None:
    if as_json:
        print_json(mend_json(item, mend))
    if mend is None:
        if not as_json:
            show(checkpoint_view(item))
        stop(
            "No repair is known that lets this checkpoint resume. “recover” with the run's folder tells the other "
            "ways on."
        )
    if not mend.is_needed and not as_json:
        say(f"{title(item)} resumes as it is; nothing has to be repaired.")
    elif not as_json:
        say(f"{title(item)} ({item.name}) can be repaired:")
        show(mend_view(mend))
    if not apply:
        if not as_json:
            say("Nothing was written. To do it: the same command with --apply.")
        return
    record = mend.execute(look_again(auditor, run.name, item.name))
    say("Repaired." if mend.is_needed else "Written.")
    kept = workshop.originals(run.facts.path, record)
    say(f"To undo: the same command with --undo. Originals are kept in {kept}.")
    tell_command(run.facts.path)


def _undo(folder: Path, state: Path) -> None:
    name = state.relative_to(folder).as_posix()
    workshop.settle(folder)
    record = workshop.undoable(folder, name)
    if record is None:
        raise Usage(
            f"No repair of {name} was carried out that is not taken back already. There is nothing to undo."
        )
    keeps = workshop.keeps_its_script(folder, record)
    workshop.undo(folder, record.id)
    say(f"{name} is as it was before the repair.")
    if record.script and keeps:
        say(f"Note: {record.script.name} was changed since and is left as it is.")
    elif record.script:
        say(f"{record.script.name} is as it was before.")


def _wanted(recovery: Recovery, number: int | None) -> Way:
    if number is not None and number > len(recovery.ways):
        raise Usage(f"There are {len(recovery.ways)} ways. Give one of these numbers with --way.")
    if number is not None:
        return recovery.ways[number - 1]
    if recovery.recommended is None:
        stop(f"Refused: {recovery.headline}")
    return recovery.recommended


def _take(auditor: Auditor, run: RunReport, way: Way, apply: bool) -> None:
    """Show everything that a way changes, and do it."""
    say(f"{way.title}:")
    change = change_of(run, way)
    if way.mend is not None:
        show(mend_view(way.mend))
    elif change is not None:
        show(diff_view(change.diff))
    if not apply:
        say("Nothing was written. To do it: the same command with --apply.")
        return
    taken = take(way, change, look_again(auditor, run.name, way.checkpoint))
    if taken.record is not None:
        say(f"To undo: python -m checkpoint_core repair {run.facts.path / way.checkpoint} --undo")
        tell_command(run.facts.path)
    elif taken.receipt is not None:
        tell_how_to_go_on(taken.receipt, run.facts.path)


def _exit_code(recovery: Recovery) -> int:
    if recovery.wait:
        return 2
    return 0 if any(way.checkpoint for way in recovery.ways) else 1
