"""What is known of a run's training on the disk, so that every window and every restart of the interface finds it.

All of it lies in the run's folder ``.training``: the record (who watches, what runs, how it stands), the progress, the
journal, the log, and what was asked of the watcher. Only the watcher writes the record and the progress.
"""

from __future__ import annotations

import contextlib
import enum
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from checkpoint_core.atomic_write import WriteFailed, new_file, own_folder, remove_own_file
from checkpoint_core.formats import MAX_COUNT, needed_count, needed_text, number_in

#: In the run's folder; its name begins with a dot, so it is never taken for a state.
FOLDER = ".training"
_RECORD, _PROGRESS = "training.json", "progress.json"
LOG, WATCHER_LOG, JOURNAL = "train.log", "watcher.log", "journal.jsonl"
#: Written here these are a few kilobytes; a larger file is not ours.
_MAX_BYTES = 4_000_000


class ProcessState(enum.Enum):
    """How a training stands; the names are those that process managers use (supervisord's "process states")."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    #: It crashed, and is started again when its waiting time is over.
    BACKOFF = "backoff"
    #: It reached its end.
    EXITED = "exited"
    #: The user stopped it.
    STOPPED = "stopped"
    #: It crashed and is not started again; the message says why.
    FATAL = "fatal"

    @property
    def is_live(self) -> bool:
        """Whether a watcher is at work on it."""
        return self in (
            ProcessState.STARTING,
            ProcessState.RUNNING,
            ProcessState.STOPPING,
            ProcessState.BACKOFF,
        )


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be mistaken for a later one of the same number: its number, and when it began.

    ``started`` is in seconds, on whatever clock this machine's processes are dated by; see ``processes.py``.
    """

    pid: int
    started: float


@dataclass(frozen=True)
class TrainingRecord:
    """One training as its watcher wrote it down last; times are nanoseconds since 1970.

    ``host`` is the machine that runs it, for folders that several share. ``attempt`` counts its starts from 1.
    ``is_adopted`` marks a training that somebody else started. ``resumed_from`` is a state directory's name.
    ``warnings`` are what the user must know at once. ``next_try_ns`` is when a crashed one is started again.
    """

    status: ProcessState
    host: str
    watcher: ProcessId | None = None
    training: ProcessId | None = None
    started_ns: int = 0
    since_ns: int = 0
    attempt: int = 1
    bring_back: bool = False
    is_adopted: bool = False
    resumed_from: str = ""
    exit_status: int | None = None
    next_try_ns: int = 0
    message: str = ""
    warnings: tuple[str, ...] = ()
    #: States of an earlier training that this one has rolled back past: they were newer when it began.
    behind: tuple[str, ...] = ()
    #: Tells the watcher that was started for this record that it is the one.
    token: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record as plain values."""
        return {**asdict(self), "status": self.status.value}


def read_record(run: Path) -> TrainingRecord | None:
    """The record of a run's last training; ``None`` where there was none, or the file is not one of ours."""
    value = _read(run / FOLDER / _RECORD)
    try:
        return _record(value) if value else None
    except (KeyError, TypeError, ValueError):
        return None


def _record(value: dict[str, Any]) -> TrainingRecord:
    # What is missing becomes the default; the file may be anybody's, and one value of another kind tells so.
    rest: dict[str, Any] = {
        **{
            name: needed_count(value.get(name) or 0)
            for name in ("started_ns", "since_ns", "attempt", "next_try_ns")
        },
        **{name: bool(value.get(name)) for name in ("bring_back", "is_adopted")},
        **{name: needed_text(value.get(name) or "") for name in ("resumed_from", "message", "token")},
        **{name: tuple(map(needed_text, value.get(name) or ())) for name in ("warnings", "behind")},
    }
    return TrainingRecord(
        status=ProcessState(value["status"]),
        host=needed_text(value["host"]),
        watcher=_process(value.get("watcher")),
        training=_process(value.get("training")),
        exit_status=None
        if value.get("exit_status") is None
        else needed_count(value["exit_status"], -MAX_COUNT),
        **rest,
    )


def _process(value: Any) -> ProcessId | None:
    if not isinstance(value, dict):
        return None
    pid, started = needed_count(value["pid"], 1), number_in(value["started"])
    if pid >= 2**31 or started is None or not math.isfinite(started):
        raise ValueError("no process has that number")
    return ProcessId(pid, started)


def write_record(run: Path, record: TrainingRecord) -> None:
    """Write the record; raises WriteFailed."""
    _write(run, _RECORD, record.to_json())


def read_progress(run: Path) -> dict[str, Any]:
    """What the watcher last told of the progress, empty where it told nothing."""
    return _read(run / FOLDER / _PROGRESS) or {}


def write_progress(run: Path, progress: dict[str, Any]) -> None:
    """Write the progress; raises WriteFailed."""
    _write(run, _PROGRESS, progress)


def progress_time_ns(run: Path) -> int:
    """When the progress was last written, as the disk's own clock has it; 0 where it never was."""
    try:
        return (run / FOLDER / _PROGRESS).stat().st_mtime_ns
    except OSError:
        return 0


class Request(enum.Enum):
    """What can be asked of a watcher."""

    #: End the training: gently, after a save that is going on.
    STOP = "stop"
    #: End it at once, a save or not.
    STOP_NOW = "stop-now"
    #: Do not wait any longer for the next start.
    RETRY_NOW = "retry-now"
    BRING_BACK = "bring-back"
    LEAVE = "leave"


def send_request(run: Path, what: Request) -> None:
    """Leave word for the watcher of a run; it takes it within seconds. Raises WriteFailed."""
    folder_of(run)
    # One file a word, so that none takes another's place; of two that contradict each other the later counts.
    for other in _CONTRADICTS.get(what, ()):
        remove_own_file(_word(run, other))
    new_file(_word(run, what), b"")


def take_requests(run: Path) -> list[Request]:
    """What was asked since the last time, in that order; what cannot be taken away is told again the next time."""
    found = []
    for what in Request:
        try:
            found.append((_word(run, what).stat().st_mtime_ns, what.value, what))
        except OSError:
            continue
        with contextlib.suppress(WriteFailed):
            remove_own_file(_word(run, what))
    return [what for _, _, what in sorted(found)]


_CONTRADICTS = {Request.BRING_BACK: (Request.LEAVE,), Request.LEAVE: (Request.BRING_BACK,)}


def _word(run: Path, what: Request) -> Path:
    return run / FOLDER / f"ask-{what.value}"


def with_status(record: TrainingRecord, status: ProcessState, now_ns: int, **more: Any) -> TrainingRecord:
    """The record with another status, and since when."""
    return replace(record, status=status, since_ns=now_ns, **more)


def folder_of(run: Path) -> Path:
    """The run's folder for what belongs to its training, made where it is not there; raises WriteFailed."""
    return own_folder(run / FOLDER)


def _write(run: Path, name: str, value: dict[str, Any]) -> None:
    new_file(folder_of(run) / name, json.dumps(value, allow_nan=False).encode("utf-8"))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        value = json.loads(data.decode("utf-8")) if len(data) <= _MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
