"""What a repair will do to a state's files and to the train script: a frozen plan that shows itself, and no disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from checkpoint_core.scripts import ScriptChange
from checkpoint_core.states import FileEntry
from checkpoint_core.text import human_bytes


@dataclass(frozen=True)
class NewBytes:
    """A file's new content, held in memory: only for small files."""

    data: bytes = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """How much room it takes."""
        return len(self.data)


@dataclass(frozen=True)
class CopyOf:
    """A file's new content, taken from another file of the run; ``entry`` is that file as it was when planned."""

    path: Path
    entry: FileEntry

    @property
    def size_bytes(self) -> int:
        """How much room it takes."""
        return self.entry.size_bytes


Content: TypeAlias = "NewBytes | CopyOf"


@dataclass(frozen=True)
class FileRepair:
    """What becomes of one file of a state.

    ``before`` is the file as it was when planned, ``None`` where it was missing. ``content`` takes its place; ``None``
    sets the file aside. ``modified_ns`` is the time that the new file bears: times are evidence of a save's course, so
    a repaired file bears that of the save. ``does`` says what is changed and ``costs`` what is lost (empty: nothing);
    ``codes`` are the findings that it cures.
    """

    name: str
    before: FileEntry | None
    content: Content | None
    modified_ns: int
    does: str
    costs: str
    codes: frozenset[str]


@dataclass(frozen=True)
class ChangeSet:
    """A planned repair of one state directory, and the change of the script that goes with it.

    ``listing`` is the directory as it was when planned.
    """

    run: Path
    state: Path
    listing: tuple[FileEntry, ...]
    files: tuple[FileRepair, ...]
    script: ScriptChange | None = None

    @property
    def bytes_needed(self) -> int:
        """The room that new files take; originals that the disk cannot link take theirs once more."""
        return sum(file.content.size_bytes for file in self.files if file.content)

    @property
    def bytes_kept(self) -> int:
        """The size of the originals that are kept."""
        return sum(file.before.size_bytes for file in self.files if file.before)

    @property
    def lines(self) -> tuple[str, ...]:
        """The plan in sentences, one a file."""
        return tuple(_line(self.state.name, file) for file in self.files)


def _line(state: str, file: FileRepair) -> str:
    if file.content is None:
        return f"{state}/{file.name} is set aside: {file.does}"
    was = human_bytes(file.before.size_bytes) if file.before else "missing"
    return f"{state}/{file.name} ({was}, then {human_bytes(file.content.size_bytes)}): {file.does}"
