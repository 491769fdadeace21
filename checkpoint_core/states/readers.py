"""One reader per kind of file: path to facts.

Each raises :class:`FormatError` for what is wrong with the file; :mod:`checkpoint_core.states.inspection` turns that
into a value.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from checkpoint_core.formats import (
    ITEM_BITS,
    DamageKind,
    Description,
    FileReader,
    FormatError,
    Tensor,
    TensorEntry,
    TorchZip,
    TrainState,
    describe,
    hostile,
    read_header,
)
from checkpoint_core.formats import read_train_state as parse_train_state
from checkpoint_core.states import interpret, layout
from checkpoint_core.states.facts import (
    CustomObjectFacts,
    LoraFacts,
    OptimizerFacts,
    RandomStatesFacts,
    SchedulerFacts,
    WeightsFacts,
    WeightsSample,
)

T = TypeVar("T")

#: One-element tensors that are read as numbers: counts (torch's AdamW keeps ``step`` as a float32 tensor), and a LoRA's
#: alpha, as torch's storages and as safetensors name their dtypes. bfloat16 is the upper half of a float32.
_SCALARS = {
    "Float": "<f", "Double": "<d", "Half": "<e", "BFloat16": "<f", "Long": "<q", "Int": "<i",
    "F32": "<f", "F64": "<d", "F16": "<e", "BF16": "<f", "I64": "<q", "I32": "<i",
}  # fmt: skip
_ALPHA = ".alpha"
_SAMPLE_NUMBERS = 256
_MAX_INDEX_BYTES = 64 * 1024 * 1024
_MAX_WHOLE_BYTES = 64 * 1024 * 1024
_PIECE_BYTES = 4 * 1024 * 1024


def read_train_state(path: Path) -> TrainState:
    """``train_state.json``."""
    with FileReader(path) as reader:
        return parse_train_state(reader)


def read_lora(path: Path, size_bytes: int, modified_ns: int) -> LoraFacts:
    """A LoRA file with its metadata."""
    with FileReader(path) as reader:
        header = read_header(reader)
        return interpret.lora_facts(
            path.name, size_bytes, modified_ns, header, _sample(reader, header.tensors)
        )


def _sample(reader: FileReader, tensors: tuple[TensorEntry, ...]) -> WeightsSample | None:
    tensor = interpret.sample_of(tensors)
    bits = ITEM_BITS.get(tensor.dtype, 0) if tensor else 0
    if tensor is None or bits % 8:
        return None
    length = min(tensor.end - tensor.begin, _SAMPLE_NUMBERS * bits // 8)
    return WeightsSample(tensor.name, tensor.dtype, reader.at(tensor.begin, length))


def read_optimizer(path: Path) -> OptimizerFacts:
    """``optimizer.bin``."""
    return _read_torch(
        path, lambda saved, scalar: interpret.optimizer_facts(saved.value, scalar, saved.names)
    )


def read_scheduler(path: Path) -> SchedulerFacts:
    """``scheduler.bin``."""
    return _read_torch(path, lambda saved, _: interpret.scheduler_facts(saved.value, saved.names), whole=True)


def read_random_states(path: Path) -> RandomStatesFacts:
    """``random_states_0.pkl``."""
    return _read_torch(
        path, lambda saved, _: interpret.random_states_facts(saved.value, saved.names), whole=True
    )


def read_custom_object(path: Path) -> CustomObjectFacts:
    """``custom_checkpoint_0.pkl``."""
    return _read_torch(
        path, lambda saved, _: interpret.custom_object_facts(saved.value, saved.names), whole=True
    )


def _read_torch(
    path: Path,
    interpret: Callable[[Description, Callable[[Tensor], float | None]], T],
    *,
    whole: bool = False,
) -> T:
    """Describe a torch file; ``whole`` verifies the tensors' bytes too, for files that are always small."""
    with FileReader(path) as reader:
        try:
            archive = TorchZip(reader)
            if whole and reader.size <= _MAX_WHOLE_BYTES:
                archive.verify_all()
            else:
                archive.verify_records()
            description = describe(archive.pickle_bytes)
        except FormatError as error:
            # An old torch unpickles what is no archive as it lies there, and does not compare checksums.
            error.add_hostile(hostile.names_in(_pieces(reader)) if whole else ())
            raise
        description.refuse_foreign()
        _check_storages(archive, description.storages)
        return interpret(description, lambda tensor: _scalar(archive, tensor))


def _pieces(reader: FileReader) -> Iterator[bytes]:
    """A file's bytes from its beginning, as far as they can be read, with an overlap."""
    with contextlib.suppress(FormatError):
        for offset in range(0, reader.size, _PIECE_BYTES):
            begin = max(0, offset - hostile.OVERLAP_BYTES)
            yield reader.at(begin, min(offset + _PIECE_BYTES, reader.size) - begin)


def _check_storages(archive: TorchZip, keys: Iterable[str]) -> None:
    for key in keys:
        if f"data/{key}" not in archive.members:
            raise FormatError(DamageKind.CORRUPT, f"the bytes of tensor {key} are not in it")


def _scalar(archive: TorchZip, tensor: Tensor) -> float | None:
    member = archive.members.get(f"data/{tensor.storage.key}")
    if member is None or tensor.shape != () or member.size > 8:
        return None
    return _element(tensor.storage.dtype, archive.read(member))


def _element(dtype: str, data: bytes) -> float | None:
    """The value of a one-element tensor; ``None`` for a dtype that is not read, or bytes that are not one element."""
    code = _SCALARS.get(dtype)
    if dtype in ("BFloat16", "BF16"):
        data = b"\0\0" + data
    if code is None or len(data) != struct.calcsize(code):
        return None
    return float(struct.unpack(code, data)[0])


class _Tensors(NamedTuple):
    """The tensors of one weights file, and the value of its first alpha."""

    entries: tuple[TensorEntry, ...]
    alpha: float | None
    sample: WeightsSample | None = None


def read_weights(directory: Path, names: frozenset[str]) -> WeightsFacts:
    """The weights of a state, in whichever form accelerate wrote them.

    :param names: the regular files in the directory; one of the weights files must be among them.
    """
    if layout.WEIGHTS_SAFE in names:
        return interpret.weights_facts(
            layout.WEIGHTS_SAFE, *_safetensors_tensors(directory / layout.WEIGHTS_SAFE)
        )
    if layout.WEIGHTS_SAFE_INDEX in names:
        return _read_shards(directory, layout.WEIGHTS_SAFE_INDEX, names, _safetensors_tensors)
    if layout.WEIGHTS_PICKLED in names:
        path = directory / layout.WEIGHTS_PICKLED
        return interpret.weights_facts(layout.WEIGHTS_PICKLED, *_pickled_tensors(path))
    return _read_shards(directory, layout.WEIGHTS_PICKLED_INDEX, names, _pickled_tensors)


def shard_names(directory: Path, index: str) -> tuple[str, ...]:
    """The files that a sharded weights index names.

    :raises FormatError: ``CORRUPT`` when the index is no index, or names a place outside the directory.
    """
    with FileReader(directory / index) as reader:
        if reader.size > _MAX_INDEX_BYTES:
            raise FormatError(DamageKind.UNSUPPORTED, f"it has {reader.size:,} bytes")
        try:
            names = sorted(set(json.loads(reader.at(0, reader.size).decode("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FormatError(DamageKind.CORRUPT, "it is not an index of weights files") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name in ("", "..") or "\\" in name:
            raise FormatError(
                DamageKind.CORRUPT, f"it names {str(name)[:120]!r}, which is no file of this directory"
            )
    return tuple(names)


def _read_shards(
    directory: Path, index: str, names: frozenset[str], read: Callable[[Path], _Tensors]
) -> WeightsFacts:
    shards: list[_Tensors] = []
    for name in shard_names(directory, index):
        if name not in names and os.path.lexists(directory / name):
            raise FormatError(DamageKind.UNREADABLE, f"{name} is not a regular file of the outputs folder")
        if name not in names:
            raise FormatError(DamageKind.CORRUPT, f"it names {name}, which is missing")
        try:
            shards.append(read(directory / name))
        except FormatError as error:
            raise FormatError(
                error.kind, f"{name}: {error.detail}", error.names, is_hostile=error.is_hostile
            ) from error
    tensors = [tensor for shard in shards for tensor in shard.entries]
    return interpret.weights_facts(
        index, tensors, next((s.alpha for s in shards if s.alpha is not None), None)
    )


def _safetensors_tensors(path: Path) -> _Tensors:
    with FileReader(path) as reader:
        tensors = read_header(reader).tensors
        sample = _sample(reader, tensors)
        first = next((tensor for tensor in tensors if tensor.name.endswith(_ALPHA)), None)
        if first is None or not 0 < first.end - first.begin <= 8:
            return _Tensors(tensors, None, sample)
        alpha = _element(first.dtype, reader.at(first.begin, first.end - first.begin))
        return _Tensors(tensors, alpha, sample)


def _pickled_tensors(path: Path) -> _Tensors:
    def entries(saved: Description, scalar: Callable[[Tensor], float | None]) -> _Tensors:
        if not isinstance(saved.value, dict):
            raise FormatError(DamageKind.CORRUPT, "it does not hold a table of tensors")
        tensors = {str(name): tensor for name, tensor in saved.value.items() if isinstance(tensor, Tensor)}
        first = next((tensor for name, tensor in tensors.items() if name.endswith(_ALPHA)), None)
        return _Tensors(
            tuple(
                TensorEntry(name, tensor.storage.dtype, tensor.shape, 0, 0)
                for name, tensor in tensors.items()
            ),
            scalar(first) if first else None,
        )

    return _read_torch(path, entries)
