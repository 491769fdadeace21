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
    assert (tmp_path / FOLDER / f"{LOG}.cut").read_bytes() == b"x" * 400 + b"y" * 100
    assert log_end(tmp_path, most=8) == b"yyyafter"


def contents(run: Path) -> dict[str, bytes]:
    return {path.name.removeprefix(LOG): path.read_bytes() for path in (run / FOLDER).iterdir()}


def test_trimming_keeps_the_logs_of_earlier_starts(tmp_path: Path) -> None:
    for number in range(KEPT_LOGS + 1):
        open_log(tmp_path).close()
        printed(tmp_path, b"crash %d" % number)
    before = contents(tmp_path)
    for times in range(1, KEPT_LOGS + 3):
        printed(tmp_path, b"%d" % times * 200)
        assert trim_log(tmp_path, limit=100)

    assert contents(tmp_path) == {**before, "": b"", ".cut": b"%d" % times * 50}


def test_a_start_takes_both_parts_of_the_log_before_it_along(tmp_path: Path) -> None:
    for number in range(KEPT_LOGS + 3):
        with open_log(tmp_path) as log:
            log.write(b"%d" % number * 200)
            log.flush()
            assert trim_log(tmp_path, limit=100) or number % 2
            if number % 2 == 0:
                log.write(b"crash %d" % number)
            else:
                (tmp_path / FOLDER / f"{LOG}.cut").unlink()
                log.write(b"short %d" % number)
    kept = contents(tmp_path)

    told = {"": b"short 7", ".1": b"crash 6", ".2": b"short 5", ".3": b"crash 4", ".4": b"short 3"}
    cuts = {".1.cut": b"6" * 50, ".3.cut": b"4" * 50, ".5.cut": b"2" * 50}
    assert kept == {**told, ".5": b"crash 2", **cuts}


def test_a_log_that_was_trimmed_and_said_no_more_is_a_log_all_the_same(tmp_path: Path) -> None:
    open_log(tmp_path).close()
    printed(tmp_path, b"x" * 200)
    assert trim_log(tmp_path, limit=100)
    open_log(tmp_path).close()

    assert contents(tmp_path) == {"": b"", ".1": b"", ".1.cut": b"x" * 50}
    assert log_end(tmp_path) == b""


def test_a_trim_that_fails_loses_nothing(tmp_path: Path) -> None:
    open_log(tmp_path).close()
    printed(tmp_path, b"x" * 200)
    (tmp_path / FOLDER / f"{LOG}.cut").mkdir()

    assert not trim_log(tmp_path, limit=100)
    assert (tmp_path / FOLDER / LOG).read_bytes() == b"x" * 200
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == [LOG, f"{LOG}.cut"]


def test_a_trim_writes_through_no_link(tmp_path: Path) -> None:
    open_log(tmp_path).close()
    printed(tmp_path, b"x" * 200)
    other = tmp_path / "other"
    other.write_bytes(b"somebody else's")
    for name in (f"{LOG}.cut", f"{LOG}.cut.part", f"{LOG}.1"):
        (tmp_path / FOLDER / name).symlink_to(other)

    assert trim_log(tmp_path, limit=100)
    assert other.read_bytes() == b"somebody else's"


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
