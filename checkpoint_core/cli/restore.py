"""The command that brings back what a start would have overwritten, and was set aside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from checkpoint_core.cli.options import RunDirArgument
from checkpoint_core.cli.output import Usage, print_json, problems_told, say, stop
from checkpoint_core.recovery import NothingToRestore, Replaced, named, read_replaced, restore
from checkpoint_core.report import SCHEMA_VERSION, Json
from checkpoint_core.text import human_bytes
from checkpoint_core.training import Processes, training_status


def restore_replaced(
    run_dir: RunDirArgument,
    identity: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="Which of them; by default the newest.", show_default=False),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Bring it back; without it nothing is changed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """List what starts of a run would have overwritten, and bring one of it back with --apply.

    It lies in the run's folder .replaced. What is in its place now is set aside itself, so nothing is lost.

    Exit status: 0 listed or brought back; 1 it could not be; 2 wrong usage.
    """
    with problems_told():
        if as_json and apply:
            raise Usage("--json only lists what there is. Give either --json or --apply.")
        run = Path(os.path.abspath(run_dir))
        if not run.is_dir():
            raise Usage(f"There is no folder {run}. Give a run's folder, such as outputs/my-lora.")
        records = read_replaced(run) if identity is None else (_named(run, identity),)
        if as_json:
            print_json({"schema_version": SCHEMA_VERSION, "kind": "replaced", **replaced_json(run)})
            return
        for record in reversed(records):
            say(replaced_line(record))
        if not records:
            say("Nothing was set aside.")
        elif apply:
            _restore(run, records[-1])
        else:
            say("Nothing was changed. To bring one back: the same command with its name and --apply.")


def _named(run: Path, identity: str) -> Replaced:
    try:
        return named(run, identity)
    except NothingToRestore as error:
        raise Usage(str(error)) from error


def _restore(run: Path, record: Replaced) -> None:
    refuse_while_training(run)
    done, other = restore(run, record.id)
    say(f"Brought back: {done.what}.")
    if other is not None:
        say(f"What was in its place is in {other.place} now.")


def refuse_while_training(run: Path) -> None:
    """Leave where a training of the run goes on: it writes where things would change place."""
    if training_status(run, Processes()).is_running:
        stop("Refused: this run is training. Stop it first, or let it finish.")


def replaced_line(record: Replaced) -> str:
    """What was set aside at once, in one line."""
    return f"{record.id}: {record.what} ({human_bytes(record.size_bytes)}), set aside {record.made_at}"


def replaced_json(run: Path) -> Json:
    """What was set aside of a run, oldest first."""
    return {
        "replaced": [
            {
                "id": each.id,
                "made_at": each.made_at,
                "what": each.what,
                "size_bytes": each.size_bytes,
                "names": [entry.name.encode("utf-8", "backslashreplace").decode() for entry in each.entries],
            }
            for each in read_replaced(run)
        ]
    }
