"""The outputs folder to runs to state directories; no file is opened, no link is followed out of the folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from checkpoint_core.formats import DamageKind
from checkpoint_core.states.facts import Damage, EntryKind, FileEntry, Skipped
from checkpoint_core.states.layout import (
    AUTOMATIC_FOLDER,
    NOT_A_RUN,
    SavePoint,
    looks_like_state,
    parse_state_name,
)


class OutputsFolderError(ValueError):
    """The outputs folder that was given cannot be listed; the text says what to do."""


@dataclass(frozen=True)
class Listing:
    """A directory's entries by name, and the directory's own modification time; ``problem`` if unreadable."""

    entries: tuple[FileEntry, ...]
    modified_ns: int
    problem: Damage | None = None


@dataclass(frozen=True)
class StateDir:
    """A state directory that was found."""

    path: Path
    listing: Listing


@dataclass(frozen=True)
class RunDir:
    """A run's folder that was found, with its state directories and its own files."""

    path: Path
    listing: Listing
    states: tuple[StateDir, ...]
    skipped: tuple[Skipped, ...]


def list_directory(path: Path, inside: Path) -> Listing:
    """List one directory; a link is followed only to a place inside the folder ``inside``."""
    try:
        with os.scandir(path) as entries:
            found = tuple(sorted((_entry(entry, inside) for entry in entries), key=lambda entry: entry.name))
        return Listing(found, os.stat(path).st_mtime_ns)
    except OSError as error:
        return Listing((), 0, Damage(DamageKind.UNREADABLE, error.strerror or str(error)))


def _entry(entry: os.DirEntry[str], inside: Path) -> FileEntry:
    try:
        own = entry.stat(follow_symlinks=False)
        if _is_link(own) and not leads_inside(Path(entry.path), inside):
            return FileEntry(entry.name, 0, own.st_mtime_ns, EntryKind.OUTSIDE_LINK)
        status = entry.stat()
    except OSError:  # a dangling link, or gone since the listing
        return FileEntry(entry.name, 0, 0, EntryKind.OTHER)
    return FileEntry(entry.name, status.st_size, status.st_mtime_ns, _kind(status.st_mode))


def _kind(mode: int) -> EntryKind:
    if stat.S_ISREG(mode):
        return EntryKind.FILE
    return EntryKind.DIRECTORY if stat.S_ISDIR(mode) else EntryKind.OTHER


def _is_link(status: os.stat_result) -> bool:
    """Whether an entry may lead elsewhere: a symbolic link, or a junction of Windows, which is none to Python."""
    reparse_point = 0x400  # stat.FILE_ATTRIBUTE_REPARSE_POINT
    return stat.S_ISLNK(status.st_mode) or bool(getattr(status, "st_file_attributes", 0) & reparse_point)


def leads_inside(path: Path, inside: Path) -> bool:
    """Whether a path, all links resolved, lies in the folder ``inside``."""
    # Not Path.resolve(): before Python 3.13 it raises RuntimeError for links that lead in a circle.
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(inside))


def run_paths(outputs: Path) -> tuple[Path, ...]:
    """The folders of all runs, by name; ``sample`` and hidden folders are no runs.

    :raises OutputsFolderError: when the outputs folder is missing or cannot be read.
    """
    if not outputs.is_dir():
        raise OutputsFolderError(
            f"There is no folder {outputs}. FluxGym keeps its runs in the folder 'outputs' beside its app.py; "
            "give that folder. It appears with the first training."
        )
    listing = list_directory(outputs, outputs)
    if listing.problem:
        raise OutputsFolderError(f"The folder {outputs} cannot be read: {listing.problem.detail}.")
    return tuple(
        outputs / entry.name
        for entry in listing.entries
        if entry.kind is EntryKind.DIRECTORY and not is_no_run(entry.name)
    )


def find_runs(outputs: Path) -> Iterator[RunDir]:
    """Every run of an outputs folder, by name.

    :raises OutputsFolderError: when the outputs folder is missing or cannot be read.
    """
    for path in run_paths(outputs):
        yield find_run(path, outputs)


def skipped_entries(outputs: Path) -> tuple[Skipped, ...]:
    """The entries of an outputs folder that were left out though they may have been meant as runs."""
    listing = list_directory(outputs, outputs)
    return _outside_links(listing)


def is_no_run(name: str) -> bool:
    """Whether a folder of ``outputs`` is none of the user's runs."""
    return name in NOT_A_RUN or name.startswith(".")


def find_run(path: Path, outputs: Path | None = None) -> RunDir:
    """One run's folder: its state directories by name or by content."""
    inside = outputs or path.parent
    listing = list_directory(path, inside)
    states = tuple(_states(path, listing, inside, nested=False))
    return RunDir(path, listing, states, _outside_links(listing))


def _states(path: Path, listing: Listing, inside: Path, *, nested: bool) -> Iterator[StateDir]:
    """The state directories in a folder, and in accelerate's own folder in it: one level, for links may turn back."""
    for entry in listing.entries:
        if entry.kind is not EntryKind.DIRECTORY or is_no_run(entry.name):
            continue
        contents = list_directory(path / entry.name, inside)
        named_so = parse_state_name(entry.name).save_point is not SavePoint.OTHER
        if named_so or looks_like_state(file.name for file in contents.entries):
            yield StateDir(path / entry.name, contents)
        elif entry.name == AUTOMATIC_FOLDER and not nested:
            yield from _states(path / entry.name, contents, inside, nested=True)


def _outside_links(listing: Listing) -> tuple[Skipped, ...]:
    return tuple(
        Skipped(entry.name, "it is a link that leads out of the outputs folder; it was not followed")
        for entry in listing.entries
        if entry.kind is EntryKind.OUTSIDE_LINK
    )
