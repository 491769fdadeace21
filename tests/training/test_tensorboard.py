"""Scalars are read out of TensorBoard's event files, whole, half written and broken ones."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.training import tensorboard
from checkpoint_core.training.tensorboard import EventLosses, Scalar, read_scalars
from tests.world import World

CURRENT, AVERAGE, EPOCH = "loss/current", "loss/average", "loss/epoch_average"

# Written by torch.utils.tensorboard's SummaryWriter (torch 2.13, tensorboard 2.21): three steps of two curves, an
# epoch's average, one scalar in the new style (a tensor), and a text.
REAL = zlib.decompress(
    base64.b64decode(
        "eNrzYICAf5M85nLu7tt/8/XBW45SvElFiZl5eq5lqXklVkZBelw6Jal5xflFSfmJRSl6xaW5uYlFlXrlRZklqUV6qSBV8WmZOanx"
        "EBEpFk5mJai5FYK2fzkZGBx4OYDmCjBqiXIJc/Hk5BcX6yeXFhUBNYouKbhrf7olTZiwjsSy1KLE9FSgjr32Xs2pO9B0NEB0MGGx"
        "g+v6Y/tT0yfdIKwDZgfX9cP2JnZdjWg6DkB0MGOxIy3tmf3WxP4LhHXA7EhLO2bvXdKeqQHV8b9AzAuog4EP6nNpLkkuIbCO1IL8"
        "5Ix4mD6gofZnN4p5mkD1xRmLx4BCDKKPRUudSxXVbU4cHIxaLAwMCg5e3FycXOzFyYk5iUXFQXaOjuZQM56/OBXJOXUmJP61dLi0"
        "uAQTi9KL9UtSK0rioRHuxM3BLsQixMTB6MRY4cXBxcbFApL+fvaeHgDEPKb6"
    )
)


def crc32c_bitwise(data: bytes) -> int:
    """The checksum by its definition, bit by bit."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value // 2 ^ 0x82F63B78 if value % 2 else value // 2
    return value ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c_bitwise(data)
    rotated = (crc >> 15) | ((crc << 17) % 2**32)
    return struct.pack("<I", (rotated + 0xA282EAD8) % 2**32)


def record(event: bytes) -> bytes:
    length = struct.pack("<Q", len(event))
    return length + masked(length) + event + masked(event)


def number(value: int) -> bytes:
    value %= 2**64
    out = b""
    while value > 127:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


def part(field: int, data: bytes) -> bytes:
    return number(field * 8 + 2) + number(len(data)) + data


def event(tag: str, step: int, value: bytes, wall: float = 5.0) -> bytes:
    summary = part(1, part(1, tag.encode()) + value)
    return b"\x09" + struct.pack("<d", wall) + b"\x10" + number(step) + part(5, summary)


def simple(value: float) -> bytes:
    return b"\x15" + struct.pack("<f", value)


def scalars(*values: tuple[int, float]) -> bytes:
    return b"".join(record(event(AVERAGE, step, simple(value))) for step, value in values)


def test_checksum_is_castagnolis() -> None:
    assert crc32c_bitwise(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert tensorboard._masked(b"123456789") == struct.unpack("<I", masked(b"123456789"))[0]


def test_reads_a_real_file() -> None:
    found = read_scalars(REAL, {CURRENT, AVERAGE, EPOCH})
    assert [(scalar.tag, scalar.step, round(scalar.value, 3)) for scalar in found] == [
        (CURRENT, 1, 1.73), (AVERAGE, 1, 1.48),
        (CURRENT, 2, 1.78), (AVERAGE, 2, 1.53),
        (CURRENT, 3, 1.8), (AVERAGE, 3, 1.55),
        (EPOCH, 1, 1.5), (CURRENT, 4, 2.5),
    ]  # fmt: skip


def test_only_what_is_wanted() -> None:
    assert {scalar.tag for scalar in read_scalars(REAL, [AVERAGE])} == {AVERAGE}
    assert read_scalars(REAL, ()) == []


def test_a_file_that_is_being_written_is_read_up_to_its_last_whole_record() -> None:
    data, one = scalars((1, 1.0), (2, 2.0)), len(scalars((1, 1.0)))
    for length in range(len(data) + 1):
        assert len(read_scalars(data[:length], {AVERAGE})) == length // one


def test_a_broken_record_ends_the_reading() -> None:
    data = bytearray(scalars((1, 1.0), (2, 2.0), (3, 3.0)))
    one = len(data) // 3
    for at in range(one, 2 * one):
        reset = data.copy()
        reset[at] ^= 0x10
        assert [scalar.step for scalar in read_scalars(bytes(reset), {AVERAGE})] == [1], at


def test_a_record_of_another_program_is_passed_over() -> None:
    for strange in (b"\xff", b"\x0b", b"\x09\x00", b"\x2a\x7f", b"\x80" * 20, b"\x2a\x02\x0a\x7f"):
        data = scalars((1, 1.0)) + record(strange) + scalars((2, 2.0))
        assert [scalar.step for scalar in read_scalars(data, {AVERAGE})] == [1, 2]


def test_a_large_record_is_passed_over_unread() -> None:
    large = bytes(1_000_001)
    length = struct.pack("<Q", len(large))
    data = scalars((1, 1.0)) + length + masked(length) + large + b"none" + scalars((2, 2.0))
    assert [scalar.step for scalar in read_scalars(data, {AVERAGE})] == [1, 2]


def test_no_more_records_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "_MAX_RECORDS", 3)
    assert len(read_scalars(scalars(*((step, 1.0) for step in range(5))), {AVERAGE})) == 3


def tensors() -> Iterator[tuple[bytes, float | None]]:
    yield b"\x08\x01" + part(5, struct.pack("<f", 1.5)), 1.5
    yield b"\x08\x01" + part(4, struct.pack("<f", 1.5)), 1.5
    yield b"\x08\x01" + b"\x2d" + struct.pack("<f", 1.5), 1.5
    yield b"\x08\x02" + part(6, struct.pack("<d", 1.5)), 1.5
    yield b"\x08\x01" + part(5, struct.pack("<ff", 1.5, 2.5)), None
    yield b"\x08\x07" + part(8, b"text"), None


@pytest.mark.parametrize(("tensor", "value"), list(tensors()))
def test_tensors_of_one_number(tensor: bytes, value: float | None) -> None:
    found = read_scalars(record(event(CURRENT, 7, part(8, tensor))), {CURRENT})
    assert found == ([] if value is None else [Scalar(CURRENT, 7, value)])


def test_steps_may_be_negative_or_large_and_values_nan() -> None:
    data = scalars((-1, math.nan), (2**40, math.inf))
    first, second = read_scalars(data, {AVERAGE})
    assert (first.step, second.step) == (-1, 2**40)
    assert math.isnan(first.value)
    assert second.value == math.inf


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_no_bytes_raise(data: bytes) -> None:
    read_scalars(data, {AVERAGE})
    read_scalars(record(data), {AVERAGE, ""})


def audited(world: World) -> RunReport:
    return Auditor(world.outputs).audit_run(world.run_name)


def write_events(folder: Path, losses: list[float]) -> Path:
    path = folder / "20260101" / "network_train" / "events.out.tfevents.1767225600.my.host.4711.0"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(record(event("loss/average", step, simple(loss))) for step, loss in enumerate(losses, 1))
    path.write_bytes(data)
    return path


def test_without_a_folder_for_them_there_are_none(world: World) -> None:
    assert EventLosses().of(audited(world), {4711}).points == ()


def test_the_losses_of_the_script_s_own_folder_are_read_again_when_they_grow(world: World) -> None:
    world.edit_script(lambda text: f"{text} \\\n  --logging_dir logs")
    now = [0.0]
    losses = EventLosses(lambda: now[0])
    assert losses.of(audited(world), {4711, 12}).points == ()
    write_events(world.root / "logs", [0.5, 0.25])
    assert losses.of(audited(world), {4711, 12}).points == ((1, 0.5), (2, 0.25))
    write_events(world.root / "logs", [0.5, 0.25, 0.125])
    assert losses.of(audited(world), {4711, 12}).points[-1] == (3, 0.125)


def test_another_training_that_writes_into_the_same_folder_is_not_shown(world: World) -> None:
    world.edit_script(lambda text: f"{text} \\\n  --logging_dir logs")
    write_events(world.root / "logs", [0.5])
    assert EventLosses().of(audited(world), {12}).points == ()
