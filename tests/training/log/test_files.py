"""The log and the journal: rotated, trimmed, followed, and read whatever stands in them."""

from __future__ import annotations

from pathlib import Path

from checkpoint_core.training.log.files import (
    KEPT_LOGS,
    JournalLine,
    LogFollower,
    log_end,
    open_log,
    read_journal,
    trim_log,
    write_journal,
)
from checkpoint_core.training.record import FOLDER, JOURNAL, LOG


def printed(run: Path, data: bytes) -> None:
    with (run / FOLDER / LOG).open("ab") as log:
        log.write(data)


def test_each_start_has_a_log_of_its_own_and_earlier_ones_are_kept(tmp_path: Path) -> None:
    for number in range(KEPT_LOGS + 3):
        with open_log(tmp_path) as log:
            log.write(b"start %d" % number)
    kept = sorted(path.name for path in (tmp_path / FOLDER).iterdir())

    assert kept == [LOG, *(f"{LOG}.{age}" for age in range(1, KEPT_LOGS + 1))]
    assert (tmp_path / FOLDER / LOG).read_bytes() == b"start 7"
    assert (tmp_path / FOLDER / f"{LOG}.1").read_bytes() == b"start 6"


def test_a_log_is_followed_from_where_it_was_left(tmp_path: Path) -> None:
    open_log(tmp_path).close()
    follower = LogFollower(tmp_path)
    assert follower.read() == b""
    printed(tmp_path, b"one")
    assert follower.read() == b"one"
    printed(tmp_path, b"two")
    assert (follower.read(), follower.read()) == (b"two", b"")


def test_a_training_goes_on_writing_into_a_log_that_was_trimmed(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:  # as the training holds it, in append mode
        follower = LogFollower(tmp_path)
        log.write(b"x" * 1000)
        log.flush()
        follower.read()
        assert not trim_log(tmp_path, limit=1000)
        log.write(b"y" * 100)
        log.flush()
        assert trim_log(tmp_path, limit=1000)
        log.write(b"after")
        log.flush()
        assert follower.read() == b"after"
    assert (tmp_path / FOLDER / LOG).read_bytes() == b"after"
    assert (tmp_path / FOLDER / f"{LOG}.1").read_bytes() == b"x" * 400 + b"y" * 100


def test_the_end_of_a_log_is_read_and_nothing_where_there_is_none(tmp_path: Path) -> None:
    assert log_end(tmp_path) == b""
    open_log(tmp_path).close()
    printed(tmp_path, b"abcdef")
    assert log_end(tmp_path, most=3) == b"def"


def test_a_journal_is_read_in_order_and_half_lines_are_passed_over(tmp_path: Path) -> None:
    lines = [JournalLine(number, "started", f"Start {number} — 開始") for number in range(5)]
    for line in lines:
        write_journal(tmp_path, line)
    with (tmp_path / FOLDER / JOURNAL).open("ab") as journal:
        journal.write(b'{"at_ns": 9, "kind": "st')

    assert read_journal(tmp_path) == tuple(lines)
    assert read_journal(tmp_path, most=2) == tuple(lines[-2:])


def test_a_journal_does_not_grow_for_ever_and_its_end_is_kept(tmp_path: Path) -> None:
    for number in range(300):
        write_journal(tmp_path, JournalLine(number, "checked", "x" * 1000))
    assert (tmp_path / FOLDER / JOURNAL).stat().st_size < 300_000
    assert [line.at_ns for line in read_journal(tmp_path, most=100)] == list(range(200, 300))
