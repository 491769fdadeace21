"""A safetensors header is held against the file's size; what the reference reader refuses is never taken for whole."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st

from checkpoint_core.formats.reader import MAX_COUNT, DamageKind, FileReader, FormatError
from checkpoint_core.formats.safetensors import ITEM_BITS, SafetensorsHeader, read_header
from tests.builders import safetensors_file, with_header

DOWN, UP = "lora_unet_a.lora_down.weight", "lora_unet_a.lora_up.weight"
VALID = safetensors_file(
    {DOWN: ("BF16", (4, 8), bytes(64)), UP: ("F32", (8, 4), bytes(128))}, {"ss_epoch": "2"}
)
EPOCH_2 = "accelerate-1.6.0-adafactor/tiny-lora-000002-state"


def read(path: Path) -> SafetensorsHeader:
    with FileReader(path) as reader:
        return read_header(reader)


def damage_of(path: Path, data: bytes) -> FormatError:
    path.write_bytes(data)
    with pytest.raises(FormatError) as caught:
        read(path)
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_names_dtypes_shapes_places_and_metadata_are_told(path: Path) -> None:
    path.write_bytes(VALID)
    header = read(path)
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in header.tensors] == [
        (DOWN, "BF16", (4, 8)),
        (UP, "F32", (8, 4)),
    ]
    assert [(len(VALID) - tensor.begin, len(VALID) - tensor.end) for tensor in header.tensors] == [
        (192, 128),
        (128, 0),
    ]
    assert header.metadata == {"ss_epoch": "2"}


@pytest.mark.parametrize(
    "name", [f"{EPOCH_2}/model.safetensors", f"{EPOCH_2.removesuffix('-state')}.safetensors"]
)
def test_the_reference_reader_says_the_same(real_runs: Path, name: str) -> None:
    ours = read(real_runs / name)
    with safetensors.safe_open(real_runs / name, "numpy") as theirs:
        assert {tensor.name for tensor in ours.tensors} == set(theirs.keys())
        assert ours.metadata == (theirs.metadata() or {})
        for tensor in ours.tensors:
            told = theirs.get_slice(tensor.name)
            assert (list(tensor.shape), tensor.dtype) == (told.get_shape(), told.get_dtype())


@pytest.mark.parametrize(
    "name", [f"{EPOCH_2}/model.safetensors", f"{EPOCH_2.removesuffix('-state')}.safetensors"]
)
def test_a_file_cut_at_any_byte_is_never_taken_for_whole(real_runs: Path, path: Path, name: str) -> None:
    path.write_bytes((real_runs / name).read_bytes())
    whole = path.stat().st_size
    tensors = read(path).tensors[0].begin
    kinds = set()
    # Behind the header one cut is like another: the ends of tensors and some bytes between them do.
    between = {tensor.end - cut for tensor in read(path).tensors for cut in (1, 0)} | set(
        range(tensors, whole, 101)
    )
    for size in sorted({*range(tensors), *between} - {whole}, reverse=True):
        os.truncate(path, size)
        with pytest.raises(FormatError) as caught:
            read(path)
        kinds.add(caught.value.kind)
    assert kinds == {DamageKind.TRUNCATED, DamageKind.EMPTY}


def test_what_we_take_the_reference_reader_takes_whatever_byte_has_changed(path: Path) -> None:
    """The other way round need not hold: it is the taking for whole that does harm."""
    refused = 0
    start = len(VALID) - 192
    for offset in range(start):
        changed = bytearray(VALID)
        changed[offset] ^= 0x11
        path.write_bytes(changed)
        try:
            ours = read(path)
        except FormatError:
            refused += 1
            continue
        with safetensors.safe_open(path, "numpy") as theirs:
            assert {tensor.name for tensor in ours.tensors} == set(theirs.keys())
    assert refused > start / 3


def _header(edit: Callable[[dict[str, Any]], object]) -> bytes:
    entries = {DOWN: {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    edit(entries)
    return with_header(json.dumps(entries).encode(), bytes(16))


def _set(**fields: object) -> bytes:
    return _header(lambda entries: entries[DOWN].update(fields))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", DamageKind.EMPTY),
        (b"\x10", DamageKind.TRUNCATED),
        (bytes(7), DamageKind.TRUNCATED),
        (struct.pack("<Q", 1 << 62), DamageKind.CORRUPT),
        (struct.pack("<Q", 1000) + b"{}", DamageKind.TRUNCATED),
        (with_header(b"{"), DamageKind.CORRUPT),
        (with_header(b"[]"), DamageKind.CORRUPT),
        (with_header(b"\xff\xfe{}"), DamageKind.CORRUPT),
        (with_header("{}".encode("utf-16")), DamageKind.CORRUPT),
        (with_header(b"[" * 100_000), DamageKind.CORRUPT),
        (with_header(b'{"a": ' * 50_000), DamageKind.CORRUPT),
        (with_header(b'{"a": 1}'), DamageKind.CORRUPT),
        (with_header(b'{"a": {}}'), DamageKind.CORRUPT),
        (with_header(b'{"__metadata__": {"a": "\\ud800"}}'), DamageKind.CORRUPT),
        (_set(data_offsets=[0]), DamageKind.CORRUPT),
        (_set(data_offsets=[0, 12]), DamageKind.CORRUPT),
        (_set(data_offsets=[0.0, 16.0]), DamageKind.CORRUPT),
        (_set(data_offsets=[16, 0]), DamageKind.CORRUPT),
        (_set(data_offsets=[-16, 0]), DamageKind.CORRUPT),
        (_set(data_offsets="ab"), DamageKind.CORRUPT),
        (_set(shape=[2, 3]), DamageKind.CORRUPT),
        (_set(shape=[4, True, 1]), DamageKind.CORRUPT),
        (_set(shape=[-2, -2]), DamageKind.CORRUPT),
        (_set(shape=[2.0, 2]), DamageKind.CORRUPT),
        (_set(shape="22"), DamageKind.CORRUPT),
        (_set(shape=[MAX_COUNT + 1, 0], data_offsets=[0, 0]), DamageKind.CORRUPT),
        (_set(shape=None), DamageKind.CORRUPT),
        (_set(dtype="F99"), DamageKind.UNSUPPORTED),
        (_set(dtype=["F32"]), DamageKind.UNSUPPORTED),
        (_set(shape=[8, 2], data_offsets=[0, 64]), DamageKind.TRUNCATED),
        (_set(shape=[2], data_offsets=[0, 8]), DamageKind.CORRUPT),
        (_set(shape=[2], data_offsets=[8, 16]), DamageKind.CORRUPT),
        (with_header(b"{}", b"tail"), DamageKind.CORRUPT),
    ],
)  # fmt: skip
def test_what_is_no_safetensors_file_is_named(path: Path, data: bytes, kind: DamageKind) -> None:
    error = damage_of(path, data)
    assert error.kind is kind
    assert error.detail


def test_tensors_may_not_share_bytes(path: Path) -> None:
    twice = _header(lambda entries: entries.update(other=dict(entries[DOWN])))
    assert "does not follow" in damage_of(path, twice).detail


def test_an_empty_tensor_and_a_scalar_are_whole(path: Path) -> None:
    path.write_bytes(safetensors_file({"none": ("F32", (0, 4), b""), "alpha": ("F32", (), bytes(4))}))
    assert [tensor.shape for tensor in read(path).tensors] == [(0, 4), ()]


@pytest.mark.parametrize("dtype", sorted(ITEM_BITS))
def test_every_dtype_has_the_size_that_the_reference_reader_gives_it(path: Path, dtype: str) -> None:
    path.write_bytes(safetensors_file({"a": (dtype, (8, 2), bytes(ITEM_BITS[dtype] * 2))}))
    assert read(path).tensors[0].dtype == dtype
    if dtype not in (
        "C64",
        "F4",
        "F6_E2M3",
        "F6_E3M2",
        "F8_E8M0",
    ):  # not every release on FluxGym's pins has them
        with safetensors.safe_open(path, "numpy") as theirs:
            assert list(theirs.keys()) == ["a"]


def test_metadata_that_is_no_table_of_text_does_no_harm(path: Path) -> None:
    for metadata in ("[1]", '{"a": {"b": 1}}', "null"):
        path.write_bytes(with_header(b'{"__metadata__": %s}' % metadata.encode()))
        assert all(isinstance(value, str) for value in read(path).metadata.values())


@given(st.binary(max_size=300), st.integers(0, len(VALID)))
def test_random_bytes_raise_nothing_but_format_errors(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.safetensors"
    for data in (
        noise,
        with_header(noise),
        VALID[:at] + noise,
        VALID[:at] + noise + VALID[at + len(noise) :],
    ):
        path.write_bytes(data)
        try:
            header = read(path)
        except FormatError:
            continue
        assert sum(tensor.end - tensor.begin for tensor in header.tensors) <= len(data) - 8
