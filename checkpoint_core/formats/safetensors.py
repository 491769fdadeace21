"""A safetensors file by its header alone: names, dtypes, shapes, and whether the file holds all it promises.

Layout (huggingface/safetensors README, "Format"): 8 bytes little-endian header length N, N bytes of JSON, then
the tensors' bytes without gaps; ``data_offsets`` count from the end of the header.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from checkpoint_core.formats import DamageKind, FileReader, FormatError

#: The reference reader refuses larger headers (safetensors ``MAX_HEADER_SIZE``).
_MAX_HEADER_BYTES = 100_000_000

#: Bytes per element; sub-byte types are counted in bits by the reference reader and are absent here.
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


class TensorEntry(NamedTuple):
    """One tensor: ``begin`` and ``end`` are byte offsets from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """Everything the header tells; ``metadata`` is the free-form ``__metadata__`` (text to text)."""

    tensors: tuple[TensorEntry, ...]
    metadata: dict[str, str]


def read_header(reader: FileReader) -> SafetensorsHeader:
    """Read and check a header against the file's size.

    :raises FormatError: ``TRUNCATED`` when bytes are missing, ``CORRUPT`` when header and size disagree otherwise.
    """
    length = int.from_bytes(reader.at(0, 8), "little")
    if length > _MAX_HEADER_BYTES:
        raise FormatError(DamageKind.CORRUPT, f"its header claims {length:,} bytes: not a safetensors file")
    entries = _parse(reader.at(8, length))
    raw_metadata = entries.pop("__metadata__", None)
    metadata = raw_metadata if isinstance(raw_metadata, dict) else {}
    tensors = tuple(_entry(name, value, 8 + length) for name, value in entries.items())
    _check_extent(tensors, 8 + length, reader.size)
    return SafetensorsHeader(tensors, {str(key): str(value) for key, value in metadata.items()})


def _parse(header: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise FormatError(DamageKind.CORRUPT, "its header is not valid JSON") from error
    if not isinstance(entries, dict):
        raise FormatError(DamageKind.CORRUPT, "its header is not a table of tensors")
    return entries


def _entry(name: str, value: Any, data_start: int) -> TensorEntry:
    try:
        begin, end = value["data_offsets"]
        shape = tuple(value["shape"])
        entry = TensorEntry(name, value["dtype"], shape, data_start + begin, data_start + end)
        wanted = math.prod(shape) * ITEM_BYTES.get(entry.dtype, 0)
        sane = 0 <= begin <= end and all(isinstance(length, int) and length >= 0 for length in shape)
    except (TypeError, KeyError, ValueError) as error:
        raise FormatError(DamageKind.CORRUPT, f"the header's entry for {name[:120]} is damaged") from error
    if not sane or (entry.dtype in ITEM_BYTES and end - begin != wanted):
        raise FormatError(DamageKind.CORRUPT, f"size and shape of {name[:120]} disagree")
    return entry


def _check_extent(tensors: tuple[TensorEntry, ...], data_start: int, size: int) -> None:
    """The tensors must cover the rest of the file exactly, as the reference reader demands."""
    at = data_start
    for tensor in sorted(tensors, key=lambda entry: (entry.begin, entry.end)):
        if tensor.begin != at:
            raise FormatError(DamageKind.CORRUPT, f"{tensor.name[:120]} does not follow the tensor before it")
        at = tensor.end
    if at > size:
        raise FormatError(DamageKind.TRUNCATED, f"it has {size:,} bytes of {at:,}")
    if at < size:
        raise FormatError(DamageKind.CORRUPT, f"{size - at:,} bytes follow the last tensor")
