"""All printing of the core: what the command line shows, says, and ends with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from checkpoint_core.audit import AuditReport, ScriptUnusable, UnknownName
from checkpoint_core.cli.exit_codes import ExitCode
from checkpoint_core.recovery import NothingToUndo, RepairFailed, ResumeRefused, StateChangedSinceShown
from checkpoint_core.scripts import SCRIPT_TROUBLE
from checkpoint_core.states import OutputsFolderError, RecordUnusable
from checkpoint_core.text import printable


class Usage(Exception):
    """The command was used wrongly; the text says how to use it."""


def prepare_streams() -> None:
    """A terminal or a file of another encoding shows an escape where it lacks a letter, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def problems_told() -> Iterator[None]:
    """Turns what can go wrong into one sentence and an exit status; anything else is a defect and shows itself."""
    try:
        yield
    except (Usage, UnknownName, OutputsFolderError, ScriptUnusable) as error:
        stop(str(error), ExitCode.COULD_NOT_TELL)
    except (
        *SCRIPT_TROUBLE,
        StateChangedSinceShown,
        NothingToUndo,
        RecordUnusable,
        RepairFailed,
        ResumeRefused,
    ) as error:
        stop(f"Refused: {error}")
    except OSError as error:
        stop(
            f"{error.filename or 'A file'} could not be read: {error.strerror or error}.",
            ExitCode.COULD_NOT_TELL,
        )
    except KeyboardInterrupt:
        stop("Cancelled.", ExitCode.COULD_NOT_TELL)


def stop(message: str, code: ExitCode = ExitCode.DOES_NOT) -> NoReturn:
    """End the command with a message on stderr."""
    _console(stderr=True).print(Text(printable(message, keep="\n")), soft_wrap=True)
    raise typer.Exit(code)


def _console(stderr: bool = False) -> Console:
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def show(view: RenderableType) -> None:
    """Print a view of :mod:`checkpoint_core.cli.views`."""
    _console().print(view, crop=False)


def say(line: str) -> None:
    """One line, never wrapped: paths and commands are copied from it."""
    _console().print(Text(printable(line)), soft_wrap=True)


def tell(line: str) -> None:
    """One line on stderr, beside whatever the command prints for programs."""
    _console(stderr=True).print(Text(printable(line)), soft_wrap=True)


def print_json(value: dict[str, Any]) -> None:
    """Print a JSON document and nothing else."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_csv(report: AuditReport) -> None:
    """Print the table as CSV and nothing else."""
    # pandas takes half a second that the other commands need not spend.
    from checkpoint_core.report import to_dataframe

    text = to_dataframe(report).to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ", lineterminator="\n")
    typer.echo(text.encode("utf-8", "surrogateescape"), nl=False)


def progress(what: str, amount: ProgressColumn, enabled: bool = True) -> Progress:
    """A bar on stderr, so that stdout holds the answer alone; none where no terminal shows it."""
    console = _console(stderr=True)
    shown = enabled and console.is_terminal
    return Progress(TextColumn(what), BarColumn(), amount, console=console, transient=True, disable=not shown)
