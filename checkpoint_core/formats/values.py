"""Single values out of files that anybody may have written: each is what it should be, or it is none."""

from __future__ import annotations

from checkpoint_core.formats.reader import MAX_COUNT

#: The longest count that is written out in digits; Python takes its time over far longer ones.
_MOST_DIGITS = 15


def count_in(value: object, least: int = 0) -> int | None:
    """A whole number as JSON holds it, from ``least`` on and not beyond reason; ``True`` is none."""
    fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= MAX_COUNT
    return value if fits and isinstance(value, int) else None


def number_in(value: object) -> float | None:
    """Any number as a float, NaN and infinity too; one too large for a float is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def text_in(value: object) -> str | None:
    """A text; anything else is none."""
    return value if isinstance(value, str) else None


def written_count(text: str | None) -> int | None:
    """A count that is written in decimal digits and nothing else, as in a script or in a file's metadata."""
    fits = text is not None and text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if fits and text is not None else None


def needed_count(value: object, least: int = 0) -> int:
    """As :func:`count_in`; raises ValueError where it is none."""
    number = count_in(value, least)
    if number is None:
        raise ValueError("a number is out of range, or none")
    return number


def needed_text(value: object) -> str:
    """As :func:`text_in`; raises ValueError where it is none."""
    text = text_in(value)
    if text is None:
        raise ValueError("a text is none")
    return text
