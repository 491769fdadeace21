"""How a training stands: read from the disk, held against the processes, and never more than there is."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from checkpoint_core.report.training import training_json, training_lines
from checkpoint_core.training.log.files import JournalLine, open_log, write_journal
from checkpoint_core.training.log.progress import LossHistory, Progress
from checkpoint_core.training.record import ProcessState, TrainingRecord, write_progress, write_record
from checkpoint_core.training.status import Life, Processes, has_trace, in_use, training_status


def test_a_run_without_a_training_has_no_trace(tmp_path: Path) -> None:
    status = training_status(tmp_path, Processes())
    assert (status.life, status.record, has_trace(status), status.is_running) == (
        Life.NONE,
        None,
        False,
        False,
    )
    assert list(training_lines(status)) == ["Not started here."]
    assert in_use(tmp_path) == frozenset()


def test_one_that_is_over_is_told_with_its_last_numbers_and_its_journal(tmp_path: Path) -> None:
    record = TrainingRecord(
        ProcessState.FATAL, socket.gethostname(), message="The disk is full.",
        warnings=("Too little room.",), attempt=2,
        resumed_from="x-000001-state",
    )  # fmt: skip
    write_record(tmp_path, record)
    history = LossHistory()
    history.add(7, 0.25)
    progress = Progress(epoch=1, epochs=2, bar_step=7, bar_total=16, steps_per_epoch=8, loss=0.25)
    write_progress(tmp_path, {"progress": progress.to_json(), "history": history.to_json()})
    write_journal(tmp_path, JournalLine(1, "crashed", "It crashed."))
    with open_log(tmp_path) as log:
        log.write("学習".encode()[:-1])  # cut in the middle of a letter

    status = training_status(tmp_path, Processes())

    assert (status.life, status.progress, status.history.points) == (Life.NONE, progress, ((7, 0.25),))
    assert len(status.log) == 1
    lines = list(training_lines(status))
    assert lines[0] == "Crashed. The disk is full."
    assert lines[1] == "Epoch: 1 of 2  Step: 7 of 16  Loss: 0.25"
    assert lines[2] == "Warning: Too little room."
    assert lines[3].endswith("It crashed.")
    told = training_json(status)
    assert (told["status"], told["attempt"], told["resumed_from"]) == ("fatal", 2, "x-000001-state")
    assert in_use(tmp_path) == frozenset()


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"progress": 5, "history": "x"}', b"\x00"])
def test_progress_that_is_not_ours_is_none(tmp_path: Path, data: bytes) -> None:
    write_record(tmp_path, TrainingRecord(ProcessState.EXITED, "here"))
    (tmp_path / ".training" / "progress.json").write_bytes(data)
    assert training_status(tmp_path, Processes()).progress == Progress()
