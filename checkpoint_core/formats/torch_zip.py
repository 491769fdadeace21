"""A ``torch.save`` file: a zip archive of stored members, read by its directory alone.

Layout (torch ``caffe2/serialize/inline_container.h``): every member lies under one top folder, uncompressed:
``data.pkl`` (the pickle), ``data/N`` (the bytes of storage N), ``version``, ``byteorder`` and a few more. The
central directory is written last, so a truncated file has none. Zip records: PKWARE APPNOTE 4.3 and 4.5.3.

Python's ``zipfile`` reads the same, at about ten times the cost for the 2,000 members of a real optimizer file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from checkpoint_core.formats.reader import DamageKind, FileReader, FormatError

#: ``torch.save`` before 1.6 wrote a bare pickle that begins with this magic number (torch ``serialization.py``).
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LOCAL_MAGIC = b"PK\x03\x04"
_CENTRAL_MAGIC = b"PK\x01\x02"
END_MAGIC = b"PK\x05\x06"
END64_LOCATOR_MAGIC = b"PK\x06\x07"
END64_MAGIC = b"PK\x06\x06"
#: The records at the archive's end, each with its magic first: APPNOTE 4.3.16, 4.3.15 and 4.3.14.
END = struct.Struct("<4s4H2LH")
END64_LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
#: Flags, method, CRC, stored size, full size, lengths of name, extra field and comment, number of the disk, offset of
#: the local header.
_CENTRAL = struct.Struct("<4x4xHH4xLLLHHHH6xL")
_LOCAL_BYTES = 30
#: A comment may follow the end record; torch writes none, other tools up to this many bytes.
_MAX_COMMENT = 65535
_MAX_DIRECTORY_BYTES = 64 * 1024 * 1024
#: The pickle of 100,000 tensors has about as many bytes; the unpickler takes up to 60 times as many.
_MAX_PICKLE_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 4 * 1024 * 1024
#: torch ``inline_container.cc``, ``PyTorchStreamReader::init``.
_VERSIONS = frozenset({"version", ".data/version"})
_IN_ZIP64 = 0xFFFFFFFF


class Member(NamedTuple):
    """One file inside the archive; ``name`` without the top folder, sizes and offsets in bytes."""

    name: str
    size: int
    crc: int
    header_offset: int


class TorchZip:
    """The directory of one ``torch.save`` file.

    :raises FormatError: when the archive is truncated, corrupt, or of a kind that torch does not write.
    """

    def __init__(self, reader: FileReader) -> None:
        self._reader = reader
        start, size, count = _find_directory(reader)
        self.members = {member.name: member for member in _members(reader, start, size, count)}
        if len(self.members) != count:
            raise FormatError(DamageKind.CORRUPT, "two of its members have the same name")
        # Members that overlap could ask for any amount of reading.
        if sum(member.size for member in self.members.values()) > start:
            raise FormatError(DamageKind.CORRUPT, "its members have more bytes than the archive")
        if not self.members.keys() & _VERSIONS:
            raise FormatError(DamageKind.CORRUPT, "it has no version, without which torch opens no archive")

    @property
    def pickle_bytes(self) -> bytes:
        """The pickle ``data.pkl``, its checksum verified.

        :raises FormatError: also when there is none, or when it is larger than any real one.
        """
        member = self.members.get("data.pkl")
        if member is None:
            raise FormatError(DamageKind.CORRUPT, "it is a zip archive without data.pkl, not a torch file")
        if member.size > _MAX_PICKLE_BYTES:
            raise FormatError(DamageKind.UNSUPPORTED, f"its pickle has {member.size:,} bytes")
        return self.read(member)

    def read(self, member: Member) -> bytes:
        """All bytes of a member, its CRC-32 verified (torch does not verify it)."""
        data = self._reader.at(self._data_offset(member), member.size)
        if zlib.crc32(data) != member.crc:
            raise _bad_checksum(member)
        return data

    def chunks(self, member: Member) -> Iterator[bytes]:
        """The bytes of a member piece by piece; after the last one its CRC-32 is verified."""
        offset, left, crc = self._data_offset(member), member.size, 0
        while left > 0:
            data = self._reader.at(offset, min(left, _CHUNK_BYTES))
            offset, left, crc = offset + len(data), left - len(data), zlib.crc32(data, crc)
            yield data
        if crc != member.crc:
            raise _bad_checksum(member)

    def verify_records(self) -> None:
        """Verify the CRC-32 of every member that is not a tensor's storage (those are large).

        :raises FormatError: ``CORRUPT``, with the member's name.
        """
        for member in self.members.values():
            if not member.name.startswith("data/") and member.name != "data.pkl":
                self.read(member)

    def verify_all(self) -> None:
        """Verify every member; for small files."""
        for member in self.members.values():
            self.read(member)

    def _data_offset(self, member: Member) -> int:
        header = self._reader.at(member.header_offset, _LOCAL_BYTES)
        if header[:4] != LOCAL_MAGIC:
            raise FormatError(DamageKind.CORRUPT, f"the header of member {member.name} is overwritten")
        # The local name and extra field may differ in length from the directory's: torch pads the extra field.
        name_bytes, extra_bytes = struct.unpack_from("<2H", header, 26)
        return int(member.header_offset + _LOCAL_BYTES + name_bytes + extra_bytes)


def _bad_checksum(member: Member) -> FormatError:
    return FormatError(
        DamageKind.CORRUPT, f"the checksum of member {member.name} is wrong: its bytes have changed"
    )


def _find_directory(reader: FileReader) -> tuple[int, int, int]:
    """Offset, size in bytes and entry count of the central directory."""
    tail_bytes = min(reader.size, END.size + _MAX_COMMENT)
    tail = reader.at(reader.size - tail_bytes, tail_bytes)
    at = tail.rfind(END_MAGIC)
    # torch tells an archive by its first bytes, and unpickles what begins otherwise (serialization.py, _is_zipfile).
    if at < 0 or len(tail) - at < END.size or reader.at(0, 4) != LOCAL_MAGIC:
        raise _no_directory(reader)
    end_offset = reader.size - tail_bytes + at
    _, disk, first_disk, count_here, count, size, start, _ = END.unpack_from(tail, at)
    record = _find_record64(reader, end_offset)
    if record is not None:
        end_offset, disk, first_disk, count_here, count, size, start = record
    elif start == _IN_ZIP64 or size == _IN_ZIP64 or count == 0xFFFF:
        raise FormatError(DamageKind.CORRUPT, "its zip64 end record is missing")
    if start + size > end_offset:
        raise FormatError(DamageKind.CORRUPT, "its directory points behind its own end")
    if size > _MAX_DIRECTORY_BYTES:
        raise FormatError(DamageKind.UNSUPPORTED, f"its directory has {size:,} bytes")
    if count_here != count or disk or first_disk or size < count * _CENTRAL.size:
        raise FormatError(DamageKind.CORRUPT, "its end record contradicts itself")
    return start, size, count


def _find_record64(reader: FileReader, end_offset: int) -> tuple[int, int, int, int, int, int, int] | None:
    """The 64-bit end record: its offset, disk numbers, counts, and the directory's size and offset.

    torch writes one always, and its zip reader goes by it wherever there is one, whatever the 32-bit record says
    (miniz ``mz_zip_reader_read_central_dir``).
    """
    locator_at = end_offset - END64_LOCATOR.size
    if locator_at < END64.size:
        return None
    magic, _, offset, disks = END64_LOCATOR.unpack(reader.at(locator_at, END64_LOCATOR.size))
    if magic != END64_LOCATOR_MAGIC:
        return None
    if offset > reader.size - END64.size or disks != 1:
        raise FormatError(DamageKind.CORRUPT, "its zip64 locator is damaged")
    record = END64.unpack(reader.at(offset, END64.size))
    return (offset, *record[4:10]) if record[0] == END64_MAGIC else None


def _no_directory(reader: FileReader) -> FormatError:
    head = reader.at(0, min(reader.size, len(_LEGACY_MAGIC)))
    if LOCAL_MAGIC.startswith(head[:4]):
        return FormatError(DamageKind.TRUNCATED, "the archive's directory, written last, is missing")
    if head == _LEGACY_MAGIC:
        return FormatError(DamageKind.UNSUPPORTED, "it is in torch's format from before 1.6 (a bare pickle)")
    if not head.strip(b"\0"):
        return FormatError(DamageKind.TRUNCATED, "it begins with zero bytes, as after a power loss")
    return FormatError(DamageKind.CORRUPT, "it is not a torch file")


def _members(reader: FileReader, start: int, size: int, count: int) -> Iterator[Member]:
    """The members, held to what torch's zip reader asks of each (miniz ``mz_zip_reader_read_central_dir``)."""
    directory = reader.at(start, size)
    at, folder = 0, None
    for _ in range(count):
        if at + _CENTRAL.size > size or directory[at : at + 4] != _CENTRAL_MAGIC:
            raise _bad_directory()
        flags, method, crc, stored, full, name_bytes, extra_bytes, comment_bytes, disk, header = (
            _CENTRAL.unpack_from(directory, at)
        )
        name_at = at + _CENTRAL.size
        name = directory[name_at : name_at + name_bytes]
        if full == _IN_ZIP64 or stored == _IN_ZIP64 or header == _IN_ZIP64:
            extra = directory[name_at + name_bytes : name_at + name_bytes + extra_bytes]
            full, stored, header = _zip64_fields(extra, full, stored, header)
        if method != 0 or flags & 1 or stored != full:
            raise FormatError(
                DamageKind.UNSUPPORTED, "its members are compressed or encrypted; torch stores them"
            )
        if header + _LOCAL_BYTES + full > start:
            raise FormatError(DamageKind.CORRUPT, "a member reaches beyond the archive's data")
        at = name_at + name_bytes + extra_bytes + comment_bytes
        # Everything lies under one top folder, named after the file it was first saved as.
        top, _, rest = name.partition(b"/")
        folder = top if folder is None else folder
        if at > size or disk > 1 or top != folder or not rest:
            raise _bad_directory()
        yield Member(_name(rest), full, crc, header)


def _name(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad_directory() from error


def _bad_directory() -> FormatError:
    return FormatError(DamageKind.CORRUPT, "its directory is damaged")


def _zip64_fields(extra: bytes, full: int, stored: int, header: int) -> tuple[int, int, int]:
    """The 64-bit sizes and offset, each present only where the 32-bit field is full (APPNOTE 4.5.3)."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        if tag == 1:
            values = [
                int.from_bytes(extra[i : i + 8], "little")
                for i in range(at + 4, min(at + 4 + length, len(extra)), 8)
            ]
            fields = [full, stored, header]
            for index, field in enumerate(fields):
                if field == _IN_ZIP64 and values:
                    fields[index] = values.pop(0)
            return fields[0], fields[1], fields[2]
        at += 4 + length
    raise FormatError(DamageKind.CORRUPT, "a large member has no 64-bit size")
