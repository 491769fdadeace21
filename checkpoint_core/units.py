"""Sizes and times as people and programs write them; pure."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FIRST, _LAST = (moment.replace(tzinfo=timezone.utc) for moment in (datetime.min, datetime.max))


def human_bytes(size: int) -> str:
    """A size for people, in powers of 1,000 as disks are sold: ``957 MB``."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:  # not 1,000, which 999.6 kB would be rounded to
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.95 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def human_seconds(seconds: float) -> str:
    """A span of time for people, in its two largest units: ``2 h 05 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} days {hours % 24} h"


def _moment(nanoseconds: int) -> datetime:
    """A point in time in UTC; a time that no calendar holds (a broken clock's) becomes its first or last."""
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return _FIRST if nanoseconds < 0 else _LAST


def local_time(nanoseconds: int) -> str:
    """A point in time in the user's time zone, to the minute."""
    moment = _moment(nanoseconds)
    with suppress(OverflowError, OSError, ValueError):  # systems differ in how far their time zones reach
        moment = moment.astimezone()
    return f"{moment:%Y-%m-%d %H:%M}"


def utc_time(nanoseconds: int) -> str:
    """A point in time as ISO 8601 in UTC, to the millisecond."""
    return _moment(nanoseconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")
