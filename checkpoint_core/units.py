"""Sizes and times as people and programs write them; pure."""

from __future__ import annotations

from datetime import datetime, timezone


def human_bytes(size: int) -> str:
    """A size for people, in powers of 1,000 as disks are sold: ``957 MB``."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def local_time(nanoseconds: int) -> str:
    """A point in time in the user's time zone, to the minute."""
    return datetime.fromtimestamp(nanoseconds / 1_000_000_000).strftime("%Y-%m-%d %H:%M")


def utc_time(nanoseconds: int) -> str:
    """A point in time as ISO 8601 in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(nanoseconds / 1_000_000_000, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
