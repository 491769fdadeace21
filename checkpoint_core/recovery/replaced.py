"""Sets aside what a start would write over, in one transaction, and brings it back.

Everything goes into ``.replaced/ID`` of the run under its own name: by rename, or as a copy where the start reads the
original. ``record.json`` there says “moving” before the first of it changes place and “done” after the last. Whenever
the process dies, :func:`finish_interrupted` brings back what had been moved, as long as its place is free.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from checkpoint_core.atomic_write import (
    WriteFailed,
    locked,
    own_folder,
    put,
    remove_confirmed,
    remove_own_folder,
    stage,
)
from checkpoint_core.recovery import transaction
from checkpoint_core.recovery.replaced_records import (
    DONE,
    MOVING,
    RECORD,
    RESTORING,
    Replaced,
    ReplacedEntry,
    inside,
    read_replaced,
    size_of,
    write_replaced,
)
from checkpoint_core.recovery.set_aside import FOLDER, SetAside, listed, without
from checkpoint_core.states import RecordUnusable, free_bytes, repair_records
from checkpoint_core.text import human_bytes
from checkpoint_core.trainer import with_spare

#: Where a copy is made in an entry's folder before it takes its name.
_PARTIAL = "partial"


class SetAsideFailed(WriteFailed):
    """What a start would write over could not be set aside: nothing was started, and everything is as it was."""


class NothingToRestore(LookupError):
    """Nothing of that name was set aside; the text says so."""


def set_aside_saves(run: Path, plan: Callable[[], SetAside]) -> Replaced | None:
    """Set aside what a start would write over; ``None`` where there is nothing.

    :param plan: made of the run as it lies there once what was interrupted is finished.
    :raises SetAsideFailed: when it could not be done; everything is as it was.
    """
    try:
        with locked(run / repair_records.FOLDER):
            _settle(run)
            return _carried_out(run, plan())
    except SetAsideFailed:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        raise SetAsideFailed(
            error.errno, f"what it would write over could not be set aside first ({why}); nothing was started"
        ) from error


def _settle(run: Path) -> None:
    """Finish what was interrupted: a repair would look for its state for ever."""
    with suppress(RecordUnusable):
        transaction.finish_interrupted_locked(run)
    _finish_locked(run)


def _carried_out(run: Path, plan: SetAside) -> Replaced | None:
    if not plan.kept:
        return None
    _check(run, plan)
    return _moved(run, _record(run, plan))


def _moved(run: Path, record: Replaced) -> Replaced | None:
    """Carry a record out, or leave everything as it was."""
    try:
        own_folder(inside(run, record))
        write_replaced(run, record)
        return _carry(run, record)
    except BaseException:
        _take_back(run, record)
        raise


def _take_back(run: Path, record: Replaced) -> None:
    try:
        _put_back(run, record)
    except OSError as error:
        raise SetAsideFailed(
            error.errno,
            f"what had been set aside could not be put back either ({error.strerror or error}). It lies in "
            f"{FOLDER}/{record.id} and comes back at the next start",
        ) from error


def _check(run: Path, plan: SetAside) -> None:
    """Raise where a copy cannot be made, before anything changes place."""
    home = run / FOLDER
    if home.is_symlink() or (home.exists() and not home.is_dir()):
        raise SetAsideFailed(errno.ENOTDIR, f"{FOLDER} in the run's folder is a link or no folder")
    copies = [run / each.save.name for each in plan.kept if each.is_copy]
    for path in copies:
        if link := next((each for each in (path, *_below(path)) if not _is_plain(each)), None):
            shown = link.relative_to(run).as_posix()
            raise SetAsideFailed(
                errno.ELOOP,
                f"{shown} is a link or no regular file, and the training would write through it; put what it leads to "
                "in its place, or resume from another checkpoint",
            )
    free, needed = free_bytes(run), sum(map(size_of, copies))
    if needed and free is not None and free < with_spare(needed):
        raise SetAsideFailed(
            errno.ENOSPC,
            f"keeping a copy of what it would write over needs {human_bytes(with_spare(needed))}, and the disk has "
            f"{human_bytes(free)} left; make room and start again",
        )


def _below(path: Path) -> Iterator[Path]:
    """Everything in a folder; links are not followed."""
    for home, folders, files in os.walk(path):
        yield from (Path(home, name) for name in (*folders, *files))


def _is_plain(path: Path) -> bool:
    mode = os.lstat(path).st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _record(run: Path, plan: SetAside) -> Replaced:
    entries = tuple(
        ReplacedEntry(each.save.name, each.is_copy, each.beside, size_of(run / each.save.name))
        for each in plan.kept
    )
    return _new_record(plan.hidden or "the last save", entries)


def _new_record(what: str, entries: tuple[ReplacedEntry, ...]) -> Replaced:
    moment = datetime.now(timezone.utc)
    identity = f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    return Replaced(identity, f"{moment:%Y-%m-%dT%H:%M:%SZ}", MOVING, what, entries)


def _carry(run: Path, record: Replaced) -> Replaced | None:
    folder = inside(run, record)
    for entry in record.entries:
        if entry.is_copy:
            _copy(run / entry.name, folder / entry.name, folder / _PARTIAL)
    remove_own_folder(folder / _PARTIAL)
    for entry in record.entries:
        if not entry.is_copy:
            put(run / entry.name, folder / entry.name)
    for entry in record.entries:
        # Somebody may have taken the name meanwhile: then it is kept with the others.
        if entry.beside and not os.path.lexists(run / entry.beside):
            put(folder / entry.name, run / entry.beside)
    done = replace(record, status=DONE)
    write_replaced(run, done)
    if not _present(run, done):
        remove_own_folder(folder)
    return done


def _copy(source: Path, target: Path, partial: Path) -> None:
    """A copy down to the disk that bears all times of the original: verdicts go by them."""
    remove_own_folder(partial)
    own_folder(partial)
    _copy_tree(source, partial / source.name)
    put(partial / source.name, target)


def _copy_tree(source: Path, target: Path) -> None:
    status = os.lstat(source)
    if stat.S_ISREG(status.st_mode):
        with source.open("rb") as data:
            stage(target, iter(lambda: data.read(1 << 20), b""), status.st_mtime_ns, source)
        return
    own_folder(target)
    for name in sorted(os.listdir(source)):
        _copy_tree(source / name, target / name)
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _present(run: Path, record: Replaced) -> list[ReplacedEntry]:
    """What of an entry lies in its folder still."""
    folder = inside(run, record)
    return [entry for entry in record.entries if os.path.lexists(folder / entry.name)]


def _put_back(run: Path, record: Replaced) -> None:
    """Bring back what was moved; what has another thing in its place by now stays, and can be restored."""
    folder = inside(run, record)
    for entry in record.entries:
        kept, place, beside = folder / entry.name, run / entry.name, run / entry.beside
        if entry.beside and entry.is_copy and _same(beside, place):
            _put_if_free(beside, kept)
        elif entry.beside and not entry.is_copy and not os.path.lexists(kept):
            _put_if_free(beside, place)
        if not entry.is_copy or not os.path.lexists(place):
            _put_if_free(kept, place)
    _close(run, record)


def _put_if_free(source: Path, place: Path) -> None:
    if os.path.lexists(source) and not os.path.lexists(place):
        put(source, place)


def _close(run: Path, record: Replaced) -> None:
    """Remove a folder that keeps nothing any more, or write down that what it keeps can be restored."""
    present, folder = _present(run, record), inside(run, record)
    copies = {entry.name for entry in present if _same(folder / entry.name, run / entry.name)}
    if len(copies) < len(present):
        write_replaced(run, replace(record, status=DONE, entries=tuple(present)))
        return
    ours = copies | {RECORD, _PARTIAL}
    # A record whose writing was cut short has left a file of its own (atomic_write).
    if all(name in ours or name.startswith(f".{RECORD}.") for name in _names_in(folder)):
        remove_own_folder(folder)
    else:
        write_replaced(run, replace(record, status=DONE, entries=tuple(present)))


def _names_in(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def finish_interrupted(run: Path) -> None:
    """Bring back, or restore to the end, what was interrupted; to be called while nothing trains the run.

    :raises WriteFailed: when something could not be put in its place; try again.
    """
    if any(record.status != DONE for record in read_replaced(run)):
        with locked(run / repair_records.FOLDER):
            _finish_locked(run)


def _finish_locked(run: Path) -> None:
    for record in read_replaced(run):
        if record.status == MOVING:
            _put_back(run, record)
        elif record.status == RESTORING:
            _restore_free(run, record)


def restore(run: Path, identity: str) -> tuple[Replaced, Replaced | None]:
    """Bring back what was set aside; what lies in its place now is set aside itself.

    To be called while nothing trains the run. Returns what was brought back, and what was set aside for it.

    :raises NothingToRestore: when there is nothing of that name.
    :raises WriteFailed: when something could not be put in its place; try again.
    """
    with locked(run / repair_records.FOLDER):
        _settle(run)
        record = named(run, identity)
        other = _make_place(run, record)
        write_replaced(run, replace(record, status=RESTORING))
        _restore_free(run, record)
    return record, other


def _make_place(run: Path, record: Replaced) -> Replaced | None:
    """Set aside what lies where an entry is to come back."""
    taken = [entry.name for entry in _present(run, record) if os.path.lexists(run / entry.name)]
    if not taken:
        return None
    entries = tuple(ReplacedEntry(name, size_bytes=size_of(run / name)) for name in taken)
    return _moved(run, _new_record(f"what was there when {record.what} came back", entries))


def _restore_free(run: Path, record: Replaced) -> None:
    folder = inside(run, record)
    for entry in _present(run, record):
        _put_if_free(folder / entry.name, run / entry.name)
    _close(run, record)


def named(run: Path, identity: str) -> Replaced:
    """What was set aside under this name.

    :raises NothingToRestore: when there is nothing.
    """
    for record in read_replaced(run):
        if record.id == identity:
            return record
    names = listed([record.id for record in read_replaced(run)]) or "none"
    raise NothingToRestore(f"Nothing was set aside under the name {identity}. There is: {names}.")


def remove_replaced(run: Path, identity: str) -> int:
    """Remove for good what was set aside under this name; returns the bytes that it took.

    :raises NothingToRestore: when there is nothing of that name.
    :raises WriteFailed: when it could not be removed.
    """
    with locked(run / repair_records.FOLDER):
        _finish_locked(run)
        record = named(run, identity)
        remove_confirmed([(inside(run, record), run / f".removing-{secrets.token_hex(8)}")])
    return record.size_bytes


def without_known_copies(run: Path, plan: SetAside) -> SetAside:
    """The plan without copies that were made before: a start that is tried again makes them once."""
    copies = [each.save.name for each in plan.kept if each.is_copy]
    records = read_replaced(run) if copies else ()
    kept = {
        name
        for name in copies
        for record in records
        if record.status == DONE and _same(run / name, inside(run, record) / name)
    }
    return without(plan, frozenset(kept))


def _same(first: Path, second: Path) -> bool:
    """Whether two saves are one and its copy: the same names with the same sizes and times."""
    try:
        return _stamps(first) == _stamps(second)
    except OSError:
        return False


def _stamps(path: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for each in (path, *_below(path)):
        status = os.lstat(each)
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        time = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
        found[each.relative_to(path).as_posix()] = (stat.S_IFMT(status.st_mode), size, time)
    return found
