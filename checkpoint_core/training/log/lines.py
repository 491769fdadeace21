"""The shapes of the trainer's log: its bar, its log records as rich wraps them, and what a terminal makes of them.

rich (kohya-ss/sd-scripts, library/utils.py, ``RichHandler``) prints a record as a table of time, level, message and
source: the message goes on below itself, broken at spaces or, where a word is too long, inside it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

#: Where the message begins: 19 columns of time, 8 of level, a space after each.
MESSAGE_COLUMN = 29
_INDENT = " " * MESSAGE_COLUMN

HEAD = re.compile(
    r"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d| {19}) (?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) +"
    r"(?P<message>.*?)\s*(?P<source>\s[\w.]+\.py:\d+)?\s*"
)

#: tqdm's line (tqdm/std.py, ``format_meter``); other bars of the trainer have no or another word before it.
BAR = re.compile(
    r"\s*steps:\s*\d+%\|[^|]*\|\s*(?P<step>\d{1,15})/(?P<total>\d{1,15}) \[(?P<elapsed>[^<\],]*)<[^,\]]*,"
    r"\s*(?P<rate>\?|[\d.]{1,20})\s*(?P<unit>it/s|s/it)(?P<postfix>[^\]]*)\]"
)

_RANK = re.compile(
    r"\[(?:RANK|rank) ?\d+\]:? ?"
)  # accelerate 1.15 (logging.py), torch (``[rank0]: `` of tracebacks)
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """Text without colours, cursor movements and other controls."""
    return text if text.isprintable() else _CONTROL.sub("", _ESCAPE.sub("", text))


def apart(text: str) -> list[str]:
    """A line with each bar on a line of its own: log records are glued to the bar, which ends without a new line."""
    pieces: list[str] = []
    if text.endswith("]") and text.find("]") == len(text) - 1:
        return [text]  # a bar alone, as nearly every line is
    while (bar := BAR.match(text)) and text[bar.end() :].strip():
        pieces.append(bar.group().rstrip())
        text = text[bar.end() :].lstrip()
    return [*pieces, text.rstrip()]


def without_rank(text: str) -> str:
    """A line without the process that wrote it."""
    return text[found.end() :] if (found := _RANK.match(text)) else text


def goes_on(line: str) -> bool:
    """Whether a line continues the record above it."""
    return line.startswith(_INDENT)


def squeezed(text: str) -> str:
    """Text without any space: equal wherever rich broke it."""
    return "".join(text.split())


def joined(lines: Iterable[str]) -> list[str]:
    """Lines with each wrapped record in one: ``ERROR message``; everything else as it is."""
    whole: list[str] = []
    width = filled = (
        0  # of the message column, and of that by the last line; no width where no record is open
    )
    for line in lines:
        if width and goes_on(line):
            text = line[MESSAGE_COLUMN:].rstrip()
            # Broken inside a word: the next character had no room. Where a word just fits, its space is lost.
            whole[-1] += text if filled + _columns(text[:1]) > width else f" {text}"
            filled = _columns(text)
            continue
        head = HEAD.fullmatch(line)
        whole.append(
            f"{head['level']} {without_rank(head['message'])}" if head else without_rank(line.rstrip())
        )
        width = _message_width(line, head["source"]) if head else 0
        filled = _columns(head["message"]) if head else 0
    return whole


def _message_width(line: str, source: str | None) -> int:
    """How wide the message column is: the source, which stands at the line's end, takes its place from it."""
    return max(1, _columns(line.rstrip()) - MESSAGE_COLUMN - len((source or "").strip()) - 1)


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes; Chinese and Japanese characters take two."""
    return len(text) if text.isascii() else sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
