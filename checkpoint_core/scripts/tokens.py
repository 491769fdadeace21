"""What both shells' readers hand over: words with their place in the text, and the two ways to say no."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Dialect(enum.Enum):
    """The two languages in which FluxGym writes a train script (app.py, `gen_sh`)."""

    SH = "sh"
    BAT = "bat"

    @property
    def mark(self) -> str:
        """The character that continues a command on the next line."""
        return "\\" if self is Dialect.SH else "^"


class ScriptNotUnderstood(ValueError):
    """The train script holds something that this reader cannot know the meaning of.

    `line_number` counts from 1, `line` is that line without its end, `reason` is a clause or sentence
    that says what stands in the way and, where there is one, the cure.
    """

    def __init__(self, line_number: int, line: str, reason: str) -> None:
        """Name the line and say why it stops the reader."""
        self.line_number = line_number
        self.line = line
        self.reason = reason
        super().__init__(
            f"Line {line_number} of the train script ({_shown(line)}) is not understood: {reason}"
        )

    def __reduce__(self) -> tuple[type[ScriptNotUnderstood], tuple[int, str, str]]:
        """Let the exception cross a process boundary with its three fields."""
        return type(self), (self.line_number, self.line, self.reason)


class InexpressiblePath(ValueError):
    """A value that the script's language cannot hand to a program unchanged."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command.

    `start` and `end` are offsets of its source text. `value` is what the program is handed, or None when that
    is decided only when the script runs (a variable, a command's output, a file pattern). `head` is the part
    of the value before the first such place. `may_be_several` is True when the shell may turn the word into
    several arguments, or none.
    """

    start: int
    end: int
    raw: str
    value: str | None
    head: str
    may_be_several: bool = False

    @property
    def shown(self) -> str:
        """The value where it is known, else the source text without its quotes."""
        return self.value if self.value is not None else self.raw.replace('"', "").replace("'", "")


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command: its words without redirections, and what it stands inside of, if anything."""

    words: tuple[Word, ...]
    inside: str | None = None


def line_of_offset(text: str, offset: int) -> int:
    """The number, from 1, of the line that holds this offset."""
    return text.count("\n", 0, offset) + 1


def not_understood(text: str, offset: int, reason: str) -> ScriptNotUnderstood:
    """The refusal that names the line of this offset."""
    number = line_of_offset(text, offset)
    lines = text.split("\n")
    return ScriptNotUnderstood(number, lines[number - 1].rstrip("\r"), reason)


def refuse_unwritable(value: str) -> None:
    """Raise InexpressiblePath for what no line of a script can hold: line ends, NUL, broken surrogates."""
    if any(character in value for character in "\n\r\0"):
        raise InexpressiblePath(
            f"{value!r} holds a line end or a NUL byte, which a train script cannot carry: rename the folder."
        )
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InexpressiblePath(f"{value!r} cannot be written as text: rename the folder.") from error


def _shown(line: str) -> str:
    """The line, short enough for a message."""
    text = line.strip()
    return repr(text if len(text) <= 80 else text[:77] + "...")
