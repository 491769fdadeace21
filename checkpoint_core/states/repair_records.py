"""``repairs.json`` beside the states: which repairs were made, of which files, and how to take them back.

The record is written before the first file changes place and after the last, so a repair that was interrupted is told
by its status, and can be finished or reverted with what lies in ``.repairs/ID/``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from checkpoint_core.atomic_write import new_file
from checkpoint_core.formats import needed_text

#: In the run's folder; the folder's name begins with a dot, so it is never taken for a state.
RECORD, FOLDER = "repairs.json", ".repairs"
SCHEMA_VERSION = 1
_MAX_BYTES = 4 * 1024 * 1024
_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}\Z")
_PLAIN = re.compile(r"[^/\\\0]+\Z")

APPLYING, APPLIED, UNDOING, UNDONE = "applying", "applied", "undoing", "undone"
_STATUSES = frozenset({APPLYING, APPLIED, UNDOING, UNDONE})


class RecordUnusable(RuntimeError):
    """``repairs.json`` is not one that was written here; nothing is repaired or reverted over it."""


@dataclass(frozen=True)
class FileRecord:
    """One file of a repair; the digests are SHA-256 in hex, ``None`` where there was or is no such file."""

    name: str
    before: str | None
    after: str | None
    does: str


@dataclass(frozen=True)
class ScriptRecord:
    """The change of the train script that went with a repair; the digests are SHA-256 in hex."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class RepairRecord:
    """One repair: ``state`` is the state directory's path below the run's folder, ``made_at`` ISO 8601 in UTC."""

    id: str
    state: str
    made_at: str
    tool_version: str
    status: str
    files: tuple[FileRecord, ...]
    script: ScriptRecord | None = None

    @property
    def is_interrupted(self) -> bool:
        """Whether it was begun and neither finished nor reverted."""
        return self.status in (APPLYING, UNDOING)


def read_records(run: Path) -> tuple[RepairRecord, ...]:
    """The repairs of a run, oldest first; none where there was no repair.

    :raises RecordUnusable: when the file is broken or of a newer version.
    """
    path = run / RECORD
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is larger than any record of repairs")
        document = json.loads(path.read_bytes().decode("utf-8"))
        return tuple(_record(item) for item in document["repairs"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordUnusable(
            f"{path} could not be read as a record of repairs ({error}). Nothing was changed. Move it away if it is "
            f"not needed: the original files lie in {run / FOLDER}."
        ) from error


def _record(item: Mapping[str, Any]) -> RepairRecord:
    record = RepairRecord(
        **{key: needed_text(item[key]) for key in ("id", "state", "made_at", "tool_version", "status")},
        files=tuple(map(_file, item["files"])),
        script=_script(item["script"]) if item.get("script") else None,
    )
    # It comes from the disk, and its names become paths: none may lead out of the run's folder.
    parts = record.state.split("/")
    names = [*parts, *(file.name for file in record.files), *([record.script.name] if record.script else [])]
    if not _ID.match(record.id) or record.status not in _STATUSES or len(parts) > 2:
        raise ValueError("an entry is not one that was written here")
    if any(name in (".", "..") or not _PLAIN.match(name) for name in names):
        raise ValueError("an entry names a place outside the run")
    return record


def _file(item: Mapping[str, Any]) -> FileRecord:
    before, after = (None if item[key] is None else needed_text(item[key]) for key in ("before", "after"))
    return FileRecord(needed_text(item["name"]), before, after, needed_text(item["does"]))


def _script(item: Mapping[str, Any]) -> ScriptRecord:
    return ScriptRecord(**{key: needed_text(item[key]) for key in ("name", "before", "after")})


def write_record(run: Path, record: RepairRecord) -> None:
    """Add a repair to the run's record, or bring its entry up to date.

    :raises RecordUnusable: when the present file is broken.
    :raises WriteFailed: when it could not be written; it is as it was.
    """
    known = {each.id: each for each in read_records(run)}
    known[record.id] = record
    document = {"schema_version": SCHEMA_VERSION, "repairs": [asdict(each) for each in known.values()]}
    new_file(run / RECORD, json.dumps(document, indent=2).encode("utf-8") + b"\n")


def with_status(record: RepairRecord, status: str) -> RepairRecord:
    """The entry with another status."""
    return replace(record, status=status)
