"""The record of a training: there and back, and whatever else a file of that name may hold."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from checkpoint_core.training.record import (
    FOLDER,
    ProcessId,
    ProcessState,
    Request,
    TrainingRecord,
    read_record,
    send_request,
    take_requests,
    write_record,
)

RECORD = TrainingRecord(
    ProcessState.BACKOFF,
    "machine",
    ProcessId(12, 3.25),
    ProcessId(13, 4.5),
    started_ns=5,
    since_ns=6,
    attempt=3,
    bring_back=True,
    resumed_from="x-000002-state",
    exit_status=-9,
    next_try_ns=7,
    message="It was killed.",
    warnings=("one", "two"),
    behind=("x-000003-state",),
    token="abc",
)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD


def test_a_run_without_a_training_has_none(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"status": "asleep"},
        {"status": None},
        {"watcher": {"pid": "x", "started": 1}},
        {"watcher": {"pid": -1, "started": 1}},
        {"watcher": {"pid": 1, "started": float("inf")}},
        {"attempt": "many"},
        {"warnings": 5},
        {"host": ...},
    ],
)
def test_a_record_that_is_not_ours_is_none(tmp_path: Path, change: dict[str, object]) -> None:
    write_record(tmp_path, RECORD)
    path = tmp_path / FOLDER / "training.json"
    value = {**json.loads(path.read_text()), **change}
    if value["host"] is ...:
        del value["host"]
    path.write_text(json.dumps(value))
    assert read_record(tmp_path) is None


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a": "' + b"x" * 5_000_000]
)
def test_a_file_that_is_no_record_is_none(tmp_path: Path, data: bytes) -> None:
    write_record(tmp_path, RECORD)
    (tmp_path / FOLDER / "training.json").write_bytes(data)
    assert read_record(tmp_path) is None


def test_what_was_asked_is_taken_once(tmp_path: Path) -> None:
    assert take_requests(tmp_path) == []
    send_request(tmp_path, Request.STOP)
    assert take_requests(tmp_path) == [Request.STOP]
    assert take_requests(tmp_path) == []


def test_no_word_takes_the_place_of_another(tmp_path: Path) -> None:
    send_request(tmp_path, Request.STOP)
    time.sleep(0.02)
    send_request(tmp_path, Request.BRING_BACK)
    assert take_requests(tmp_path) == [Request.STOP, Request.BRING_BACK]


def test_of_two_that_contradict_each_other_the_later_counts(tmp_path: Path) -> None:
    send_request(tmp_path, Request.BRING_BACK)
    send_request(tmp_path, Request.LEAVE)
    assert take_requests(tmp_path) == [Request.LEAVE]
