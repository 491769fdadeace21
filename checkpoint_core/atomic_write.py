"""The one writer: a file is replaced in one atomic step, mode and owner kept, its earlier bytes beside it.

Every step leaves the file either old or new, whenever the process dies: the new bytes go to a temporary
file in the same folder, reach the disk (fsync), and take the file's name in one `os.replace`. A backup is
made the same way before. The operating system's own calls are used throughout, so that a test can stop the
writer at each.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

#: Temporary files older than this many seconds were left by a writer that was killed.
STALE_AFTER_SECONDS = 3600.0
_LOCK_WAIT_SECONDS = 10.0
#: Windows alone needs it, so that bytes are written as they are.
_BINARY: int = getattr(os, "O_BINARY", 0)


class WriteFailed(OSError):
    """The file could not be written; it still holds its earlier bytes. The text says why and what to do."""


class ChangedMeanwhile(RuntimeError):
    """The file no longer holds the bytes that the caller expected; nothing was written."""


def replace_bytes(
    path: Path, data: bytes, *, expected: bytes | None, backup: bool = True, keep: int = 5
) -> Path | None:
    """Replace an existing file's bytes; returns the backup's path, or None when none was made.

    A link is followed and its target replaced. `expected` are the bytes that the file must hold now (None:
    any). Backups are `NAME.bak` (the newest), `NAME.bak.1`, …, at most `keep` of them. Bytes that are there
    already are not written again. Raises ChangedMeanwhile, or WriteFailed with the earlier file in place.
    """
    if keep < 1:
        raise ValueError("keep must be at least 1: a file is never replaced without a way back")
    target = Path(os.path.realpath(path))
    with _explained(target), _locked(target):
        current = _current(target, expected)
        if current == data:
            return None
        status = os.stat(target)
        if not status.st_mode & stat.S_IWUSR:
            raise PermissionError(errno.EACCES, "the file is write-protected")
        _sweep(target)
        kept = _back_up(target, current, status, keep) if backup else None
        with _temporary(target, data, status) as temporary:
            _current(target, current)
            os.replace(temporary, target)
        _sync_folder(target.parent)
        return kept


def new_file(path: Path, data: bytes) -> Path:
    """Write a file of the program's own, such as a report, in one step, over an earlier one of that name.

    Raises WriteFailed.
    """
    target = Path(os.path.realpath(path))
    with _explained(target), _locked(target):
        _sweep(target)
        with _temporary(target, data, None) as temporary:
            os.replace(temporary, target)
        _sync_folder(target.parent)
    return path


def own_folder(path: Path) -> Path:
    """Make a folder of the program's own, with those above it; raises WriteFailed."""
    with _explained(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def remove_own_folder(path: Path) -> None:
    """Remove a folder of the program's own with all that is in it; never one of the user's. Raises WriteFailed."""
    with _explained(path), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def remove_own_file(path: Path) -> None:
    """Remove a file of the program's own, or the link in its place; never one of the user's. Raises WriteFailed."""
    with _explained(path), contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def stage(
    path: Path, pieces: Iterable[bytes], modified_ns: int | None = None, like: Path | None = None
) -> str:
    """Write a new file that is to take another's place later, down to the disk; returns its SHA-256 in hex.

    :param modified_ns: the time that it is to bear; the present one by default.
    :param like: the file whose owner and mode it takes.
    :raises WriteFailed: when it could not be written, or is there already; nothing is left of it.
    """
    digest = hashlib.sha256()
    with _explained(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
        try:
            try:
                for piece in pieces:
                    digest.update(piece)
                    _write_all(descriptor, piece)
                if like is not None:
                    _keep_owner_and_mode(path, os.stat(like))
                if modified_ns is not None:
                    os.utime(path, ns=(modified_ns, modified_ns))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        _sync_folder(path.parent)
    return digest.hexdigest()


def keep_as(path: Path, kept: Path) -> None:
    """Give a file a second place, its times kept: a hard link where the disk has them, else a copy.

    A file that is replaced by :func:`put` leaves the other place untouched; a link costs no space.

    :raises WriteFailed: when it could not be kept.
    """
    with _explained(path):
        try:
            os.link(path, kept)
        except OSError:
            status = os.stat(path)
            with path.open("rb") as source:
                stage(kept, iter(lambda: source.read(1 << 20), b""), status.st_mtime_ns, path)
        _sync_folder(kept.parent)


def links_work(folder: Path) -> bool:
    """Whether the disk of a folder has hard links, so that :func:`keep_as` costs no space there."""
    probe = folder / f".link-{secrets.token_hex(4)}.tmp"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.link(probe, f"{probe}.2")
        return True
    except OSError:
        return False
    finally:
        for path in (probe, Path(f"{probe}.2")):
            with contextlib.suppress(OSError):
                os.unlink(path)


def put(path: Path, place: Path) -> None:
    """Let a file take a place on the same disk, over what is there, in one step.

    :raises WriteFailed: when it could not; both are as they were.
    """
    with _explained(place):
        os.replace(path, place) if not _is_one_file(path, place) else os.unlink(path)
        _sync_folder(place.parent)
        if path.parent != place.parent:
            _sync_folder(path.parent)


def _is_one_file(path: Path, place: Path) -> bool:
    """Two names of one file: rename(2) does nothing with them, and leaves both."""
    try:
        return path != place and os.path.samestat(os.lstat(path), os.lstat(place))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other windows and programs of ours from changing a file or folder meanwhile.

    :raises WriteFailed: when another one is at it for longer than ten seconds.
    """
    with contextlib.ExitStack() as stack:
        with _explained(path):
            stack.enter_context(_locked(Path(os.path.realpath(path))))
        yield


def backups_of(path: Path) -> list[Path]:
    """The backups of a file, newest first, up to the first gap in their numbers."""
    found: list[Path] = []
    while _backup_path(path, len(found)).is_file():
        found.append(_backup_path(path, len(found)))
    return found


def _backup_path(path: Path, age: int) -> Path:
    """Where the backup of this age (0: newest) lies."""
    return path.with_name(f"{path.name}.bak" + (f".{age}" if age else ""))


def _current(target: Path, expected: bytes | None) -> bytes:
    """The file's bytes; raises ChangedMeanwhile when they are not the expected ones."""
    current = _read(target)
    if expected is not None and current != expected:
        raise ChangedMeanwhile(f"{target.name} was changed by someone else meanwhile; nothing was written.")
    return current


def _back_up(target: Path, current: bytes, status: os.stat_result, keep: int) -> Path:
    """Keep the current bytes as the newest backup, unless an attempt that was cut short did so already."""
    newest = _backup_path(target, 0)
    present = len(backups_of(target))
    if present and _read(newest) == current:
        return newest
    with _temporary(target, current, status) as temporary:
        # Oldest first: a writer killed in between leaves a gap and loses nothing but the oldest.
        for age in reversed(range(min(present, keep - 1))):
            os.replace(_backup_path(target, age), _backup_path(target, age + 1))
        os.replace(temporary, newest)
    _sync_folder(target.parent)
    return newest


def _read(path: Path) -> bytes:
    """All bytes of a file."""
    descriptor = os.open(path, os.O_RDONLY | _BINARY)
    try:
        parts: list[bytes] = []
        while part := os.read(descriptor, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temporary(target: Path, data: bytes, status: os.stat_result | None) -> Iterator[Path]:
    """A synced file beside the target with its mode and owner and this data; gone on failure."""
    path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    # Readable by nobody else until it has its own mode: a script may hold a token.
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666 if status is None else 0o600
    )
    try:
        try:
            _write_all(descriptor, data)
            if status is not None:
                _keep_owner_and_mode(path, status)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield path
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes; the system may take fewer at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _keep_owner_and_mode(path: Path, status: os.stat_result) -> None:
    """Give the file another's owner as far as this user may, and its mode.

    Changing the owner clears some mode bits, so the mode comes last. Without the group, the group's rights
    are withheld: they would go to a group that had none.
    """
    mode = stat.S_IMODE(status.st_mode)
    own = os.stat(path)
    if (own.st_uid, own.st_gid) != (status.st_uid, status.st_gid) and hasattr(os, "chown"):
        with contextlib.suppress(OSError):
            os.chown(path, -1, status.st_gid)
        with contextlib.suppress(OSError):
            os.chown(path, status.st_uid, -1)
        if os.stat(path).st_gid != status.st_gid:
            mode &= ~stat.S_IRWXG
    os.chmod(path, mode)


def _sync_folder(folder: Path) -> None:
    """Let a new name reach the disk, where that can be had.

    Windows has no such call, some network file systems and folders that may not be listed refuse it. The
    new name stands by then, so a refusal is no failure of the write.
    """
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sweep(target: Path) -> None:
    """Remove temporary files of this target that a killed writer left long ago, where the folder can be listed."""
    leftover = re.compile(re.escape(f".{target.name}.") + r"[0-9a-f]{8}\.tmp")
    with contextlib.suppress(OSError):
        for name in filter(leftover.fullmatch, os.listdir(target.parent)):
            path = target.with_name(name)
            with contextlib.suppress(OSError):
                if time.time() - os.stat(path).st_mtime > STALE_AFTER_SECONDS:
                    os.unlink(path)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Keep two tabs from writing the same file at once; the lock lies outside the user's folders."""
    digest = hashlib.sha256(os.fsencode(target)).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else "user"
    lock = FileLock(
        Path(tempfile.gettempdir()) / f"checkpoint-core-{user}-{digest}.lock", timeout=_LOCK_WAIT_SECONDS
    )
    with lock:
        yield


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn the system's errors into one that says what they mean and what to do."""
    try:
        yield
    except Timeout as error:
        raise WriteFailed(
            f"{target} is being written by another window; nothing was changed. Try again."
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteFailed(
            error.errno,
            f"{target.name} was not written ({reason}); it is as it was before. {_cure(error, target)}",
        ) from error


def _cure(error: OSError, target: Path) -> str:
    """What to do about the system's error."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Make room on the disk and try again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"Allow writing to it and to its folder {target.parent}, and try again."
    if error.errno == errno.ENOENT:
        return f"Check that {target} still exists."
    return "Look into this error and try again."


def remove_confirmed(places: Sequence[tuple[Path, Path]]) -> None:
    """Remove folders of the user's that may go, each a folder and a free name beside it, aside; never through a link.

    All leave their names before the first byte goes: where one cannot, all are as they were, and a process that dies
    leaves each whole or aside, for :func:`remove_set_aside`. Raises WriteFailed.
    """
    moved: list[tuple[Path, Path]] = []
    for folder, aside in places:
        try:
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "it is a link or no folder")
            os.rename(folder, aside)
        except OSError as error:
            for back, hidden in reversed(moved):
                with contextlib.suppress(OSError):
                    os.rename(hidden, back)
            reason = f"{folder.name} could not be removed ({error.strerror or error}); nothing was removed."
            raise WriteFailed(error.errno, f"{reason} {_cure(error, folder)}") from error
        moved.append((folder, aside))
    for parent in {path.parent for place in moved for path in place}:
        _sync_folder(parent)
    remove_set_aside(*(aside for _, aside in moved))


def remove_set_aside(*asides: Path) -> None:
    """Remove what :func:`remove_confirmed` has set aside, as much as can be; raises WriteFailed for the rest."""
    failures: list[WriteFailed] = []
    for aside in asides:
        try:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(aside)
        except OSError as error:
            reason = f"not all of its files could be removed ({error.strerror or error})"
            text = (
                f"The checkpoint is gone from the run, but {reason}. The rest is in {aside} and is ignored."
            )
            cure = "Close whatever uses it and make it writable; the next removal finishes the job."
            failures.append(WriteFailed(error.errno, f"{text} {cure}"))
    if failures:
        raise failures[0]
