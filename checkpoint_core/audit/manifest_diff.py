"""What the manifests of a run tell of its states: their files now against those of the first check, by the listing.

Nothing is hashed here, and where no manifest lies beside the states nothing is opened.
"""

from __future__ import annotations

from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path

from checkpoint_core.audit.manifest import Manifest, manifest_name, read_manifest
from checkpoint_core.states import (
    MANIFESTS_FOLDER,
    RECORD,
    UNDONE,
    EntryKind,
    FileChange,
    FileEntry,
    ManifestFacts,
    ManifestFile,
    RecordUnusable,
    RepairRecord,
    RunDir,
    StateFacts,
    is_saved_file,
    list_directory,
    read_records,
)
from checkpoint_core.trainer import TOLERANCE_NS

_SECOND = 1_000_000_000


class RunManifests:
    """The manifests of one run as they lie on the disk at one look.

    :param found: the run's folder as it was listed.
    :param inside: the outputs folder; links out of it are not followed.
    """

    def __init__(self, found: RunDir, inside: Path) -> None:
        self._run = found.path
        own = {entry.name: entry for entry in found.listing.entries}
        folder, self._record = own.get(MANIFESTS_FOLDER), own.get(RECORD)
        listed: tuple[FileEntry, ...] = ()
        if folder is not None and folder.kind is EntryKind.DIRECTORY:
            listed = list_directory(found.path / MANIFESTS_FOLDER, inside).entries
        self._entries = {entry.name: entry for entry in listed if entry.kind is EntryKind.FILE}

    def stamp(self, state: Path) -> object:
        """What changes when a state's manifest does, or the record of repairs beside it; ``None`` without one."""
        entry = self._entries.get(manifest_name(self._name(state)))
        return (entry, self._record) if entry else None

    def facts(self, facts: StateFacts) -> ManifestFacts | None:
        """The state against its manifest; ``None`` where there is none of this save that can be read."""
        name = self._name(facts.path)
        if manifest_name(name) not in self._entries:
            return None
        manifest = read_manifest(self._run, name)
        if not isinstance(manifest, Manifest):
            return None
        repaired = self._repaired(manifest)
        return compared(facts, manifest, repaired)

    def _name(self, state: Path) -> str:
        return state.relative_to(self._run).as_posix()

    def _repaired(self, manifest: Manifest) -> frozenset[str] | None:
        """The files that a repair has changed since the manifest was made; ``None``: nobody can tell."""
        if self._records is None:
            return None
        made = (each for each in self._records if each.state == manifest.state and each.status != UNDONE)
        # A repair's time is told to the second.
        later = [each for each in made if _time_ns(each) + _SECOND > manifest.made_at_ns]
        return frozenset(file.name for each in later for file in each.files)

    @cached_property
    def _records(self) -> tuple[RepairRecord, ...] | None:
        try:
            return read_records(self._run)
        except RecordUnusable:
            return None


def _time_ns(record: RepairRecord) -> int:
    """When a repair was made; one whose time is not told counts as the latest."""
    try:
        moment = datetime.strptime(record.made_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        return int(moment.timestamp()) * _SECOND
    except (ValueError, OverflowError):
        return 2**63


def compared(
    facts: StateFacts, manifest: Manifest, repaired: frozenset[str] | None = frozenset()
) -> ManifestFacts | None:
    """A state's files against its manifest; ``None`` where the manifest belongs to an earlier save of that name.

    :param repaired: files that were repaired since; ``None`` where that is not known, then nothing is compared.
    """
    if _is_of_earlier_save(facts, manifest, repaired or frozenset()):
        return None
    files = {} if repaired is None else {
        name: file for name, file in manifest.files.items() if name not in repaired
    }  # fmt: skip
    changes = ((name, _change(facts.file(name), file)) for name, file in sorted(files.items()))
    return ManifestFacts(
        checked_at_ns=manifest.made_at_ns,
        verdict=manifest.verdict.value,
        findings=manifest.findings,
        was_good=manifest.is_good,
        files=files,
        changed=tuple((name, how) for name, how in changes if how is not None),
        repaired=repaired,
    )


def _is_of_earlier_save(facts: StateFacts, manifest: Manifest, repaired: frozenset[str]) -> bool:
    """Whether the state was written over since: every file that a save writes is newer then, not one or two."""
    if facts.saved_ns <= manifest.made_at_ns:
        return False
    present = [
        (entry, manifest.files[entry.name])
        for entry in facts.files
        if entry.kind is EntryKind.FILE and entry.name in manifest.files and is_saved_file(entry.name)
        and entry.name not in repaired
    ]  # fmt: skip
    return bool(present) and all(_is_later(entry, file) for entry, file in present)


def _is_later(entry: FileEntry, file: ManifestFile) -> bool:
    return abs(entry.modified_ns - file.modified_ns) > TOLERANCE_NS


def _change(entry: FileEntry | None, file: ManifestFile) -> FileChange | None:
    """How a file differs; copies and some disks keep times to two seconds only."""
    if entry is None or entry.kind is not EntryKind.FILE:
        return FileChange.MISSING
    if entry.size_bytes != file.size_bytes:
        return FileChange.SIZE
    return FileChange.TIME if _is_later(entry, file) else None
