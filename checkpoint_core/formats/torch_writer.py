"""A small ``torch.save`` file made without torch: plain values and tensors whose bytes are given.

The pickle is written by hand, in the opcodes that torch itself writes (protocol 2, torch ``serialization.py``,
``_save``), so that nothing but plain data can come into it. The archive holds what torch's reader asks for
(``caffe2/serialize/inline_container.cc``): one folder, stored members, a version.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from checkpoint_core.formats.pickles import Tensor

#: The opcodes of protocol 2 (CPython ``pickle.py``); nothing here needs the module that runs them.
_PROTO_2, _STOP, _MARK = b"\x80\x02", b".", b"("
_EMPTY_DICT, _EMPTY_LIST, _EMPTY_TUPLE, _SETITEMS, _APPENDS, _TUPLE = b"}", b"]", b")", b"u", b"e", b"t"
_NONE, _NEWTRUE, _NEWFALSE, _BINFLOAT, _BINUNICODE, _BININT, _LONG1 = (
    b"N",
    b"\x88",
    b"\x89",
    b"G",
    b"X",
    b"J",
    b"\x8a",
)
_GLOBAL, _REDUCE, _BINPERSID = b"c", b"R", b"Q"
#: A zip's dates begin with 1980; torch writes none at all.
_NO_DATE = (1980, 1, 1, 0, 0, 0)
_VERSION = b"3\n"  # torch ``serialization.py`` writes what ``kMinProducedFileFormatVersion`` says
_MAX_DEPTH = 20
#: Random states take about 1,300. A list in a list in a list, each held ten times, is few bytes and endless values.
_MAX_OPCODES = 100_000
#: Bytes of one element, by the name of torch's typed storage (torch ``storage.py``, ``_dtype_to_storage_type_map``).
#: Newer dtypes have no such storage, and complex numbers may be conjugated by a mark that is not described.
_ELEMENT_BYTES = {
    "Bool": 1, "Byte": 1, "Char": 1, "Short": 2, "Half": 2, "BFloat16": 2, "Int": 4, "Float": 4, "Long": 8, "Double": 8,
}  # fmt: skip


def write_torch(value: Any, storages: Mapping[str, bytes], folder: str = "archive") -> bytes:
    """The bytes of a ``torch.save`` file.

    :param value: ``None``, booleans, numbers, texts, and lists, tuples, tables and tensors of them. A tensor is
        written as contiguous: how its rows lay in the storage is not described.
    :param storages: the bytes of each storage that the tensors name, by its key.
    :param folder: the archive's one folder; torch takes the file's name without its ending.
    :raises TypeError: for any other object, for more than a small file holds, or for a tensor that its storage,
        as given, does not cover.
    """
    opcodes = list(islice(_opcodes(value, storages, 0), _MAX_OPCODES + 1))
    if len(opcodes) > _MAX_OPCODES:
        raise TypeError("the value holds too much")
    pickled = b"".join((_PROTO_2, *opcodes, _STOP))
    members = {"data.pkl": pickled, "byteorder": b"little"}
    members |= {f"data/{key}": data for key, data in storages.items()}
    members["version"] = _VERSION
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(f"{folder}/{name}", _NO_DATE), data)
    return buffer.getvalue()


def _opcodes(value: Any, storages: Mapping[str, bytes], depth: int) -> Iterator[bytes]:
    if depth > _MAX_DEPTH:
        raise TypeError("the value is nested too deeply")
    if isinstance(value, Tensor):
        yield from _tensor(value, storages)
    elif type(value) is dict:
        yield _EMPTY_DICT
        flat = (each for item in value.items() for each in item)
        yield from _marked(flat, storages, depth, _SETITEMS, bool(value))
    elif type(value) is list:
        yield _EMPTY_LIST
        yield from _marked(value, storages, depth, _APPENDS, bool(value))
    elif type(value) is tuple:
        yield from _marked(value, storages, depth, _TUPLE, True)
    else:
        yield _plain(value)


def _marked(
    values: Iterable[Any], storages: Mapping[str, bytes], depth: int, end: bytes, is_needed: bool
) -> Iterator[bytes]:
    if not is_needed:
        return
    yield _MARK
    for each in values:
        yield from _opcodes(each, storages, depth + 1)
    yield end


def _plain(value: Any) -> bytes:
    if value is None:
        return _NONE
    if type(value) is bool:
        return _NEWTRUE if value else _NEWFALSE
    if type(value) is int:
        return _whole(value)
    if type(value) is float:
        return _BINFLOAT + struct.pack(">d", value)
    if type(value) is str:
        data = value.encode("utf-8", "surrogatepass")
        return _BINUNICODE + struct.pack("<I", len(data)) + data
    raise TypeError(f"a {type(value).__name__} is no plain value")


def _whole(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return _BININT + struct.pack("<i", value)
    data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    if len(data) > 255:
        raise TypeError("a number of so many digits is no plain value")
    return _LONG1 + bytes([len(data)]) + data


def _tensor(tensor: Tensor, storages: Mapping[str, bytes]) -> Iterator[bytes]:
    """``torch._utils._rebuild_tensor_v2(storage, storage_offset, size, stride, requires_grad, backward_hooks)``."""
    storage = tensor.storage
    if storage.key not in storages:
        raise TypeError(f"the bytes of storage {storage.key} are not given")
    _must_cover(tensor, storages[storage.key])
    yield _name("torch._utils", "_rebuild_tensor_v2") + _MARK
    yield _MARK + _plain("storage") + _name("torch", f"{storage.dtype}Storage")
    yield _plain(storage.key) + _plain("cpu") + _whole(storage.numel) + _TUPLE + _BINPERSID
    yield _whole(tensor.offset)
    yield from _opcodes(tensor.shape, {}, 0)
    yield from _opcodes(_strides(tensor.shape), {}, 0)
    yield _NEWFALSE + _name("collections", "OrderedDict") + _EMPTY_TUPLE + _REDUCE
    yield _TUPLE + _REDUCE


def _must_cover(tensor: Tensor, data: bytes) -> None:
    storage = tensor.storage
    size = _ELEMENT_BYTES.get(storage.dtype)
    if size is None:
        raise TypeError(f"a tensor of {storage.dtype or 'unknown'} elements is no plain value")
    last = tensor.offset + math.prod(tensor.shape)
    if min(tensor.offset, *tensor.shape, 0) < 0 or last > storage.numel or len(data) != storage.numel * size:
        raise TypeError(f"storage {storage.key} does not cover its tensor")


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a contiguous tensor, in elements; a dimension of none counts as one, as in torch."""
    return tuple(math.prod(max(1, size) for size in shape[at + 1 :]) for at in range(len(shape)))


def _name(module: str, name: str) -> bytes:
    return _GLOBAL + f"{module}\n{name}\n".encode("ascii")
