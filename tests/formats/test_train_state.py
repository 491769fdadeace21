"""`train_state.json` is read as the trainer reads it: `current_step` decides, `current_epoch` only tells."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint_core.formats.reader import MAX_COUNT, DamageKind, FileReader, FormatError
from checkpoint_core.formats.train_state import TrainState, read_train_state


def read(path: Path) -> TrainState:
    with FileReader(path) as reader:
        return read_train_state(reader)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train_state.json"


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_real_files_tell_epoch_and_step(real_runs: Path, epoch: int) -> None:
    state = real_runs / "accelerate-1.6.0-adafactor" / f"tiny-lora-{epoch:06d}-state"
    assert read(state / "train_state.json") == TrainState(epoch, epoch * 8)


def test_a_real_file_cut_at_any_byte_is_damage(real_runs: Path, path: Path) -> None:
    whole = real_runs / "accelerate-1.6.0-adafactor" / "tiny-lora-000002-state" / "train_state.json"
    path.write_bytes(whole.read_bytes())
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(FormatError) as caught:
            read(path)
        assert caught.value.kind is (DamageKind.CORRUPT if size else DamageKind.EMPTY)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"current_epoch": 2, "current_step": 16}', TrainState(2, 16)),
        ('{"current_step": 0}', TrainState(None, 0)),
        ('{"current_epoch": 2}', TrainState(2, None)),
        ("{}", TrainState(None, None)),
        ('{"current_epoch": 2, "current_step": null}', TrainState(2, None)),
        ('{"current_epoch": "two", "current_step": 16}', TrainState(None, 16)),
        ('{"current_epoch": -1, "current_step": 16}', TrainState(None, 16)),
        ('{"current_epoch": [2], "current_step": 16, "other": {}}', TrainState(None, 16)),
        (f'{{"current_epoch": {MAX_COUNT + 1}, "current_step": {MAX_COUNT}}}', TrainState(None, MAX_COUNT)),
    ],
)
def test_what_is_missing_or_strange_is_not_known(path: Path, text: str, expected: TrainState) -> None:
    path.write_text(text)
    assert read(path) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[16]",
        b"16",
        b"null",
        b"not json",
        b'\xef\xbb\xbf{"current_step": 16}',
        '{"current_step": 16}'.encode("utf-16"),
        b'{"current_step": "16"}',
        b'{"current_step": 16.0}',
        b'{"current_step": true}',
        b'{"current_step": -1}',
        b'{"current_step": NaN}',
        b'{"current_step": %d}' % (MAX_COUNT + 1),
        b'{"current_step": 1%s}' % (b"0" * 10_000),
        b'{"current_step": %s%s}' % (b"[" * 900, b"]" * 900),
        b"[" * 100_000,
        b'{"current_step": 16}' + b" " * (1 << 20),
        b'{"current_step": "\xff"}',
    ],
    ids=lambda data: data[:24].decode("latin-1"),
)
def test_what_the_trainer_cannot_go_on_from_is_damage(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(FormatError) as caught:
        read(path)
    assert caught.value.kind is DamageKind.CORRUPT
    assert len(caught.value.detail) < 120


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(["current_epoch", "current_step", "x"]), _JSON) | _JSON)
def test_any_json_gives_counts_or_damage(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value))
    try:
        found = read(path)
    except FormatError:
        return
    assert all(
        number is None or 0 <= number <= MAX_COUNT for number in (found.current_epoch, found.current_step)
    )
