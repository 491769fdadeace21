"""Files made without torch: our own reader and the real torch read the same values from them."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint_core.formats.pickles import Storage, Tensor, describe
from checkpoint_core.formats.reader import FileReader
from checkpoint_core.formats.torch_writer import write_torch
from checkpoint_core.formats.torch_zip import TorchZip

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def described(data: bytes, folder: Path) -> Any:
    path = folder / "file.pkl"
    path.write_bytes(data)
    with FileReader(path) as reader:
        archive = TorchZip(reader)
        archive.verify_all()
        return describe(archive.pickle_bytes).value


@settings(deadline=None)
@given(value=PLAIN)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    data = write_torch(value, {})

    assert described(data, tmp_path_factory.mktemp("round")) == value
    assert torch.load(io.BytesIO(data), weights_only=True) == value


@pytest.mark.parametrize("value", [math.inf, -math.inf, -0.0, 2**31, -(2**31) - 1, 2**2000, "\udc80", ""])
def test_odd_values_keep_their_kind(tmp_path: Path, value: object) -> None:
    found = described(write_torch([value], {}), tmp_path)[0]

    assert type(found) is type(value)
    assert repr(found) == repr(value)


@pytest.mark.parametrize("shape", [(12,), (3, 4), (2, 3, 2), (0, 4)])
def test_a_tensor_has_its_bytes_and_shape(shape: tuple[int, ...]) -> None:
    wanted = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    tensor = Tensor(Storage("Float", "7", "cpu", wanted.numel()), 0, shape)

    found = torch.load(
        io.BytesIO(write_torch({"x": tensor}, {"7": wanted.numpy().tobytes()})), weights_only=True
    )

    assert torch.equal(found["x"], wanted)
    assert found["x"].is_contiguous()


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", [lambda: 0], {"x": 1j}])
def test_what_is_no_plain_value_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no plain value"):
        write_torch(value, {})


def test_a_tensor_without_its_bytes_is_refused() -> None:
    with pytest.raises(TypeError, match="storage 0 are not given"):
        write_torch(Tensor(Storage("Byte", "0", "cpu", 1), 0, (1,)), {})


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor(Storage("Float", "0", "cpu", 4), 1, (4,)),
        Tensor(Storage("Float", "0", "cpu", 4), 0, (2, 3)),
        Tensor(Storage("Float", "0", "cpu", 4), -1, (1,)),
        Tensor(Storage("Float", "0", "cpu", 4), 0, (-1, -1)),
        Tensor(Storage("Double", "0", "cpu", 4), 0, (4,)),
    ],
)
def test_a_tensor_that_its_bytes_do_not_cover_is_refused(tensor: Tensor) -> None:
    write_torch(Tensor(Storage("Float", "0", "cpu", 4), 0, (4,)), {"0": bytes(16)})
    with pytest.raises(TypeError, match="storage 0 does not cover its tensor"):
        write_torch(tensor, {"0": bytes(16)})


@pytest.mark.parametrize("dtype", ["Untyped", "ComplexFloat", ""])
def test_elements_that_torch_keeps_otherwise_are_refused(dtype: str) -> None:
    with pytest.raises(TypeError, match="elements is no plain value"):
        write_torch(Tensor(Storage(dtype, "0", "cpu", 1), 0, (1,)), {"0": bytes(8)})


def test_a_value_that_unfolds_to_endless_ones_is_refused() -> None:
    value: list[object] = []
    for _ in range(15):
        value = [value] * 10
    with pytest.raises(TypeError, match="holds too much"):
        write_torch(value, {})


def test_a_value_without_end_is_refused() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(TypeError, match="nested too deeply"):
        write_torch(value, {})


def test_the_same_value_gives_the_same_bytes() -> None:
    assert write_torch({"a": [1.5]}, {}) == write_torch({"a": [1.5]}, {})
