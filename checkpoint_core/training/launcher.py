"""Starts, stops and takes over trainings, so that there is one a run and, unless forced, one a GPU.

Two windows that press at the same moment take turns at one lock; who comes second finds the first one's record, with
the watcher's process in it, and is refused. A record whose processes are gone is no obstacle.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from checkpoint_core.atomic_write import WriteFailed, locked
from checkpoint_core.audit import RunReport
from checkpoint_core.scripts import Dialect, dialect_of, find_script, is_run_folder, read_script
from checkpoint_core.training import processes
from checkpoint_core.training.log.files import (
    JournalLine,
    open_watcher_log,
    release_reserve,
    write_journal,
)
from checkpoint_core.training.processes import find_trainings, of_run
from checkpoint_core.training.record import (
    FOLDER,
    ProcessId,
    ProcessState,
    Request,
    TrainingRecord,
    folder_of,
    read_record,
    send_request,
    take_requests,
    with_status,
    write_record,
)
from checkpoint_core.training.spawn import start_watcher
from checkpoint_core.training.status import Life, life_of


class CannotStart(RuntimeError):
    """The training was not started, and nothing was changed; the text says why and what to do."""


class DeviceBusy(CannotStart):
    """Another training runs on the GPU; who wants both nevertheless may force it."""


class NothingRuns(LookupError):
    """There is no training of the run to stop or to watch."""


@dataclass(frozen=True)
class Start:
    """What is started, and how.

    ``python`` is the training interpreter, where it was found; ``force`` starts it beside another training on the same
    GPU; ``options`` are further ones for ``watch``.
    """

    run: Path
    bring_back: bool = False
    force: bool = False
    python: str | None = None
    options: tuple[str, ...] = ()


def overwrites(run: RunReport) -> str:
    """What a start of the script as it is would overwrite; empty where it goes on, or where nothing is there."""
    script, goes_on = run.facts.script, run.facts.resume_target.kind not in ("none", "empty")
    # A warm start tells the epoch at which it goes on.
    if script is None or goes_on or not run.checkpoints or script.has("--initial_epoch"):
        return ""
    count = len(run.checkpoints)
    there = "is 1 checkpoint" if count == 1 else f"are {count} checkpoints"
    return (
        "The train script has no --resume: it begins at epoch 1 and sets aside what is there, in .replaced. There "
        f"{there}. To continue the training, choose a checkpoint and resume from it."
    )


#: Findings of a run that say that its script begins with what is not this run's.
_FOREIGN_BEGINNINGS = ("resume-other-run", "weights-other-run", "initial-epoch-alone")


def begins_elsewhere(run: RunReport) -> str:
    """How a start of the script as it is would begin with another run's training, or late with none; else empty."""
    found = (each for each in run.findings if each.code in _FOREIGN_BEGINNINGS)
    return " ".join(f"{each.message} {each.effect} {each.cure}" for each in found)


def device_here() -> str:
    """The GPUs that a training started here would use, as CUDA is told."""
    return processes.devices_of(os.environ)


def start_detached(start: Start, spawn: Callable[..., object] = start_watcher) -> TrainingRecord:
    """Start a run's training with a watcher of its own, which outlives this process.

    :raises CannotStart: when it may not be started; :class:`DeviceBusy` when another one uses the GPU.
    :raises WriteFailed: when the run's folder cannot be written to.
    """
    with _turn():
        check(start)
        return _spawned(start, spawn, adopts=False)


def watch_detached(start: Start, spawn: Callable[..., object] = start_watcher) -> TrainingRecord:
    """Let a watcher follow a training that runs already, started elsewhere or left by a watcher that was killed.

    :raises NothingRuns: when none runs.
    :raises CannotStart: when it is watched already.
    """
    with _turn():
        found = of_run(start.run, find_trainings())
        life = life_of(start.run, read_record(start.run), found)
        if life is Life.WATCHED:
            raise CannotStart("This training is already monitored.")
        if life is not Life.UNWATCHED:
            raise NothingRuns("This run is no longer training; refresh.")
        return _spawned(start, spawn, adopts=True)


def _spawned(start: Start, spawn: Callable[..., object], adopts: bool) -> TrainingRecord:
    token = secrets.token_hex(8)
    arguments = [
        str(start.run),
        "--bring-back" if start.bring_back else "--no-bring-back",
        "--claimed",
        token,
    ]
    arguments += ["--python", start.python] if start.python else []
    arguments += start.options
    folder_of(start.run)
    take_requests(start.run)
    with open_watcher_log(start.run) as log:
        try:
            process = spawn(arguments, log)
        except OSError as error:
            raise CannotStart(f"The monitor could not be started: {error.strerror or error}.") from error
    watcher = processes.identify(process.pid)  # type: ignore[attr-defined]
    return claim(start, watcher, adopts, token)


def claim(start: Start, watcher: ProcessId | None, adopts: bool, token: str = "") -> TrainingRecord:
    """Write down that a process watches a run from now on; the caller has looked that nobody else does.

    :param token: by which the process knows that it is meant. On Windows the number of a process that was started by a
        virtual environment's ``python.exe`` is that of a launcher, and the watcher itself has another.
    """
    now, before = time.time_ns(), read_record(start.run)
    record = TrainingRecord(
        ProcessState.STARTING,
        socket.gethostname(),
        watcher,
        started_ns=now,
        since_ns=now,
        bring_back=start.bring_back,
        token=token,
    )
    if adopts and before is not None and before.status.is_live:
        # A training of ours whose watcher was killed keeps what is known of it.
        more = {"watcher": watcher, "bring_back": start.bring_back, "token": token}
        record = with_status(before, ProcessState.STARTING, now, **more)
    write_record(start.run, record)
    return record


def claim_here(start: Start, lost: str = "") -> tuple[TrainingRecord, bool]:
    """Let this very process watch a run; returns the claim, and whether a training is running already.

    :param lost: why it is not to be started, where none is running.
    :raises CannotStart: as :func:`start_detached`.
    """
    with _turn():
        found = of_run(start.run, find_trainings(watchers=False))
        adopts = life_of(start.run, read_record(start.run), found) is Life.UNWATCHED
        if not adopts and lost:
            raise CannotStart(lost)
        if not adopts:
            check(start)
        take_requests(start.run)
        return claim(start, processes.identify(os.getpid()), adopts), adopts


def stop(run: Path, now: bool = False, sleep: Callable[[float], None] = time.sleep) -> str:
    """End a run's training, and tell in words how. The watcher does it; where there is none, this process.

    :param now: at once, even in the middle of a save.
    :raises NothingRuns: when none runs.
    :raises WriteFailed: when the watcher could not be told.
    """
    record = read_record(run)
    found = of_run(run, find_trainings())
    life = life_of(run, record, found)
    if life is Life.WATCHED and record is not None and _is_renamed(run, record):
        return _stop_renamed(run, record, sleep)
    if life is Life.WATCHED:
        _leave_word(run, Request.STOP_NOW if now else Request.STOP)
        return "Stopping; the current save is finished first." if not now else "Stopping."
    if life is not Life.UNWATCHED:
        raise NothingRuns("No training of this run is running; there is nothing to stop.")
    own = record.training if record is not None and processes.is_alive(record.training) else None
    root = own or (found.root if found else None)
    if root is None:
        raise NothingRuns("No training of this run is running; there is nothing to stop.")
    if not processes.end_all(lambda: processes.members(root), sleep):
        raise CannotStart(
            "Some of its processes could not be ended: this user may not. End them in a terminal."
        )
    write_journal(run, JournalLine(time.time_ns(), "stopped", "Stopped, as you asked; it was not monitored."))
    if record is not None:
        write_record(run, with_status(record, ProcessState.STOPPED, time.time_ns(), training=None))
    return "Stopped."


def _is_renamed(run: Path, record: TrainingRecord) -> bool:
    """Whether the run's watcher looks for its requests in another folder: the run had another name when it began."""
    watched = processes.watched_run(record.watcher) if record.watcher is not None else None
    return watched is not None and watched != run.resolve()


def _stop_renamed(run: Path, record: TrainingRecord, sleep: Callable[[float], None]) -> str:
    """End a training and its watcher, which cannot be reached by the run's new name."""
    assert record.watcher is not None  # noqa: S101 - one that is alive was found
    watcher = record.watcher
    # The watcher first: it would start the training again. What it started is below it, whatever the record says.
    below = [each for each in map(processes.identify, processes.below(watcher)) if each is not None]
    roots = [*([record.training] if record.training else []), *below]
    left = processes.end_all(lambda: processes.only(watcher), sleep, 1.0)
    gone = processes.end_all(lambda: [each for root in roots for each in processes.members(root)], sleep)
    if not (left and gone):
        raise CannotStart(
            "Some of its processes could not be ended: this user may not. End them in a terminal."
        )
    told = "Stopped, as you asked. The run's folder was renamed while it trained."
    write_journal(run, JournalLine(time.time_ns(), "stopped", told))
    write_record(run, with_status(record, ProcessState.STOPPED, time.time_ns(), training=None, message=told))
    return "Stopped."


def retry(run: Path) -> str:
    """Let a crashed training that waits for its next start begin at once, and tell so.

    :raises NothingRuns: when none waits.
    :raises WriteFailed: when the watcher could not be told.
    """
    record = read_record(run)
    life = life_of(run, record, None)
    if record is None or life is not Life.WATCHED or record.status is not ProcessState.BACKOFF:
        raise NothingRuns("No training of this run is waiting to be started again.")
    _leave_word(run, Request.RETRY_NOW)
    return "Restarting now."


def _leave_word(run: Path, what: Request) -> None:
    try:
        send_request(run, what)
    except WriteFailed:
        # A disk that the training has filled: the room that was kept is enough for a word.
        if not release_reserve(run):
            raise
        send_request(run, what)


def check(start: Start) -> None:
    """Raise where a training may not be started.

    :raises CannotStart: with the reason; :class:`DeviceBusy` when another training uses the GPU and it is not forced.
    """
    run, trainings = start.run, find_trainings()
    life = life_of(run, read_record(run), of_run(run, trainings))
    if life is Life.WATCHED:
        raise CannotStart("This run is already training. Stop it first, or let it finish.")
    if life is Life.UNWATCHED:
        raise CannotStart(
            "This run is already training, but nothing monitors it. Press “Monitor this training” to see it here, or "
            "stop it."
        )
    _check_script(run, start.python)
    others = [each for each in trainings if each.run != run.resolve()]
    busy = next((each for each in others if processes.share_a_device(each.device, device_here())), None)
    if busy is not None and not start.force:
        raise DeviceBusy(_busy_words(busy.run.name, busy.root.pid, processes.has_gpu()))


def _busy_words(name: str, pid: int, has_gpu: bool) -> str:
    does, shared = (
        ("uses this GPU", "its memory, and one or both would crash")
        if has_gpu
        else ("is running on this machine", "its processors and its memory, and both would be slow")
    )
    return (
        f"The training of “{name}” {does} (process {pid}). Two trainings would share {shared}. Wait for it, or stop "
        "it."
    )


def _check_script(run: Path, python: str | None) -> None:
    path = find_script(run)
    if path is None:
        raise CannotStart("This run has no train script, so there is nothing to start. FluxGym writes one.")
    if (dialect_of(path) is Dialect.BAT) != (os.name == "nt"):
        raise CannotStart(f"{path.name} is for another operating system and can't run here.")
    script, problem = read_script(path)
    if script is None:
        raise CannotStart(f"The train script is not understood, so it is not run: {problem}")
    if script.output_dir and not is_run_folder(script.output_dir, run):
        raise CannotStart(
            f"The train script writes into {script.output_dir}, which is not this run's folder here: it was made on "
            "another machine, or the folder was moved. Let FluxGym rewrite it here, or run it where it belongs."
        )
    if python is None and b"accelerate launch" in path.read_bytes() and shutil.which("accelerate") is None:
        raise CannotStart(
            "No training interpreter is known, and there is no “accelerate” on PATH, so it would fail at once. Choose "
            "one under “Options” (--python on the command line)."
        )


@contextmanager
def _turn() -> Iterator[None]:
    """One at a time on this machine: whether a GPU is free and who takes it is one question."""
    with locked(Path(tempfile.gettempdir()) / f"{FOLDER}-turn"):
        yield
