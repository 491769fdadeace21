"""A state directory to facts: the one place where a format error becomes a value.

Nothing here raises for what lies on the disk: one damaged file never hides the others, one damaged state never
hides the run.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from checkpoint_core.formats import DamageKind, FormatError, unreadable
from checkpoint_core.states import layout, readers
from checkpoint_core.states.discovery import StateDir, list_directory
from checkpoint_core.states.facts import (
    Damage,
    EntryKind,
    FileEntry,
    LoraFacts,
    Reading,
    StateFacts,
    WeightsFacts,
)
from checkpoint_core.states.layout import Layout, parse_state_name

T = TypeVar("T")

_WEIGHTS_FILES = (
    layout.WEIGHTS_SAFE,
    layout.WEIGHTS_SAFE_INDEX,
    layout.WEIGHTS_PICKLED,
    layout.WEIGHTS_PICKLED_INDEX,
)


def reading(read: Callable[[], T]) -> T | Damage:
    """What a reader gives, its format error as a :class:`Damage`."""
    try:
        return read()
    except FormatError as error:
        return reading_of(error)
    except FileNotFoundError:
        return Damage(DamageKind.UNREADABLE, "it disappeared while it was read")
    except OSError as error:
        return reading_of(unreadable(error))
    except Exception as error:  # noqa: BLE001 - a reader's defect, or no memory: it must not hide the other files
        return Damage(DamageKind.UNSUPPORTED, f"reading it failed ({type(error).__name__})")


def reading_of(error: FormatError) -> Damage:
    """A format error as a value."""
    return Damage(error.kind, error.detail, error.names, error.is_hostile)


def inspect_state(
    found: StateDir,
    inside: Path,
    layout_choice: tuple[Layout, str],
    output_name: str | None,
    lora: Reading[LoraFacts],
    now_ns: int,
) -> StateFacts:
    """Observe one state directory.

    :param inside: the outputs folder; links out of it are not followed.
    :param layout_choice: the layout to judge by, and where it was taken from.
    :param output_name: the script's ``--output_name``, which tells a last state from an epoch's.
    :param lora: the reading of the LoRA file of the same epoch or step.
    :param now_ns: the time of the observation.
    """
    entries = {entry.name: entry for entry in found.listing.entries}

    def read(name: str, reader: Callable[[Path], T]) -> T | Damage | None:
        entry = entries.get(name)
        if entry is None:
            return None
        return unusable(entry) or reading(lambda: reader(found.path / name))

    facts = StateFacts(
        path=found.path,
        name=parse_state_name(found.path.name, output_name),
        layout=layout_choice[0],
        layout_source=layout_choice[1],
        observed_ns=now_ns,
        changed=False,
        modified_ns=found.listing.modified_ns,
        files=found.listing.entries,
        problem=found.listing.problem,
        train_state=read(layout.TRAIN_STATE, readers.read_train_state),
        weights=_weights(found.path, entries),
        optimizer=read(layout.OPTIMIZER, readers.read_optimizer),
        scheduler=read(layout.SCHEDULER, readers.read_scheduler),
        random_states=read(layout.RANDOM_STATES, readers.read_random_states),
        custom_object=read(layout.CUSTOM_OBJECT, readers.read_custom_object),
        lora=lora,
    )
    return _marked_if_changed(facts, found, inside)


def unusable(entry: FileEntry) -> Damage | None:
    """Why an entry is not read at all, if so."""
    if entry.kind is EntryKind.OUTSIDE_LINK:
        return Damage(
            DamageKind.UNREADABLE, "it is a link that leads out of the outputs folder; it is not followed"
        )
    if entry.kind is not EntryKind.FILE:
        return Damage(DamageKind.UNREADABLE, "it is not a regular file")
    return None


def _weights(path: Path, entries: dict[str, FileEntry]) -> Reading[WeightsFacts]:
    present = [entries[name] for name in _WEIGHTS_FILES if name in entries]
    if not present:
        return None
    usable = frozenset(entry.name for entry in entries.values() if entry.kind is EntryKind.FILE)
    return unusable(present[0]) or reading(lambda: readers.read_weights(path, usable))


def _marked_if_changed(facts: StateFacts, found: StateDir, inside: Path) -> StateFacts:
    """Look a second time: a listing that differs means that a save is going on."""
    # Listing again is the second cheapest thing after trusting the first; only a recent state can be changing.
    if facts.observed_ns - facts.saved_ns > RECENT_NS:
        return facts
    again = list_directory(found.path, inside)
    if again.entries == found.listing.entries:
        return facts
    return replace(facts, changed=True)


#: A save takes milliseconds a file on a local disk, and seconds on a slow one (measured); an incomplete state
#: that nobody has touched for so long is not being written any more.
RECENT_NS = 60 * 1_000_000_000


def inspect_lora(path: Path, entry: FileEntry) -> Reading[LoraFacts]:
    """Observe a LoRA file by its header."""
    return unusable(entry) or reading(lambda: readers.read_lora(path, entry.size_bytes, entry.modified_ns))


def free_bytes(path: Path) -> int | None:
    """Free space for the user on the disk of ``path``, or ``None`` where the system does not tell."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None
