"""What the command line's commands share: their options, and the run, checkpoint and Python that were named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from checkpoint_core.audit import Auditor, CheckpointReport, RunReport, UnknownName
from checkpoint_core.cli.output import Usage, say, tell
from checkpoint_core.environment import environment_source
from checkpoint_core.recovery import transaction
from checkpoint_core.scripts import Receipt, find_script, read_script, run_command
from checkpoint_core.states import Layout, find_runs

LayoutOption = Annotated[
    Layout | None,
    typer.Option(
        help="Judge by this layout instead of by the trainer that the train script names.", show_default=False
    ),
]
PythonOption = Annotated[
    Path | None,
    typer.Option(
        "--python",
        metavar="PATH",
        help="The training interpreter, if it is not found in FluxGym's folder.",
        show_default=False,
    ),
]
RehearseOption = Annotated[
    bool,
    typer.Option(
        "--rehearse", help="Test-load it with the training interpreter, on the CPU and without the model."
    ),
]
RunDirArgument = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, such as outputs/my-lora.")
]


def auditor_of(outputs: Path, layout: Layout | None, python: Path | None) -> Auditor:
    """Who judges the runs of an outputs folder."""
    root = Path(os.path.abspath(outputs)).parent
    return Auditor(outputs, layout, environment=environment_source(root, chosen=usable_python(python)))


def usable_python(python: Path | None) -> Path | None:
    """The Python that was named: a path, an environment's folder, or a name that the shell would find."""
    if python is None:
        return None
    found = python if python.exists() else shutil.which(python)
    if found is None:
        raise Usage(f"There is no Python {python}. Give the path of one, or of its environment's folder.")
    return Path(os.path.abspath(found))


def audited_run(
    folder: Path, layout: Layout | None, python: Path | None, auditor: Auditor | None = None
) -> RunReport:
    """The run whose folder was given.

    :raises UnknownName: when the folder is none.
    """
    if not folder.is_dir():
        raise Usage(f"There is no folder {folder}. Give a run's folder, such as outputs/my-lora.")
    try:
        auditor = auditor or auditor_of(folder.parent, layout, python)
        run = auditor.audit_run(folder.name)
    except UnknownName as error:
        hint = "Give a run's folder, such as outputs/my-lora; a link to a folder elsewhere is not followed."
        raise Usage(f"{folder} is not a run's folder. {hint}") from error
    if not run.checkpoints and run.facts.script is None and (runs := _runs_in(folder)):
        raise Usage(f"{folder} is not a run's folder but holds some. Give one of them: {', '.join(runs)}.")
    return run


def _runs_in(folder: Path) -> list[str]:
    """The runs with checkpoints or a script in a folder that was taken for a run itself."""
    return [found.path.name for found in find_runs(folder) if found.states or find_script(found.path)]


def settled(auditor: Auditor, run: RunReport) -> RunReport:
    """The run, after what an earlier repair left half done is finished: nothing may be judged by it."""
    done = transaction.finish_interrupted(run.facts.path)
    for record in done:
        tell(f"A repair of {record.state} had been interrupted; it is finished now ({record.status}).")
    return auditor.audit_run(run.name) if done else run


def named_checkpoint(run: RunReport, state: str) -> CheckpointReport:
    """The checkpoint of that name; its path, as a shell completes it, is understood too."""
    wanted = f"/{Path(state).as_posix()}"
    named = [checkpoint.name for checkpoint in run.checkpoints if wanted.endswith(f"/{checkpoint.name}")]
    try:
        return run.checkpoint(max(named, key=len, default=state))
    except UnknownName as error:
        names = ", ".join(checkpoint.name for checkpoint in run.checkpoints) or "none"
        raise Usage(f"{error} It has: {names}.") from error


def tell_how_to_go_on(receipt: Receipt, folder: Path) -> None:
    """Where the script was written, how to take it back, and the command that trains."""
    if receipt.backup:
        say(f"Written: {receipt.path}")
        say(f"Backup: {receipt.backup}")
        say(
            f"To undo, copy the backup over the script or run: python -m checkpoint_core resume {folder} --undo"
        )
    tell_command(folder)


def tell_command(folder: Path) -> None:
    """The command that trains a run, and where to run it; nothing for a run without a script."""
    path = find_script(folder)
    if path is None:
        return
    script, _ = read_script(path)
    run_it = run_command(path, script.output_dir if script else None)
    say(f"To train, run this in {run_it.folder}, with FluxGym's environment active:")
    say(f"  {run_it.command}")
