"""Text as people read it, and text from the disk made safe to show; sizes and times; pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone

#: Characters that turn the reading direction around, so that a name could show itself as another.
_DIRECTION = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
#: Control characters, line separators, and the halves that stand for undecodable bytes of a name.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
#: What one of the common file systems refuses in a name.
_NOT_IN_NAMES = re.compile(r'[\\/:*?"<>|]')
_MARKUP = re.compile(r"[`*\[\]<>|~&]|(?<!\w)_|_(?!\w)|\\(?=[!-/:-@\[-`{-~]|\Z)")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def printable(text: str, keep: str = "") -> str:
    """The text with every character that a terminal would obey written as an escape, such as ``\\x1b``.

    :param keep: characters to leave alone, such as the newline.
    """
    return "".join(
        character if character in keep or not _is_unprintable(character) else _escape(character)
        for character in text
    )


def _is_unprintable(character: str) -> bool:
    return unicodedata.category(character) in _UNPRINTABLE or character in _DIRECTION


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # Python's stand-in for a byte that is no UTF-8 (PEP 383)
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def file_name(text: str) -> str:
    """A name for a file of ours made from a name of theirs, allowed on every common system."""
    name = _NOT_IN_NAMES.sub("_", printable(text).replace("\\", "_")).strip(" .")
    return name[:120] or "_"


def markdown_text(text: str) -> str:
    """The text as Markdown that shows it as it is."""
    return _MARKUP.sub(lambda found: _ENTITIES.get(found[0], "\\" + found[0]), printable(text))


def markdown_code(text: str) -> str:
    """The text as a code span, in a table's cell too."""
    shown = printable(text).replace("|", "\\|")
    if not shown:
        return ""
    fence = _longer_than_any(shown, 1)
    space = " " if shown.startswith(("`", " ")) or shown.endswith(("`", " ")) else ""
    return f"{fence}{space}{shown}{space}{fence}"


def markdown_block(text: str, language: str = "") -> str:
    """The text as a fenced block that nothing in it can close."""
    shown = printable(text.replace("\r\n", "\n"), keep="\n\t").rstrip("\n")
    fence = _longer_than_any(shown, 3)
    return f"{fence}{language}\n{shown}\n{fence}"


def _longer_than_any(text: str, least: int) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)


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


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 step``, ``1,000 steps``; for nouns that take an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def some_names(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def number_or_dash(number: int | None) -> str:
    """A number in a table; a dash for what is not known."""
    return "–" if number is None else f"{number:,}"


def utc_moment(nanoseconds: int) -> datetime:
    """A point in time in UTC; a time that no calendar holds (a broken clock's) becomes its first or last."""
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return _FIRST if nanoseconds < 0 else _LAST


def local_time(nanoseconds: int) -> str:
    """A point in time in the user's time zone, to the minute."""
    moment = utc_moment(nanoseconds)
    with suppress(OverflowError, OSError, ValueError):  # systems differ in how far their time zones reach
        moment = moment.astimezone()
    return f"{moment:%Y-%m-%d %H:%M}"


def utc_time(nanoseconds: int) -> str:
    """A point in time as ISO 8601 in UTC, to the millisecond."""
    return utc_moment(nanoseconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")
