"""The commands that repair: ``repair`` for one checkpoint, ``recover`` for a run's best recovery option."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from checkpoint_core.audit import Auditor, CheckpointReport, RunReport, run_folder, title
from checkpoint_core.cli.options import (
    LayoutOption,
    PythonOption,
    RunDirArgument,
    audited_run,
    auditor_of,
    named_checkpoint,
    settled,
    tell_command,
    tell_how_to_go_on,
)
from checkpoint_core.cli.output import Usage, print_json, problems_told, say, show, stop
from checkpoint_core.cli.views import checkpoint_view, diff_view, recovery_view, repair_view
from checkpoint_core.recovery import (
    Choices,
    FixChoices,
    RecoveryOption,
    RecoveryPlan,
    RepairPlan,
    apply_option,
    change_of,
    look_again,
    plan_recovery,
    repair_of,
    transaction,
)
from checkpoint_core.report import recovery_json, repair_json

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
        run = settled(auditor, audited_run(folder, layout, python, auditor))
        item = named_checkpoint(run, path.relative_to(folder).as_posix())
        choices = Choices(epoch_in_state, FixChoices(more_epochs, skip_trained_steps))
        _repair(auditor, run, item, repair_of(auditor, run, item, choices), apply, as_json)


def recover(
    run_dir: RunDirArgument,
    apply: ApplyOption = False,
    option: Annotated[
        int | None,
        typer.Option(
            "--option",
            "--way",
            min=1,
            help="Apply this recovery option instead of the first.",
            show_default=False,
        ),
    ] = None,
    epoch_in_state: InStateOption = False,
    more_epochs: EpochsOption = 8,
    skip_trained_steps: SkipOption = False,
    layout: LayoutOption = None,
    python: PythonOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every recovery option for a run, best first, and take one with --apply.

    Each option says what it keeps and what it loses, in training steps.

    Exit status: 0 a checkpoint can be resumed, as it is or repaired; 1 none can, or it was refused; 2 could not
    tell (a save that is still going on), or wrong usage.
    """
    with problems_told():
        if as_json and (apply or option is not None):
            raise Usage("--json only shows the recovery options. Leave it out to apply one.")
        folder = Path(os.path.abspath(run_dir))
        auditor = auditor_of(folder.parent, layout, python)
        run = settled(auditor, audited_run(folder, layout, python, auditor))
        choices = Choices(epoch_in_state, FixChoices(more_epochs, skip_trained_steps))
        recovery = plan_recovery(auditor, run, choices)
        if as_json:
            print_json(recovery_json(run.name, recovery))
        else:
            show(recovery_view(recovery))
        if apply or option is not None:
            _apply_option(auditor, run, _wanted(recovery, option), apply)
        raise typer.Exit(_exit_code(recovery))


def _repair(
    auditor: Auditor,
    run: RunReport,
    item: CheckpointReport,
    repair_plan: RepairPlan | None,
    apply: bool,
    as_json: bool,
) -> None:
    if as_json:
        print_json(repair_json(item, repair_plan))
    if repair_plan is None:
        if not as_json:
            show(checkpoint_view(item))
        stop(
            "No known repair lets this checkpoint resume. Run “recover” on the run's folder to see the other recovery "
            "options."
        )
    if not repair_plan.is_needed and not as_json:
        say(f"{title(item)} resumes as it is; no repair is needed.")
    elif not as_json:
        say(f"{title(item)} ({item.name}) can be repaired:")
        show(repair_view(repair_plan))
    if not apply:
        if not as_json:
            say("Nothing was written. To apply it, run the same command with --apply.")
        return
    record = repair_plan.execute(look_again(auditor, run.name, item.name))
    say("Repaired." if repair_plan.is_needed else "Written.")
    kept = transaction.originals(run.facts.path, record)
    say(f"To undo it, run the same command with --undo instead of --apply. Originals are kept in {kept}.")
    tell_command(run.facts.path)


def _undo(folder: Path, state: Path) -> None:
    name = state.relative_to(folder).as_posix()
    transaction.finish_interrupted(folder)
    record = transaction.undoable(folder, name)
    if record is None:
        raise Usage(f"No repair of {name} is left to revert. There is nothing to undo.")
    keeps = transaction.keeps_its_script(folder, record)
    transaction.undo(folder, record.id)
    for line in transaction.restored(record, keeps):
        say(line)


def _wanted(recovery: RecoveryPlan, number: int | None) -> RecoveryOption:
    if number is not None and number > len(recovery.options):
        raise Usage(f"There are {len(recovery.options)} options. Give one of these numbers with --option.")
    if number is not None:
        return recovery.options[number - 1]
    if recovery.recommended is None:
        stop(f"Refused: {recovery.headline}")
    return recovery.recommended


def _apply_option(auditor: Auditor, run: RunReport, option: RecoveryOption, apply: bool) -> None:
    """Show everything that an option changes, and do it."""
    say(f"{option.title}:")
    change = change_of(run, option)
    if option.repair_plan is not None:
        show(repair_view(option.repair_plan))
    elif change is not None:
        show(diff_view(change.diff))
    if not apply:
        say("Nothing was written. To apply it, run the same command with --apply.")
        return
    applied = apply_option(option, change, look_again(auditor, run.name, option.checkpoint))
    if applied.record is not None:
        say(f"To undo: python -m checkpoint_core repair {run.facts.path / option.checkpoint} --undo")
        tell_command(run.facts.path)
    elif applied.receipt is not None:
        tell_how_to_go_on(applied.receipt, run.facts.path)


def _exit_code(recovery: RecoveryPlan) -> int:
    if recovery.wait:
        return 2
    return 0 if any(option.checkpoint for option in recovery.options) else 1
