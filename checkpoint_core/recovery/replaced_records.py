"""``record.json`` of what was set aside: what lies in ``.replaced/ID``, where it belongs, and how far it has come."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from checkpoint_core.atomic_write import new_file
from checkpoint_core.formats import needed_text
from checkpoint_core.recovery.set_aside import FOLDER

RECORD = "record.json"
SCHEMA_VERSION = 1
MOVING, DONE, RESTORING = "moving", "done", "restoring"
_STATUSES = frozenset({MOVING, DONE, RESTORING})
_MAX_BYTES = 16 * 1024 * 1024
_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}\Z")
_PLAIN = re.compile(r"(?!\.)[^/\\\0]+\Z")


@dataclass(frozen=True)
class ReplacedEntry:
    """One save that was set aside: its name in the run, and where it is kept, as :class:`~.set_aside.Kept` says."""

    name: str
    is_copy: bool = False
    beside: str = ""
    size_bytes: int = 0


@dataclass(frozen=True)
class Replaced:
    """What was set aside at once: ``made_at`` is ISO 8601 in UTC, ``what`` says in words what it is."""

    id: str
    made_at: str
    status: str
    what: str
    entries: tuple[ReplacedEntry, ...]

    @property
    def size_bytes(self) -> int:
        """The room that its saves take, without those that are kept beside."""
        return sum(entry.size_bytes for entry in self.entries if not entry.beside)

    @property
    def place(self) -> str:
        """The folder in the run that holds it."""
        return f"{FOLDER}/{self.id}"

    @property
    def told(self) -> str:
        """What was set aside, and where, in one line."""
        beside = [entry.beside for entry in self.entries if entry.beside]
        hidden = any(not entry.beside for entry in self.entries)
        places = [f"in {self.place}"] if hidden else []
        places += [f"the last save as {' and '.join(beside)}"] if beside else []
        return ", ".join([*([self.what] if hidden else []), *places])


def inside(run: Path, record: Replaced) -> Path:
    """The folder in which it is kept."""
    return run / FOLDER / record.id


def read_replaced(run: Path) -> tuple[Replaced, ...]:
    """What was set aside of a run, oldest first; a folder without a usable record is left alone and not told."""
    home = run / FOLDER
    if home.is_symlink() or not home.is_dir():
        return ()
    found = (_read(home / name) for name in sorted(os.listdir(home)) if _ID.match(name))
    return tuple(record for record in found if record is not None)


def _read(folder: Path) -> Replaced | None:
    try:
        status = os.lstat(folder / RECORD)
        is_ours = stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_BYTES
        if folder.is_symlink() or not is_ours:
            return None
        return _record(json.loads((folder / RECORD).read_bytes()), folder.name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _record(item: Mapping[str, Any], name: str) -> Replaced:
    texts = {key: needed_text(item[key]) for key in ("id", "made_at", "status", "what")}
    entries = tuple(map(_entry, item["entries"]))
    # It comes from the disk, and its names become paths: none may lead out of the run's folder or into a hidden one.
    names = [*(entry.name for entry in entries), *(entry.beside for entry in entries if entry.beside)]
    if texts["id"] != name or texts["status"] not in _STATUSES or not all(map(_PLAIN.match, names)):
        raise ValueError("it was not written here")
    return Replaced(**texts, entries=entries)


def _entry(item: Mapping[str, Any]) -> ReplacedEntry:
    size = item["size_bytes"]
    if not isinstance(size, int) or size < 0:
        raise ValueError("a size is none")
    return ReplacedEntry(
        needed_text(item["name"]), item["is_copy"] is True, needed_text(item["beside"]), size
    )


def write_replaced(run: Path, record: Replaced) -> None:
    """Write the record of what is set aside.

    :raises WriteFailed: when it could not be written.
    """
    document = {"schema_version": SCHEMA_VERSION, **asdict(record)}
    new_file(inside(run, record) / RECORD, json.dumps(document, indent=2).encode("ascii") + b"\n")


def size_of(path: Path) -> int:
    """The bytes of a file or of everything in a folder; links count nothing."""
    total = 0
    for home, _, files in os.walk(path):
        total += sum(_own_size(Path(home, name)) for name in files)
    return total + _own_size(path)


def _own_size(path: Path) -> int:
    status = os.lstat(path)
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
