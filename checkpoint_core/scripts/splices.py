"""Edits of a script's text: put in, replace or take out one flag, and touch nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from checkpoint_core.scripts.arguments import Argument
from checkpoint_core.scripts.tokens import Dialect, Word

_GAP = {
    Dialect.SH: re.compile(r"(?:[ \t]|\\\r?\n)*"),
    Dialect.BAT: re.compile(r"(?:[ \t\r]|\^\r?\n)*"),
}
_LAST_BREAK = {
    Dialect.SH: re.compile(r"[ \t]*\\\r?\n[ \t]*\Z"),
    Dialect.BAT: re.compile(r"[ \t]*\^\r?\n[ \t]*\Z"),
}


@dataclass(frozen=True, slots=True)
class Splice:
    """Replace the text from `start` to `end` (offsets) by `text`."""

    start: int
    end: int
    text: str = ""


def apply(text: str, splices: Sequence[Splice]) -> str:
    """The text with all splices made; they must not overlap."""
    for splice in sorted(splices, key=lambda each: each.start, reverse=True):
        text = text[: splice.start] + splice.text + text[splice.end :]
    return text


def line_after(text: str, dialect: Dialect, words: Sequence[Word], line: str) -> Splice:
    """A new continued line after the last of the words, in the script's own line ends and indent.

    Whatever follows that word stays behind the new line: a continuation that leads nowhere, a redirection,
    a comment.
    """
    newline = _newline(text, dialect)
    end = words[-1].end
    return Splice(end, end, f" {dialect.mark}{newline}{_indent(text, words)}{line}")


def replaced(argument: Argument, quoted: str, *, joined: bool) -> Splice:
    """The argument with another value, already quoted; a separate value keeps its separate place."""
    if argument.joined or joined or not argument.values:
        end = argument.values[0].end if argument.values else argument.word.end
        separator = "=" if argument.joined or joined else " "
        return Splice(argument.word.start, end, f"{argument.flag}{separator}{quoted}")
    return Splice(argument.values[0].start, argument.values[0].end, quoted)


def removed(
    text: str, dialect: Dialect, argument: Argument, before: int, after: int | None
) -> list[list[Splice]]:
    """Ways to take an argument out, best first.

    `before` is the offset where the word before it ends, `after` where the next flag begins, if there is
    one. The best way undoes `line_after` exactly. The last one keeps all space around, for when the
    neighbours would grow together.
    """
    words = (argument.word, *argument.values)
    if not all(_is_gap(text, dialect, left.end, right.start) for left, right in pairwise(words)):
        return [[Splice(word.start, word.end) for word in words]]
    start, end = words[0].start, words[-1].end
    keeping = [Splice(start, end)]
    if not _is_gap(text, dialect, before, start):
        return [keeping]
    return [[_with_its_space(text, dialect, Splice(before, start), end, after)], keeping]


def _with_its_space(text: str, dialect: Dialect, lead: Splice, end: int, after: int | None) -> Splice:
    """The flag with the space that belongs to it alone; `lead` spans the space before it."""
    gap = text[lead.start : lead.end]
    if "\n" not in gap:
        return Splice(lead.start, end)
    if after is not None and _is_gap(text, dialect, end, after) and "\n" not in text[end:after]:
        # The next flag shares the line: it moves to the front of it.
        return Splice(lead.end, after)
    following = _GAP[dialect].match(text, end)
    if gap.count("\n") > 1 and following and "\n" in following.group():
        # Lines of nothing but space stand before: take out this line and leave them alone.
        return Splice(text.rindex("\n", 0, lead.end) + 1, text.index("\n", end) + 1)
    last = _LAST_BREAK[dialect].search(gap)
    return Splice(lead.start + last.start() if last else lead.end, end)


def _is_gap(text: str, dialect: Dialect, start: int, end: int) -> bool:
    """Whether nothing but blanks and continuations stands between two offsets."""
    return _GAP[dialect].fullmatch(text, start, end) is not None


def _newline(text: str, dialect: Dialect) -> str:
    """The script's first line end; for a single line, what FluxGym writes on that platform."""
    end = text.find("\n")
    if end < 0:
        return "\n" if dialect is Dialect.SH else "\r\n"
    return "\r\n" if text[end - 1 : end] == "\r" else "\n"


def _indent(text: str, words: Sequence[Word]) -> str:
    """The indent of the command's last continued line; FluxGym's two spaces where there is none."""
    for word in reversed(words):
        line_start = text.rfind("\n", 0, word.start) + 1
        lead = text[line_start : word.start]
        if line_start > words[0].start and not lead.strip(" \t"):
            return lead
    return "  "
