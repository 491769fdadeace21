"""Bytes to structure: each module reads one file format and executes nothing of what it reads.

Every reader raises :class:`FormatError` and nothing else for what is wrong with a file; `inspection` is the
one place that turns it into a fact.
"""

from __future__ import annotations

import enum
import os
import stat
from pathlib import Path
from types import TracebackType


class DamageKind(enum.Enum):
    """What is wrong with a file, as far as its bytes tell."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    #: Contents contradict themselves: a checksum, a structure, a wrong kind of value.
    CORRUPT = "corrupt"
    #: Names a Python object outside the allow-list; loading it could run code.
    FOREIGN = "foreign"
    #: Could not be read at all (permission, input/output error, not a regular file).
    UNREADABLE = "unreadable"
    #: A format or a size that this reader does not handle: nothing is known, not even damage.
    UNSUPPORTED = "unsupported"


class FormatError(Exception):
    """A file that is not what it should be: ``kind`` for programs, ``detail`` for people.

    ``is_hostile`` is whether it names what runs code: a fact of the whole file, however few ``names`` are kept.
    """

    def __init__(
        self, kind: DamageKind, detail: str, names: tuple[str, ...] = (), *, is_hostile: bool = False
    ) -> None:
        super().__init__(_encodable(detail))
        self.kind = kind
        self.detail = _encodable(detail)
        #: For ``FOREIGN``, and where it is hostile: the names of the objects, as ``module.name``, to be shown.
        self.names = tuple(_encodable(name) for name in names)
        self.is_hostile = is_hostile

    def add_hostile(self, names: tuple[str, ...]) -> None:
        """These names that run code were found in the file too."""
        if names and not self.is_hostile:
            self.is_hostile, self.names = True, names


def _encodable(text: str) -> str:
    """Text of a file may hold halves of characters, which no program can print or save; they become ``\\ud800``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


#: The largest count that a table of 64-bit integers holds; no training counts so far.
MAX_COUNT = 2**63 - 1

#: Files up to this size are read whole in one go; above it, only the parts that are needed.
SMALL_FILE_BYTES = 256 * 1024


class FileReader:
    """Random reads of one regular file, opened read-only; a small one is read at once.

    :raises FormatError: ``EMPTY`` for zero bytes, ``UNREADABLE`` where the system refuses.
    """

    def __init__(self, path: Path | str) -> None:
        try:
            # Non-blocking, so that a named pipe in a state directory cannot hang the interface.
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise unreadable(error) from error
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(DamageKind.UNREADABLE, "it is not a regular file")
            self.size = status.st_size
            if self.size == 0:
                raise FormatError(DamageKind.EMPTY, "it has 0 bytes")
            self._whole = self._read(0, self.size) if self.size <= SMALL_FILE_BYTES else None
        except BaseException:
            self.close()
            raise

    def at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``.

        :raises FormatError: ``TRUNCATED`` when the file ends before.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FormatError(
                DamageKind.TRUNCATED, f"{offset + length:,} bytes are needed, the file has {self.size:,}"
            )
        if self._whole is not None:
            return self._whole[offset : offset + length]
        return self._read(offset, length)

    def _read(self, offset: int, length: int) -> bytes:
        try:
            os.lseek(self._fd, offset, os.SEEK_SET)
            parts = []
            while length > 0 and (part := os.read(self._fd, length)):
                parts.append(part)
                length -= len(part)
        except OSError as error:
            raise unreadable(error) from error
        if length > 0:
            raise FormatError(DamageKind.TRUNCATED, "it became shorter while it was read")
        return b"".join(parts)

    def close(self) -> None:
        """Give the file back; the reader cannot be used afterwards."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> FileReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def unreadable(error: OSError) -> FormatError:
    """What a refusal of the operating system means for a file: could not tell."""
    return FormatError(DamageKind.UNREADABLE, error.strerror or str(error))
