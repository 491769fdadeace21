"""Verify every byte: checksums of all members, NaN and Inf, and the weights against the LoRA file of the same save.

Where the state has a manifest, its files are hashed too: nothing else tells a changed bit in every file.

The state's weights, cast to the LoRA file's dtype, equal that file bit for bit (measured with sd-scripts, which
writes both from the same network within milliseconds). So the pair is a checksum that ``model.safetensors`` lacks.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from checkpoint_core.formats import (
    DamageKind,
    FileReader,
    FormatError,
    Member,
    Tensor,
    TensorEntry,
    TorchZip,
    cast,
    describe,
    read_header,
)
from checkpoint_core.states import layout
from checkpoint_core.states.facts import (
    Damage,
    DeepFacts,
    EntryKind,
    LoraFacts,
    OptimizerFacts,
    StateFacts,
    WeightsFacts,
    WeightsLoraPair,
)
from checkpoint_core.states.inspection import reading_of
from checkpoint_core.states.readers import shard_names

#: Called with the bytes done and the bytes in all.
Progress = Callable[[int, int], None]

#: Exponent bits, all set for NaN and Inf (IEEE 754; bfloat16 has float32's exponent), by dtype name.
_EXPONENTS: dict[str, tuple[Any, int]] = {
    "F16": (np.uint16, 0x7C00), "Half": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80), "BFloat16": (np.uint16, 0x7F80),
    "F32": (np.uint32, 0x7F800000), "Float": (np.uint32, 0x7F800000),
    "F64": (np.uint64, 0x7FF0000000000000), "Double": (np.uint64, 0x7FF0000000000000),
}  # fmt: skip
_MAX_NAMES = 20
_MAX_TENSORS = 1_000_000


class VerificationCancelled(Exception):
    """The user cancelled; nothing was changed."""


@dataclass(frozen=True)
class Verified:
    """What reading every byte told, and the facts of the state as it was then."""

    facts: StateFacts
    deep: DeepFacts

    def still_holds(self, facts: StateFacts) -> bool:
        """Whether it is still the same state; a manifest written since takes nothing away from what was read."""
        then, manifest = self.facts, self.facts.manifest
        same = (then.files, then.modified_ns, then.lora) == (facts.files, facts.modified_ns, facts.lora)
        return same and manifest in (None, facts.manifest)


class _Meter:
    """Counts bytes, reports them, and stops when the user cancels."""

    def __init__(self, total: int, progress: Progress | None, cancelled: Callable[[], bool] | None) -> None:
        self.done, self.total, self._progress, self._cancelled = 0, total, progress, cancelled

    def count(self, size: int) -> None:
        self.done += size
        if self._progress:
            self._progress(min(self.done, self.total), self.total)
        if self._cancelled and self._cancelled():
            raise VerificationCancelled

    def finish(self) -> None:
        """Report the whole: headers and padding are not counted, and a damaged file is read in part."""
        if self._progress:
            self._progress(self.total, self.total)


def verify_state(
    facts: StateFacts, progress: Progress | None = None, cancelled: Callable[[], bool] | None = None
) -> DeepFacts:
    """Read all tensors of a state whose files were readable; files that were not are left to `inspection`.

    :raises VerificationCancelled: when ``cancelled`` returns true between two pieces.
    """
    damage: dict[str, Damage] = {}
    non_finite: dict[str, tuple[str, ...]] = {}
    files, lora = _tensor_files(facts, damage), _lora_to_pair(facts)
    sizes = {entry.name: entry.size_bytes for entry in facts.files}
    to_hash = _files_to_hash(facts)
    total = sum(sizes.get(name, 0) for name in (*files, *to_hash)) + (lora.size_bytes if lora else 0)
    meter = _Meter(total, progress, cancelled)
    for name in files:
        scan = _scan_safetensors if name.endswith(".safetensors") else _scan_torch
        try:
            names = tuple(scan(facts.path / name, meter))
        except FormatError as error:
            damage[name] = reading_of(error)
        else:
            if names:
                non_finite[name] = names
    pair = None
    if lora and layout.WEIGHTS_SAFE not in damage:
        pair = compare_with_lora(facts.path / layout.WEIGHTS_SAFE, facts.path.parent / lora.file, meter)
    bytes_read = meter.done
    as_saved = dict(_hashed(facts, to_hash, meter))
    meter.finish()
    return DeepFacts(damage, non_finite, pair, bytes_read, as_saved)


def _files_to_hash(facts: StateFacts) -> list[str]:
    """The files that may still be what their manifest tells; of another size, they are not."""
    told = facts.manifest.files if facts.manifest else {}
    return [
        entry.name
        for entry in facts.files
        if entry.kind is EntryKind.FILE
        and entry.name in told
        and told[entry.name].size_bytes == entry.size_bytes
    ]


def _hashed(facts: StateFacts, names: list[str], meter: _Meter) -> Iterator[tuple[str, bool]]:
    """Whether each file's bytes are those of its manifest; a file that cannot be read is left out."""
    for name in names:
        assert facts.manifest is not None  # noqa: S101 - it named the files
        with contextlib.suppress(FormatError):
            digest = digest_of(facts.path / name, meter.count)
            yield name, digest == facts.manifest.files[name].sha256


def _tensor_files(facts: StateFacts, damage: dict[str, Damage]) -> list[str]:
    """The files with tensors; small files were read whole by `inspection`."""
    files = [layout.OPTIMIZER] if isinstance(facts.optimizer, OptimizerFacts) else []
    if isinstance(facts.weights, WeightsFacts):
        file = facts.weights.file
        try:
            files[:0] = shard_names(facts.path, file) if file.endswith(".index.json") else [file]
        except FormatError as error:  # it was readable, and has changed
            damage[file] = reading_of(error)
    return files


def _lora_to_pair(facts: StateFacts) -> LoraFacts | None:
    """The LoRA file of the same save, where both it and the weights can be compared."""
    weights, lora = facts.weights, facts.lora
    comparable = isinstance(weights, WeightsFacts) and weights.file == layout.WEIGHTS_SAFE
    return lora if comparable and isinstance(lora, LoraFacts) else None


def _scan_safetensors(path: Path, meter: _Meter) -> Iterator[str]:
    with FileReader(path) as reader:
        for tensor in read_header(reader).tensors:
            data = reader.at(tensor.begin, tensor.end - tensor.begin)
            meter.count(len(data))
            if has_non_finite(data, tensor.dtype):
                yield tensor.name


def _scan_torch(path: Path, meter: _Meter) -> Iterator[str]:
    """The tensors with NaN or Inf; every member's checksum is verified on the way."""
    with FileReader(path) as reader:
        archive = TorchZip(reader)
        description = describe(archive.pickle_bytes)
        bad: set[str] = set()
        for member in archive.members.values():
            key = member.name.removeprefix("data/")
            if _scan_member(archive, member, description.storages.get(key, ""), meter):
                bad.add(key)
        yield from _names_of(description.value, bad)


def _scan_member(archive: TorchZip, member: Member, dtype: str, meter: _Meter) -> bool:
    found = False
    for chunk in archive.chunks(member):
        meter.count(len(chunk))
        found = found or has_non_finite(chunk, dtype)
    return found


def has_non_finite(data: bytes, dtype: str) -> bool:
    """Whether numbers of a dtype (as safetensors or torch names it) hold NaN or Inf; ``False`` for integers."""
    kind, mask = _EXPONENTS.get(dtype, (None, 0))
    if kind is None:
        return False
    bits = np.frombuffer(data, kind, len(data) // np.dtype(kind).itemsize)
    return bool(((bits & kind(mask)) == kind(mask)).any())


def _names_of(value: Any, keys: set[str]) -> list[str]:
    """Where in an optimizer's or a model's state the storages of those keys lie, as far as they are to be named."""
    if not keys:
        return []
    state = value.get("state", value) if isinstance(value, dict) else {}
    # A hostile file may refer to one large table a million times.
    tensors = islice(_tensors(state), _MAX_TENSORS)
    found = (name for name, tensor in tensors if tensor.storage.key in keys)
    return list(islice(found, _MAX_NAMES)) or [f"{len(keys)} tensors"]


def _tensors(state: Any) -> Iterator[tuple[str, Tensor]]:
    for name, entry in state.items() if isinstance(state, dict) else ():
        for part, tensor in _parts(entry):
            yield f"{part} of parameter {name}" if part else str(name), tensor


def _parts(entry: Any, part: str = "", depth: int = 2) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one parameter's state; bitsandbytes keeps its own in a table inside it."""
    if isinstance(entry, Tensor):
        yield part, entry
    elif isinstance(entry, dict) and depth:
        for key, value in entry.items():
            yield from _parts(value, str(key), depth - 1)


def compare_with_lora(weights: Path, lora: Path, meter: _Meter | None = None) -> WeightsLoraPair | None:
    """The pairing, or ``None`` where one of the files cannot be read."""
    try:
        with FileReader(weights) as ours, FileReader(lora) as theirs:
            left = {tensor.name: tensor for tensor in read_header(ours).tensors}
            right = {tensor.name: tensor for tensor in read_header(theirs).tensors}
            if left.keys() != right.keys():
                return WeightsLoraPair(lora.name, False, (), 0)
            differing = []
            for name, tensor in left.items():
                data, other = _bytes(ours, tensor), _bytes(theirs, right[name])
                if meter:
                    meter.count(len(other))
                rounded = cast(data, tensor.dtype, right[name].dtype)
                if rounded is None:  # a dtype that sd-scripts does not write: nothing can be told
                    return None
                if rounded != other:
                    differing.append(name)
            return WeightsLoraPair(lora.name, True, tuple(differing), len(left))
    except FormatError:
        return None


def _bytes(reader: FileReader, tensor: TensorEntry) -> bytes:
    return reader.at(tensor.begin, tensor.end - tensor.begin)


_PIECE = 1024 * 1024


_EMPTY_SHA256 = hashlib.sha256().hexdigest()


def digest_of(path: Path, count: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a regular file in hex, read in pieces.

    :param count: called with the size of each piece; what it raises ends the reading.
    :raises FormatError: when it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with FileReader(path) as reader:
            for offset in range(0, reader.size, _PIECE):
                piece = reader.at(offset, min(_PIECE, reader.size - offset))
                digest.update(piece)
                if count:
                    count(len(piece))
    except FormatError as error:
        if error.kind is DamageKind.EMPTY:
            return _EMPTY_SHA256
        raise
    return digest.hexdigest()
