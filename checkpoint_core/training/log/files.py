"""The log of a training and its journal: appended to, kept small, never in the way of the training.

The training writes its log itself, without a pipe, so that it goes on whatever happens to those who watch it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from checkpoint_core.training.record import FOLDER, JOURNAL, LOG, WATCHER_LOG

#: Earlier logs that are kept beside the present one.
KEPT_LOGS = 5
#: A log that grows larger while the training runs begins anew: far more than any training prints in a week.
MAX_LOG_BYTES = 64_000_000
_CHUNK_BYTES = 1 << 20
_RESERVE, _RESERVE_BYTES = "reserve", 128 * 1024
_MAX_JOURNAL_BYTES = 256_000


@dataclass(frozen=True)
class JournalLine:
    """One decision of the watcher, or what it saw; ``at_ns`` is since 1970, ``kind`` for programs."""

    at_ns: int
    kind: str
    text: str


def open_log(run: Path) -> IO[bytes]:
    """The run's log, to be appended to by a training that is started; what is there becomes the newest earlier log.

    :raises OSError: when it cannot be written.
    """
    path = run / FOLDER / LOG
    path.parent.mkdir(exist_ok=True)
    if (path.exists() and path.stat().st_size) or _cut(path).exists():
        for age in reversed(range(KEPT_LOGS)):
            _move_log(_earlier(path, age), _earlier(path, age + 1))
    return path.open("ab")


def open_watcher_log(run: Path) -> IO[bytes]:
    """What the run's watcher prints, anew with each watcher; for whoever looks for a defect of ours.

    :raises OSError: when it cannot be written.
    """
    return (run / FOLDER / WATCHER_LOG).open("wb")


def _earlier(path: Path, age: int) -> Path:
    return path.with_name(f"{path.name}.{age}") if age else path


def _cut(path: Path) -> Path:
    """Where the end of a log lies that began anew: a start has one log, in two parts."""
    return path.with_name(f"{path.name}.cut")


def _move_log(path: Path, to: Path) -> None:
    """Give a start's log another name, both parts of it; one that is not there leaves the other as it is."""
    if not path.exists() and not _cut(path).exists():
        return
    for here, there in ((path, to), (_cut(path), _cut(to))):
        try:
            os.replace(here, there)
        except FileNotFoundError:
            there.unlink(missing_ok=True)  # that of another start


def trim_log(run: Path, limit: int = MAX_LOG_BYTES) -> bool:
    """Begin the log anew where it has grown too large; its end is kept beside it. Returns whether it did.

    Logs of earlier starts stay as they are. The training appends to it, so its next line stands at the new beginning.
    Lines that it writes at this very moment may be missed.
    """
    path = run / FOLDER / LOG
    cut = _cut(path)
    part = cut.with_name(f"{cut.name}.part")
    try:
        # On Windows a program goes on writing at its old place, and the log would be as large again at once.
        if os.name == "nt" or path.stat().st_size <= limit:
            return False
        part.unlink(missing_ok=True)
        with path.open("rb") as log, part.open("xb") as kept:
            log.seek(-limit // 2, os.SEEK_END)
            for piece in iter(lambda: log.read(_CHUNK_BYTES), b""):
                kept.write(piece)
        os.replace(part, cut)
        os.truncate(path, 0)
    except OSError:  # a full disk, a Windows that holds the file: the training is more important than its log
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        return False
    return True


class LogFollower:
    """Reads what was appended to a run's log since the last time."""

    def __init__(self, run: Path, offset: int = 0) -> None:
        self._path, self._offset = run / FOLDER / LOG, offset

    def read(self, most: int = 8 * _CHUNK_BYTES) -> bytes:
        """The next bytes, at most so many; none where there are none, or no log."""
        try:
            with self._path.open("rb") as log:
                if os.fstat(log.fileno()).st_size < self._offset:
                    self._offset = 0  # it began anew
                log.seek(self._offset)
                data = log.read(most)
        except OSError:
            return b""
        self._offset += len(data)
        return data


def log_end(run: Path, most: int = 128_000) -> bytes:
    """The last bytes of a run's log, in both its parts; none where there is none."""
    data = _end(run / FOLDER / LOG, most)
    missing = most - len(data)
    return _end(_cut(run / FOLDER / LOG), missing) + data if missing else data


def _end(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most))
            return file.read(most)
    except OSError:
        return b""


def keep_reserve(run: Path) -> None:
    """Keep a little room, so that on a disk that the training has filled there is some left to say so."""
    with contextlib.suppress(OSError), (run / FOLDER / _RESERVE).open("wb") as file:
        file.write(os.urandom(_RESERVE_BYTES))  # what a disk compresses would keep no room


def release_reserve(run: Path) -> bool:
    """Give the room back that was kept; returns whether there was any."""
    try:
        os.unlink(run / FOLDER / _RESERVE)
    except OSError:
        return False
    return True


def write_journal(run: Path, line: JournalLine) -> bool:
    """Add a line to the run's journal; returns whether the disk took it: one that is full must not stop the watch."""
    path = run / FOLDER / JOURNAL
    text = json.dumps({"at_ns": line.at_ns, "kind": line.kind, "text": line.text}) + "\n"
    try:
        _append_line(path, text.encode("utf-8"))
    except OSError:
        return False
    return True


def _append_line(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    if path.exists() and path.stat().st_size > _MAX_JOURNAL_BYTES:
        os.replace(path, _earlier(path, 1))
    with path.open("ab") as journal:
        journal.write(data)


def read_journal(run: Path, most: int = 200) -> tuple[JournalLine, ...]:
    """The last lines of a run's journal, oldest first; what cannot be read is passed over."""
    path = run / FOLDER / JOURNAL
    data = _end(path, _MAX_JOURNAL_BYTES)
    if len(data) < _MAX_JOURNAL_BYTES // 2:
        data = _end(_earlier(path, 1), _MAX_JOURNAL_BYTES) + data
    return tuple(_journal_lines(data))[-most:]


def _journal_lines(data: bytes) -> Iterator[JournalLine]:
    for line in data.decode("utf-8", "replace").splitlines():
        try:
            value: Any = json.loads(line)
            yield JournalLine(int(value["at_ns"]), str(value["kind"]), str(value["text"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
