"""The commands of a cmd.exe batch script, as far as words, quotes and continuations go; nothing is expanded.

Sources: "How does the Windows Command Interpreter (CMD.EXE) parse scripts?" (Stack Overflow 4094699; phase 1
percent expansion, phase 2 special characters) and Microsoft's "Parsing C++ command-line arguments" for how a
program splits what cmd hands it. cmd and the program each have their own idea of quotes; both are followed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from checkpoint_core.scripts.tokens import Command, InexpressiblePath, Word, not_understood, refuse_unwritable

_BLANK = " \t"
#: What separates a command's name from the rest for cmd itself.
_DELIMITERS = " \t,;="
_ARGUMENT = re.compile(r"%(\*|~[fdpnxsatzFDPNXSATZ]*(\$[^:%\n]+:)?[0-9]|[0-9])")
_VARIABLE = re.compile(r"%[^%\r\n]+%")
_CONDITIONAL = {"if", "for", "else"}
_DELAYED = re.compile(r"\bsetlocal\b[^\n]*\benabledelayedexpansion\b", re.IGNORECASE)


def quote(value: str, *, delayed: bool = False, called: bool = False) -> str:
    """The value in double quotes, `%` doubled, a closing backslash doubled.

    `delayed` says that the script expands `!`, `called` that the command is started with `call`, which
    expands `%` a second time and doubles `^`. Raises InexpressiblePath where cmd has no way to hand over
    the value.
    """
    refuse_unwritable(value)
    impossible = '"' + "!" * delayed + "%^" * called
    for character in impossible:
        if character in value:
            raise InexpressiblePath(
                f"{value!r} holds {character!r}, which this batch script cannot hand over: rename the folder."
            )
    backslashes = len(value) - len(value.rstrip("\\"))
    return '"' + value.replace("%", "%%") + "\\" * backslashes + '"'


def expands_exclamation_marks(text: str) -> bool:
    """Whether the script turns delayed expansion on anywhere, so that `!` is no plain character."""
    return _DELAYED.search(text) is not None


def commands(text: str) -> list[Command]:
    """Every simple command of the script, in order; raises ScriptNotUnderstood."""
    return list(_Reader(text).commands())


@dataclass(frozen=True, slots=True)
class _Character:
    """One character after percent expansion, with its source; `value` is None for an expansion."""

    value: str | None
    start: int
    end: int


def _percent_expanded(text: str) -> Iterator[_Character]:
    """Phase 1: `%%` is a percent sign, `%1`, `%*` and `%NAME%` are unknown, a lone `%` and CR vanish."""
    at = 1 if text.startswith("\ufeff") else 0
    while at < len(text):
        if text[at] == "\r":
            at += 1
        elif text[at] != "%":
            yield _Character(text[at], at, at + 1)
            at += 1
        elif text.startswith("%%", at):
            yield _Character("%", at, at + 2)
            at += 2
        else:
            expansion = _ARGUMENT.match(text, at) or _VARIABLE.match(text, at)
            end = expansion.end() if expansion else at + 1
            if expansion:
                yield _Character(None, at, end)
            at = end


class _Reader:
    """Phase 2 over the characters of the whole script; `at` is the index of the next one."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.characters = list(_percent_expanded(text))
        self.at = 0
        self.depth = 0
        self.conditional = False
        self.new_line = True

    def commands(self) -> Iterator[Command]:
        """Read to the end of the text."""
        while self.at < len(self.characters):
            if self.new_line:
                self.conditional = False
            self._skip(_DELIMITERS + "@" + "\n")
            if self._comment():
                continue
            characters, inside = self._simple_command()
            words = tuple(_program_words(self.text, characters))
            if words:
                yield Command(words, "inside a loop, a condition or a block" if inside else None)

    def _value(self, ahead: int = 0) -> str | None:
        """The character some places ahead; empty at the end of the text, None for an expansion."""
        index = self.at + ahead
        return self.characters[index].value if index < len(self.characters) else ""

    def _skip(self, values: str) -> None:
        while self._value() and (self._value() or "") in values:
            if self._value() == "\n":
                self.conditional = False
            self.at += 1

    def _first_token(self) -> str:
        """The command's name in small letters, as cmd looks for its own commands; nothing is consumed."""
        name = ""
        for character in self.characters[self.at :]:
            if character.value is None or character.value in _DELIMITERS + "\n&|<>()" or len(name) > 8:
                break
            name += character.value
        return name.lower()

    def _comment(self) -> bool:
        """Step over a label, a `::` comment or a `rem`; False when none is here."""
        if self._value() == ":":
            # A caret continues a label, and so a :: comment, on the next line.
            self._rest_of_line(continued=True)
        elif self._first_token() == "rem":
            self._refuse_continued_rem()
            self._rest_of_line(continued=False)
        else:
            return False
        return True

    def _rest_of_line(self, *, continued: bool) -> None:
        quoted = False
        while self.at < len(self.characters) and self._value() != "\n":
            quoted ^= self._value() == '"'
            if continued and not quoted and self._value() == "^":
                self.at += 1
            self.at += 1
        self.new_line = True

    def _refuse_continued_rem(self) -> None:
        """cmd reads on after `rem TOKEN^`, and only there; too odd to follow."""
        line = self.text[self.characters[self.at].start :].split("\n", 1)[0].rstrip("\r")
        if re.fullmatch(r"(?i)rem\s+\S*\^", line):
            raise self._refusal(self.at, "this rem swallows the next line; take the ^ at its end away.")

    def _simple_command(self) -> tuple[list[_Character], bool]:
        """The characters that cmd hands on, without redirections, up to and with the next separator."""
        handed: list[_Character] = []
        quoted = False
        if self._first_token() in _CONDITIONAL:
            self.conditional = True
        inside = self.conditional or self.depth > 0
        self.new_line = False
        while self.at < len(self.characters):
            character = self.characters[self.at]
            value = character.value
            self.at += 1
            if value == "\n":
                self.new_line = True
                break
            if value == '"':
                quoted = not quoted
            if quoted or value is None or value not in "^&|<>()":
                handed.append(character)
            elif value == "^":
                handed.extend(self._escaped(character))
            elif value in "<>":
                self._redirect(handed, value)
            elif value in "()":
                if self._block(value, handed):
                    break
                handed.append(character)
            else:
                break
        return handed, inside

    def _escaped(self, caret: _Character) -> Iterator[_Character]:
        """The character after a caret, taken literally; after a line end it is the next line's first one."""
        continued = self._value() == "\n"
        if continued:
            self.at += 1
            if self._value() == "\n":
                raise self._refusal(
                    self.at,
                    "it is empty and the one before ends in ^: cmd hands over a line end. Delete it.",
                )
        if self.at < len(self.characters):
            character = self.characters[self.at]
            self.at += 1
            yield _Character(character.value, character.start if continued else caret.start, character.end)

    def _redirect(self, handed: list[_Character], operator: str) -> None:
        """Step over a redirection and its target; a single digit right before it is no argument."""
        digit = handed[-1].value if handed else None
        before = handed[-2].value if len(handed) > 1 else " "
        adjacent = bool(handed) and handed[-1].end == self.characters[self.at - 1].start
        if adjacent and digit and digit in "0123456789" and before and before in _DELIMITERS:
            handed.pop()
        if operator == ">" and self._value() == ">":
            self.at += 1
        if self._value() == "&":
            self.at += 2
            return
        self._skip(_DELIMITERS)
        quoted = False
        while self.at < len(self.characters) and self._value() != "\n":
            if not quoted and (self._value() or "x") in _DELIMITERS + "&|<>":
                break
            quoted ^= self._value() == '"'
            if not quoted and self._value() == "^":
                self.at += 1 + (self._value(1) == "\n")
            self.at += 1

    def _block(self, value: str, handed: Sequence[_Character]) -> bool:
        """Whether a parenthesis opens or closes a block here; elsewhere it is a plain character."""
        if value == "(" and (
            self.conditional or not any((c.value or "x") not in _DELIMITERS for c in handed)
        ):
            self.depth += 1
            return True
        if value == ")" and self.depth:
            self.depth -= 1
            return True
        return False

    def _refusal(self, index: int, reason: str) -> Exception:
        return not_understood(self.text, self.characters[index].start, reason)


def _program_words(text: str, characters: Sequence[_Character]) -> Iterator[Word]:
    """The words that the C runtime makes of a command line, with their places in the script."""
    at = 0
    while at < len(characters):
        if (characters[at].value or "x") in _BLANK:
            at += 1
            continue
        end, parts, several = _program_word(characters, at)
        start_offset, end_offset = characters[at].start, characters[end - 1].end
        head = "".join(part for part in itertools.takewhile(lambda each: each is not None, parts) if part)
        value = None if None in parts else head
        yield Word(start_offset, end_offset, text[start_offset:end_offset], value, head, several)
        at = end


def _program_word(characters: Sequence[_Character], at: int) -> tuple[int, list[str | None], bool]:
    """Where one word ends, its literal parts (None for an expansion), and whether it may be several words."""
    parts: list[str | None] = []
    quoted, several = False, False
    while at < len(characters) and (quoted or (characters[at].value or "x") not in _BLANK):
        backslashes = 0
        while at < len(characters) and characters[at].value == "\\":
            backslashes += 1
            at += 1
        if at < len(characters) and characters[at].value == '"':
            parts.append("\\" * (backslashes // 2))
            if backslashes % 2:
                parts.append('"')
            elif quoted and at + 1 < len(characters) and characters[at + 1].value == '"':
                parts.append('"')
                at += 1
            else:
                quoted = not quoted
            at += 1
            continue
        parts.append("\\" * backslashes)
        if at < len(characters) and (quoted or (characters[at].value or "x") not in _BLANK):
            parts.append(characters[at].value)
            several = several or (characters[at].value is None and not quoted)
            at += 1
    return at, parts, several
