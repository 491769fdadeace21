"""The manifest of a state: what its files were when the save had settled and was first checked.

Written beside the states, at ``.manifests/NAME.json`` in the run's folder, so that damage that comes later is told
from corruption while saving. Nothing here judges.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from checkpoint_core.atomic_write import WriteFailed, new_file, own_folder, remove_own_file
from checkpoint_core.audit.findings import LOST, Finding, FindingKind, Severity, StatePart, Subject, Verdict
from checkpoint_core.audit.reports import CheckpointReport
from checkpoint_core.formats import MAX_COUNT, DamageKind, FileReader, FormatError, needed_count, needed_text
from checkpoint_core.states import (
    MANIFESTS_FOLDER,
    Damage,
    EntryKind,
    FileEntry,
    ManifestFile,
    Reading,
    digest_of,
    reading,
)

SCHEMA_VERSION = 1
_MAX_BYTES = 1024 * 1024
_MAX_FILES = 1000
#: Most systems take 255 bytes for a name, and the writer's temporary file adds some.
_LONGEST_NAME = 180
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_PLAIN = re.compile(r"[^/\\\0]+\Z")
_CODE = re.compile(r"[a-z]+(-[a-z0-9]+)*\Z")

#: Findings about a file that is lost; those that another file makes good are softened to “needs a fix”.
_LOST = LOST | {FindingKind.INTERRUPTED}
_WEIGHTY = (Severity.ERROR, Severity.UNKNOWN, Severity.SAVING)


class StateChanged(OSError):
    """The state changed since it was looked at, so the facts and the bytes are not of one moment; look again."""


@dataclass(frozen=True)
class Manifest:
    """One state as it was first checked: ``state`` is its path below the run's folder, with ``/``.

    ``findings`` are the codes of warnings and worse about the state itself, the deciding one first. ``is_good`` says
    that nothing was wrong with the state itself: the script or the environment may still have been in its way.
    """

    state: str
    made_at_ns: int
    verdict: Verdict
    findings: tuple[str, ...]
    files: dict[str, ManifestFile]
    is_good: bool


def make_manifest(
    report: CheckpointReport,
    clock: Callable[[], int] = time.time_ns,
    count: Callable[[int], None] | None = None,
) -> Manifest:
    """The manifest of a state as it was just checked; every byte is read. A file that cannot be read is left out.

    :param clock: nanoseconds since the epoch.
    :param count: called with the size of each piece that was read; what it raises ends the reading.
    :raises StateChanged: when a file is no longer as it was checked.
    """
    files = {}
    for entry in report.facts.files:
        if entry.kind is not EntryKind.FILE:  # links that lead out of the outputs folder among them
            continue
        path = report.facts.path / entry.name
        # Only a format error tells of the file: what the caller's `count` raises must pass.
        with contextlib.suppress(FormatError):
            files[entry.name] = ManifestFile(entry.size_bytes, entry.modified_ns, digest_of(path, count))
        _check_unchanged(path, entry)
    own = [found for found in report.findings if found.subject is Subject.STATE]
    codes = dict.fromkeys(found.code for found in own if found.severity is not Severity.INFO)
    return Manifest(report.name, clock(), report.verdict, tuple(codes), files, not any(map(_is_bad, own)))


def _check_unchanged(path: Path, entry: FileEntry) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise StateChanged(f"{path.name} disappeared while it was checked.") from error
    if (status.st_size, status.st_mtime_ns) != (entry.size_bytes, entry.modified_ns):
        raise StateChanged(f"{path.name} was changed while it was checked.")


def _is_bad(found: Finding) -> bool:
    """Whether a finding about the state tells that the save failed. Old trainers write no ``train_state.json``."""
    lost = found.kind in _LOST and found.part is not StatePart.TRAIN_STATE
    return found.severity in _WEIGHTY or (found.severity is Severity.FIXABLE and lost)


def manifest_name(state: str) -> str:
    """The name of a state's manifest: flat, plain on every system, and another one for every state."""
    safe = quote(os.fsencode(state), safe="")
    if len(safe) > _LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(state)).hexdigest()
        # "=" is always quoted, so that no short name looks like that.
        safe = f"{safe[:100]}={digest[:32]}"
    return f"{safe}.json"


def write_manifest(run: Path, manifest: Manifest) -> Path:
    """Write a state's manifest, over an earlier one; returns its path.

    :raises WriteFailed: when it could not be written; an earlier one is as it was.
    """
    folder, path = _place(run, manifest.state)
    document = {"schema_version": SCHEMA_VERSION, **asdict(manifest), "verdict": manifest.verdict.value}
    own_folder(folder)
    return new_file(path, json.dumps(document, indent=2).encode("ascii") + b"\n")


def forget_manifest(run: Path, state: str) -> None:
    """Remove a state's manifest, if it has one.

    :raises WriteFailed: when it could not be removed.
    """
    remove_own_file(_place(run, state)[1])


def _place(run: Path, state: str) -> tuple[Path, Path]:
    """Where the manifest is written; a link in its place leads to a file of somebody else's."""
    folder = run / MANIFESTS_FOLDER
    path = folder / manifest_name(state)
    for each in (folder, path):
        if each.is_symlink():
            raise WriteFailed(
                f"{each} is a link; nothing is written through it. Remove the link and try again."
            )
    return folder, path


def read_manifest(run: Path, state: str) -> Reading[Manifest]:
    """A state's manifest; ``None`` where it has none. Links are not followed."""
    folder = run / MANIFESTS_FOLDER
    path = folder / manifest_name(state)
    if not os.path.lexists(path):
        return None
    if folder.is_symlink() or path.is_symlink():
        return Damage(DamageKind.UNREADABLE, "it is a link; it is not followed")
    return reading(lambda: _read(path, state))


def _read(path: Path, state: str) -> Manifest:
    with FileReader(path) as reader:
        if reader.size > _MAX_BYTES:
            raise FormatError(DamageKind.CORRUPT, f"it has {reader.size:,} bytes, more than any manifest")
        data = reader.at(0, reader.size)
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(DamageKind.CORRUPT, "it is not valid JSON") from error
    if isinstance(document, dict) and document.get("schema_version") != SCHEMA_VERSION:
        raise FormatError(DamageKind.UNSUPPORTED, "it is of another version of this program")
    try:
        manifest = _manifest(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(DamageKind.CORRUPT, "it is not a manifest that was written here") from error
    if manifest.state != state:
        raise FormatError(DamageKind.CORRUPT, "it is the manifest of another state")
    return manifest


def _manifest(document: Any) -> Manifest:
    """A document's manifest; everything in it comes from the disk.

    :raises ValueError, KeyError, TypeError, AttributeError: when it is none.
    """
    files, findings = document["files"], document["findings"]
    is_good = document["is_good"]
    if not isinstance(is_good, bool) or not isinstance(findings, list) or len(files) > _MAX_FILES:
        raise ValueError("a value is of another kind")
    return Manifest(
        state=needed_text(document["state"]),
        made_at_ns=needed_count(document["made_at_ns"]),
        verdict=Verdict(document["verdict"]),
        findings=_matching(findings, _CODE),
        files=dict(zip(_matching(files, _PLAIN), map(_file, files.values()), strict=True)),
        is_good=is_good,
    )


def _file(item: Any) -> ManifestFile:
    (digest,) = _matching([item["sha256"]], _SHA256)
    # Times before 1970 are negative.
    return ManifestFile(
        needed_count(item["size_bytes"]), needed_count(item["modified_ns"], -MAX_COUNT), digest
    )


def _matching(values: Iterable[Any], pattern: re.Pattern[str]) -> tuple[str, ...]:
    texts = tuple(map(needed_text, values))
    if not all(map(pattern.match, texts)):
        raise ValueError("a text is not of the form that is written here")
    return texts
