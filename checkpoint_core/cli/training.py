"""The commands that train: ``watch``, ``stop`` and ``status``."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from checkpoint_core.atomic_write import WriteFailed
from checkpoint_core.audit import RunReport
from checkpoint_core.cli.exit_codes import ExitCode
from checkpoint_core.cli.options import LayoutOption, PythonOption, RunDirArgument, audited_run, auditor_of
from checkpoint_core.cli.output import Usage, print_json, problems_told, say, stop, tell
from checkpoint_core.environment import EnvironmentFacts
from checkpoint_core.report import training_json, training_lines
from checkpoint_core.text import local_time
from checkpoint_core.training import (
    CannotStart,
    DeviceBusy,
    JournalLine,
    LiveRun,
    NothingRuns,
    Policy,
    Processes,
    ProcessState,
    Start,
    TrainingProcess,
    TrainingRecord,
    launcher,
    processes,
    read_record,
    training_status,
    write_record,
)
from checkpoint_core.training import watch as watch_run

#: How long a watcher that was started for it waits for its claim to be written.
_CLAIM_SECONDS = 20.0
_POLICY = Policy()


def watch(
    run_dir: RunDirArgument,
    bring_back: Annotated[
        bool, typer.Option(help="Start it again from the best checkpoint whenever it crashes.")
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Start it even if another training uses the same GPU.")
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Begin where the script says, even at epoch 1 over checkpoints, which are set aside, or in another "
            "run.",
        ),
    ] = False,
    restarts: Annotated[
        int, typer.Option(min=0, help="Start it again no more often than this.")
    ] = _POLICY.restarts,
    fruitless: Annotated[
        int, typer.Option(min=1, help="Give up after so many crashes without a new good checkpoint.")
    ] = _POLICY.fruitless,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds before the first restart; doubled from crash to crash.")
    ] = _POLICY.first_wait,
    hang_minutes: Annotated[
        float, typer.Option(min=0.05, help="Minutes without output and with an idle GPU that are a hang.")
    ] = _POLICY.hang_minutes,
    layout: LayoutOption = None,
    python: PythonOption = None,
    claimed: Annotated[str, typer.Option("--claimed", hidden=True)] = "",
) -> None:
    """Start a run's training, or watch one that is running, to its end.

    Runs the train script in FluxGym's folder. After a crash it finds the cause, checks the checkpoints and continues
    from the best one; the event log records each decision. Ctrl-C stops watching, not the training.

    Exit status: 0 it reached its end; 1 it did not; 2 wrong usage, or there was nothing to start.
    """
    with problems_told():
        folder = Path(os.path.abspath(run_dir))
        auditor = auditor_of(folder.parent, layout, python)
        run = audited_run(folder, layout, python, auditor)
        policy = Policy(restarts, fruitless, wait, max(wait, _POLICY.longest_wait), hang_minutes)
        io = LiveRun(auditor, run.name, launcher.device_here(), on_line=_print_line)
        environment = run.environment
        found = environment.executable if isinstance(environment, EnvironmentFacts) else None
        start = Start(folder, bring_back, force, found)
        lost = "" if fresh else _reason_not_to_start(run)
        try:
            record, running = _claimed(folder, io, claimed) if claimed else _claim(start, io, lost)
            record = watch_run(io, record, policy, running)
        except DeviceBusy as error:
            raise Usage(f"{error} To start it all the same: --force.") from error
        except (CannotStart, NothingRuns) as error:
            raise Usage(str(error)) from error
        except KeyboardInterrupt:
            tell(
                "Monitoring has ended; the training continues. To end it: python -m checkpoint_core stop RUN_DIR"
            )
            raise typer.Exit(ExitCode.DOES_NOT) from None
        say(record.message)
        raise typer.Exit(ExitCode.RESUMES if record.status is ProcessState.EXITED else ExitCode.DOES_NOT)


def _reason_not_to_start(run: RunReport) -> str:
    """Why the script as it is should not be started without being asked, and how it is started all the same."""
    lost, elsewhere = launcher.overwrites(run), launcher.begins_elsewhere(run)
    if not lost and not elsewhere:
        return ""
    act = "begin at epoch 1" if lost else "start it"
    return " ".join(filter(None, (lost, elsewhere, f"To {act} all the same: --fresh.")))


def _print_line(line: JournalLine) -> None:
    say(f"{local_time(line.at_ns)}  {line.text}")


def _claim(start: Start, io: LiveRun, lost: str) -> tuple[TrainingRecord, TrainingProcess | None]:
    """Claim a run for this process: one that runs unwatched is taken over, else its script is to be started."""
    record, adopts = launcher.claim_here(start, lost)
    return record, _running(io, record) if adopts else None


def _claimed(run: Path, io: LiveRun, token: str) -> tuple[TrainingRecord, TrainingProcess | None]:
    """The claim that was made for this process by the one that started it."""
    until = time.monotonic() + _CLAIM_SECONDS
    while time.monotonic() < until:
        record = read_record(run)
        if record is not None and record.token == token:
            record = replace(record, watcher=processes.identify(os.getpid()))
            write_record(run, record)
            return record, _running(io, record)
        time.sleep(0.1)
    raise CannotStart("Meanwhile another process took over this training.")


def _running(io: LiveRun, record: TrainingRecord) -> TrainingProcess | None:
    """The training of a run that runs already, if one does."""
    if record.training is not None and processes.is_alive(record.training):
        return io.adopt(record.training, prints_here=not record.is_adopted)
    found = processes.of_run(io.run, processes.find_trainings(watchers=False))
    return io.adopt(found.root, prints_here=False) if found is not None else None


def stop_training(
    run_dir: RunDirArgument,
    now: Annotated[bool, typer.Option("--now", help="At once, even in the middle of a save.")] = False,
) -> None:
    """End a run's training with all its processes, after a save that is going on.

    Exit status: 0 it is ended, or its watcher was told; 1 it could not be; 2 nothing runs.
    """
    with problems_told():
        try:
            say(launcher.stop(Path(os.path.abspath(run_dir)), now))
        except NothingRuns as error:
            raise Usage(str(error)) from error
        except (CannotStart, WriteFailed) as error:
            stop(str(error))


def status(
    run_dir: RunDirArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Tell how a run's training stands: progress, warnings, and every decision of its watcher.

    Exit status: 0 it is running, or has reached its end; 1 it crashed or was stopped; 2 there was none here.
    """
    with problems_told():
        run = Path(os.path.abspath(run_dir))
        if not run.is_dir():
            raise Usage(f"There is no folder {run}. Give a run's folder, such as outputs/my-lora.")
        told = training_status(run, Processes())
        if as_json:
            print_json(training_json(told))
        else:
            for line in training_lines(told):
                say(line)
        if told.is_running:
            return
        if told.record is None:
            raise typer.Exit(ExitCode.COULD_NOT_TELL)
        raise typer.Exit(ExitCode.RESUMES if told.record.status is ProcessState.EXITED else ExitCode.DOES_NOT)
