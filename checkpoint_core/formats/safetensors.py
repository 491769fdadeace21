"""A safetensors file by its header alone: names, dtypes, shapes, and whether the file holds all it promises.

Layout (huggingface/safetensors README, "Format"): 8 bytes little-endian header length N, N bytes of JSON, then
the tensors' bytes without gaps; ``data_offsets`` count from the end of the header.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from checkpoint_core.formats.reader import MAX_COUNT, DamageKind, FileReader, FormatError

#: The reference reader refuses larger headers (safetensors ``MAX_HEADER_SIZE``).
_MAX_HEADER_BYTES = 100_000_000
_MAX_KEPT_BYTES = 1_000_000
_METADATA_FIRST = '{"__metadata__":'

#: Bits per element (safetensors ``Dtype::bitsize``).
ITEM_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
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
    tensors_text, metadata = _without_metadata(_decoded(reader.at(8, length)))
    # A real header has some 100 kB; what is larger is not kept in memory.
    read = _tensors if length <= _MAX_KEPT_BYTES else _tensors.__wrapped__
    tensors, own_metadata = read(tensors_text, 8 + length, reader.size)
    return SafetensorsHeader(tensors, metadata or dict(own_metadata))


def _decoded(header: bytes) -> str:
    try:
        return header.decode("utf-8")
    except ValueError as error:
        raise _no_json() from error


def _no_json() -> FormatError:
    return FormatError(DamageKind.CORRUPT, "its header is not valid JSON")


def _without_metadata(text: str) -> tuple[str, dict[str, str]]:
    """The header's text without its metadata, and the metadata, where these stand first as safetensors writes them.

    What is left is the same for all files of a run, and is then read once.
    """
    if not text.startswith(_METADATA_FIRST):
        return text, {}
    try:
        metadata, end = json.JSONDecoder().raw_decode(text, len(_METADATA_FIRST))
    except (ValueError, RecursionError):
        return text, {}  # spaces, or no JSON: told when all of it is read
    if not isinstance(metadata, dict) or text[end : end + 1] != "," or "\\u" in text:
        return text, {}
    return "{" + text[end + 1 :], {str(key): str(value) for key, value in metadata.items()}


@lru_cache(maxsize=16)
def _tensors(
    text: str, data_start: int, size: int
) -> tuple[tuple[TensorEntry, ...], tuple[tuple[str, str], ...]]:
    """The tensors of a header, checked against the file's size, and the metadata in it."""
    entries = _parse(text)
    raw_metadata = entries.pop("__metadata__", None)
    metadata = raw_metadata if isinstance(raw_metadata, dict) else {}
    tensors = tuple(_entry(name, value, data_start) for name, value in entries.items())
    _check_extent(tensors, data_start, size)
    return tensors, tuple((str(key), str(value)) for key, value in metadata.items())


def _parse(text: str) -> dict[str, Any]:
    try:
        entries = json.loads(text)
        if "\\u" in text:  # half a surrogate pair: the reference reader refuses it, and it is no text
            json.dumps(entries, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise _no_json() from error
    if not isinstance(entries, dict):
        raise FormatError(DamageKind.CORRUPT, "its header is not a table of tensors")
    return entries


def _entry(name: str, value: Any, data_start: int) -> TensorEntry:
    try:
        (begin, end), shape, dtype = value["data_offsets"], tuple(value["shape"]), str(value["dtype"])
    except (TypeError, KeyError, ValueError) as error:
        raise FormatError(DamageKind.CORRUPT, f"the header's entry for {name[:120]} is damaged") from error
    for number in (begin, end, *shape):
        # Exact types: JSON's true is an int to Python, and 8.0 equals 8.
        if type(number) is not int or not 0 <= number <= MAX_COUNT:
            raise FormatError(DamageKind.CORRUPT, f"the header's entry for {name[:120]} is damaged")
    if dtype not in ITEM_BITS:
        raise FormatError(DamageKind.UNSUPPORTED, f"{name[:120]} has the unknown dtype {dtype[:40]}")
    if (end - begin) * 8 != math.prod(shape) * ITEM_BITS[dtype]:
        raise FormatError(DamageKind.CORRUPT, f"size and shape of {name[:120]} disagree")
    return TensorEntry(name, dtype, shape, data_start + begin, data_start + end)


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
