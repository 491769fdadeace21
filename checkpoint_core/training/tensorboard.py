"""The scalars of a TensorBoard event file, which a training writes with ``--log_with tensorboard``.

Layout (tensorflow ``core/lib/io/record_writer.cc``): records of length, its checksum, bytes, their checksum; the
bytes are a protobuf ``Event`` (``core/util/event.proto``, ``core/framework/summary.proto``, ``tensor.proto``).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from checkpoint_core.audit import RunReport
from checkpoint_core.training.log.progress import LossHistory

_MAX_RECORDS = 200_000
_MAX_RECORD_BYTES = 1_000_000
_MASK_DELTA = 0xA282EAD8  # tensorflow core/lib/hash/crc32c.h, ``kMaskDelta``
_POLYNOMIAL = 0x82F63B78
_WORD = 0xFFFFFFFF

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_DT_FLOAT, _DT_DOUBLE = 1, 2

_Field = tuple[int, int, "int | bytes"]


class Scalar(NamedTuple):
    """One value of one curve."""

    tag: str
    step: int
    value: float


class _Malformed(Exception):
    """A record that is no event."""


def read_scalars(data: bytes, wanted: Collection[str]) -> list[Scalar]:
    """The scalars with these tags, in the file's order, up to where the file is whole.

    The last record may be half there: the training is still writing. What comes after a broken one cannot be found.
    """
    found: list[Scalar] = []
    for record in _records(data):
        try:
            found += _scalars(record, wanted)
        except _Malformed:  # its checksum is right: another program's event, and the next ones can be read
            continue
    return found


def _records(data: bytes) -> Iterator[bytes]:
    at = 0
    for _ in range(_MAX_RECORDS):
        if at + 12 > len(data):
            return
        length, length_sum = struct.unpack_from("<QI", data, at)
        end = at + 12 + length
        if _masked(data[at : at + 8]) != length_sum or end + 4 > len(data):
            return
        if length <= _MAX_RECORD_BYTES:  # larger ones hold images
            record = data[at + 12 : end]
            if _masked(record) != int.from_bytes(data[end : end + 4], "little"):
                return
            yield record
        at = end + 4


def _masked(data: bytes) -> int:
    """The checksum as the records hold it."""
    value, table = _WORD, _table()
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    value ^= _WORD
    return ((value >> 15 | value << 17) + _MASK_DELTA) & _WORD


@lru_cache(maxsize=1)
def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _scalars(record: bytes, wanted: Collection[str]) -> Iterator[Scalar]:
    """An event's scalars; a field that is not there is 0 (proto3)."""
    step, summaries = 0, []
    for number, kind, content in _fields(record):
        if (number, kind) == (2, _VARINT) and isinstance(content, int):
            step = content - 2**64 if content >= 2**63 else content
        elif (number, kind) == (5, _BYTES) and isinstance(content, bytes):
            summaries.append(content)
    for summary in summaries:
        for number, kind, content in _fields(summary):
            if (number, kind) == (1, _BYTES) and isinstance(content, bytes):
                tag, value = _value(content)
                if value is not None and tag in wanted:
                    yield Scalar(tag, step, value)


def _value(data: bytes) -> tuple[str, float | None]:
    tag, value = "", None
    for number, kind, content in _fields(data):
        if (number, kind) == (1, _BYTES) and isinstance(content, bytes):
            tag = content.decode("utf-8", "replace")
        elif (number, kind) == (2, _FOUR_BYTES):
            value = _float(content, "<f")
        elif (number, kind) == (8, _BYTES) and isinstance(content, bytes):
            value = _tensor(content)
    return tag, value


def _tensor(data: bytes) -> float | None:
    """The one number of a tensor, as ``new_style`` scalars are written; None for anything else."""
    dtype, raw = 0, b""
    for number, kind, content in _fields(data):
        if (number, kind) == (1, _VARINT) and isinstance(content, int):
            dtype = content
        elif number in (4, 5, 6) and isinstance(
            content, bytes
        ):  # tensor_content, float_val, double_val: alike
            raw = content
    layout = {_DT_FLOAT: "<f", _DT_DOUBLE: "<d"}.get(dtype)
    return _float(raw, layout) if layout and len(raw) == struct.calcsize(layout) else None


def _float(content: int | bytes, layout: str) -> float:
    if not isinstance(content, bytes) or len(content) != struct.calcsize(layout):
        raise _Malformed
    return float(struct.unpack(layout, content)[0])


def _fields(data: bytes) -> Iterator[_Field]:
    """A protobuf message's fields: number, wire type, and the number or the bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            number, at = _varint(data, at)
            yield key >> 3, kind, number
            continue
        length = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(kind)
        if kind == _BYTES:
            length, at = _varint(data, at)
        if length is None or at + length > len(data):
            raise _Malformed
        yield key >> 3, kind, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise _Malformed


_TAG = "loss/average"


#: Some 80,000 steps.
_MAX_BYTES = 8_000_000


_MAX_FILES = 1_000


#: A file is read anew no sooner than so many times as long as it took.
_PATIENCE = 20


class EventLosses:
    """The losses of runs by their event files, read again only when they grew and some time has passed.

    :param clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[Path, tuple[object, float, LossHistory]] = {}

    def of(self, run: RunReport, pids: Collection[int]) -> LossHistory:
        """The losses of the newest event file that a training writes; none where there is no such file.

        :param pids: the training's processes. A file's name tells which one writes it (TensorBoard
            ``event_file_writer.py``: time, host, process, count), and runs often share a folder.
        """
        folder = _logging_folder(run)
        newest = _newest(folder, pids) if folder is not None else None
        if newest is None:
            return LossHistory()
        stamp, path = newest
        known = self._known.get(run.facts.path)
        if known is None or (known[0] != (stamp, path) and self._clock() >= known[1]):
            begun = self._clock()
            losses = _read(path)
            again = self._clock() + _PATIENCE * (self._clock() - begun)
            known = self._known[run.facts.path] = ((stamp, path), again, losses)
        return known[2]


def _read(path: Path) -> LossHistory:
    history = LossHistory()
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except OSError:
        return history
    for scalar in read_scalars(data, {_TAG}):
        history.add(scalar.step, scalar.value)
    return history


def _logging_folder(run: RunReport) -> Path | None:
    script = run.facts.script
    named = script.value("--logging_dir") if script else None
    return run.facts.path.parent.parent / named if named else None


def _newest(folder: Path, pids: Collection[int]) -> tuple[int, Path] | None:
    """The event file that was written last, with its time, of those that are where the trainer puts them."""
    found: list[tuple[int, Path]] = []
    try:
        for path in folder.glob("*/*/events.out.tfevents.*"):
            if not {str(pid) for pid in pids} & set(path.name.split(".")[3:]):
                continue
            found.append((path.stat().st_mtime_ns, path))
            if len(found) >= _MAX_FILES:
                break
    except OSError:
        return None
    return max(found, default=None)
