"""Sizes and times as text."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from checkpoint_core.units import human_bytes, local_time, utc_time

DAY = 86_400 * 10**9


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1049, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (957_000_000, "957 MB"),
        (1_200_000_000, "1.2 GB"),
        (999_600_000_000, "1.0 TB"),
        (5_000_000_000_000, "5.0 TB"),
    ],
)
def test_sizes_in_powers_of_a_thousand(size: int, text: str) -> None:
    assert human_bytes(size) == text


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="only POSIX lets a process change its time zone")
def test_local_times_are_the_user_s_and_utc_is_not(in_tokyo: None) -> None:
    moment = 1_700_000_000 * 10**9 + 123_999_999
    assert local_time(moment) == "2023-11-15 07:13"
    assert utc_time(moment) == "2023-11-14T22:13:20.123Z"


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-DAY, "1969-12-31T00:00:00.000Z"),
        (10**25, "9999-12-31T23:59:59.999Z"),
        (-(10**25), "0001-01-01T00:00:00.000Z"),
    ],
)
def test_times_of_a_broken_clock_are_no_reason_to_fail(nanoseconds: int, text: str) -> None:
    assert utc_time(nanoseconds) == text
    assert len(local_time(nanoseconds)) >= len("1-01-01 00:00")
