"""The commands of a bash script, as far as words, quotes and continuations go; nothing is expanded.

Source: Bash Reference Manual, 3.1.2 "Quoting", 3.1.3 "Comments", 3.2 "Shell Commands", 3.5 "Shell
Expansions". Two things are read as people mean them and not as bash on Linux does: a byte order mark at the
start is passed over, and CR LF is a line end (as in Git Bash and after conversion).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from checkpoint_core.scripts.tokens import Command, Word, not_understood, refuse_unwritable

_BLANK = " \t"
_ENDS_WORD = " \t\n;&|<>()"
_PATTERN = "*?["
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-]")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\[[^]]*\])?\+?=")
_REDIRECTION = re.compile(r"&>>?|<<<|<>|<&|>>|>&|>\||<|>")
_FILE_NUMBER = re.compile(r"[0-9]+|\{[A-Za-z_][A-Za-z0-9_]*\}")
_CONTINUATION = re.compile(r"\\\r?\n")
_OPENERS = {"if", "for", "while", "until", "case", "select", "{"}
_CLOSERS = {"fi", "done", "esac", "}"}
#: Words after which another command starts on the same line.
_TRANSPARENT = {"if", "while", "until", "then", "do", "else", "elif", "{", "!"}


def quote(value: str) -> str:
    """The value as one bash word: in double quotes as FluxGym writes it, else in single quotes.

    Raises InexpressiblePath for line ends and NUL.
    """
    refuse_unwritable(value)
    if not any(character in value for character in '$`"\\!'):
        return f'"{value}"'
    return "'" + value.replace("'", "'\\''") + "'"


def commands(text: str) -> list[Command]:
    """Every simple command of the script, in order; raises ScriptNotUnderstood."""
    return list(_Reader(text).commands())


class _Reader:
    """One pass over the text; `at` is the offset of the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 1 if text.startswith("\ufeff") else 0
        self.blocks: list[int] = []
        self.groups: list[int] = []

    def commands(self) -> Iterator[Command]:
        """Read to the end of the text."""
        while self.at < len(self.text):
            words = self._simple_command()
            if words:
                yield self._placed(words)
        for openings in (self.blocks, self.groups):
            if openings:
                raise self._refusal(openings[-1], "what is opened here is never closed.")

    def _placed(self, words: list[Word]) -> Command:
        """The command without its leading keywords, with the block that it stands in."""
        while words:
            keyword = words[0].raw
            if keyword in _CLOSERS and self.blocks:
                self.blocks.pop()
            elif keyword in _OPENERS or (keyword == "function" and words[-1].raw == "{"):
                self.blocks.append(words[0].start)
            if keyword not in _TRANSPARENT:
                break
            words = words[1:]
        inside = "inside a loop, a condition, a function or a group" if self.blocks or self.groups else None
        return Command(tuple(words), inside)

    def _simple_command(self) -> list[Word]:
        """The words up to the next separator, redirections left out; the separator is consumed."""
        words: list[Word] = []
        target_wanted = False
        while self.at < len(self.text):
            if self._skip_space():
                continue
            if self._newline_length():
                self.at += self._newline_length()
                return words
            here = self.text[self.at]
            redirection = _REDIRECTION.match(self.text, self.at)
            if redirection:
                self._redirect(words, redirection.group())
                target_wanted = True
            elif here in ";&|":
                self.at += 1
                return words
            elif here in "()":
                self._group(here)
                return words
            else:
                word = self._word()
                if not target_wanted:
                    words.append(word)
                target_wanted = False
        return words

    def _redirect(self, words: list[Word], operator: str) -> None:
        """Step over a redirection's operator; a file number right before it is no argument."""
        following = self.text[self.at + len(operator) : self.at + len(operator) + 1]
        if self.text.startswith("<<", self.at) and operator != "<<<":
            raise self._refusal(
                self.at, "a here-document is beyond this reader; move it to a file of its own."
            )
        if operator in "<>" and following == "(":
            raise self._refusal(self.at, "a process substitution is beyond this reader.")
        numbered = operator[0] in "<>" and words and words[-1].end == self.at
        if numbered and _FILE_NUMBER.fullmatch(_CONTINUATION.sub("", words[-1].raw)):
            words.pop()
        self.at += len(operator)

    def _group(self, here: str) -> None:
        """Count a parenthesis; in a `case` the closing one of a pattern has no opening one."""
        if here == "(":
            self.groups.append(self.at)
        elif self.groups:
            self.groups.pop()
        elif not self.blocks:
            raise self._refusal(self.at, "a closing parenthesis without an opening one.")
        self.at += 1

    def _newline_length(self) -> int:
        """How many characters the line end here has; 0 when there is none."""
        if self.text.startswith("\r\n", self.at):
            return 2
        return int(self.text.startswith("\n", self.at))

    def _continuation_length(self) -> int:
        """The length of a backslash and its line end; at the end of the text of the backslash alone."""
        for mark in ("\\\r\n", "\\\n"):
            if self.text.startswith(mark, self.at):
                return len(mark)
        return int(self.text[self.at] == "\\" and self.at + 1 == len(self.text))

    def _skip_space(self) -> bool:
        """Step over one blank, one continuation, or a comment up to its line end; False when none is here.

        A backslash at the end of a comment does not continue it (Bash Reference Manual, 3.1.3), so a flag
        that was commented out in the middle of a command ends the command.
        """
        if self.text[self.at] in _BLANK:
            self.at += 1
        elif self._continuation_length():
            self.at += self._continuation_length()
        elif self.text[self.at] == "#":
            while self.at < len(self.text) and not self._newline_length():
                self.at += 1
        else:
            return False
        return True

    def _word(self) -> Word:
        """The word that starts here."""
        start = self.at
        parts: list[str] = []
        unknown_from: int | None = None
        several = False
        brace: tuple[int, int] | None = None
        while not self._at_word_end():
            here, before = self.at, "".join(parts)
            if self.text[here] == "{" and brace is None:
                brace = here, len(parts)
            literal, splits = self._part(start, before)
            if literal is None and unknown_from is None:
                unknown_from = len(parts)
            several = several or splits
            parts.append(literal or "")
        if brace and re.search(r",|\.\.", self.text[brace[0] : self.at]):
            # Brace expansion: every word that comes of it begins with the text before the brace.
            unknown_from = brace[1] if unknown_from is None else min(unknown_from, brace[1])
            several = several or "".join(parts[: brace[1]])[:1] in ("", "-")
        value = "".join(parts) if unknown_from is None else None
        raw = self.text[start : self.at]
        return Word(start, self.at, raw, value, "".join(parts[:unknown_from]), several)

    def _at_word_end(self) -> bool:
        """Whether the character here belongs to no word."""
        return self.at >= len(self.text) or self._newline_length() > 0 or self.text[self.at] in _ENDS_WORD

    def _part(self, start: int, before: str) -> tuple[str | None, bool]:
        """The next piece of a word: its literal text, or None and whether the shell may split it."""
        here = self.text[self.at]
        if self._continuation_length():
            self.at += self._continuation_length()
            return "", False
        if here == "\\":
            self.at += 2
            return self.text[self.at - 1], False
        if here == "'":
            return self._until_quote(self.at + 1), False
        if here == '"':
            return self._double_quoted()
        if here in "$`":
            return self._expansion(quoted=False)
        if here in _PATTERN:
            self.at += 1
            # Every file that a pattern finds begins with the text before it.
            return None, not before or before.startswith("-")
        if here == "~" and (self.at == start or (_ASSIGNMENT.match(before) and before[-1] in "=:")):
            self.at += 1
            return None, False
        self.at += 1
        return here, False

    def _until_quote(self, begin: int) -> str:
        """The text of a single-quoted part."""
        end = self.text.find("'", begin)
        if end < 0:
            raise self._refusal(self.at, "a single quote is opened and never closed.")
        self.at = end + 1
        return self.text[begin:end]

    def _double_quoted(self) -> tuple[str | None, bool]:
        """A double-quoted part; a backslash counts only before `$`, backtick, `"`, backslash and line end."""
        opening = self.at
        self.at += 1
        literal: list[str] = []
        known, several = True, False
        while self.at < len(self.text):
            here = self.text[self.at]
            if here == '"':
                self.at += 1
                return ("".join(literal) if known else None), several
            if here == "\\" and self._continuation_length():
                self.at += self._continuation_length()
            elif here == "\\" and self.text[self.at + 1] in '$`"\\':
                literal.append(self.text[self.at + 1])
                self.at += 2
            elif here in "$`":
                part, splits = self._expansion(quoted=True)
                literal.append(part or "")
                known, several = known and part is not None, several or splits
            else:
                literal.append(here)
                self.at += 1
        raise self._refusal(opening, "a double quote is opened and never closed.")

    def _expansion(self, *, quoted: bool) -> tuple[str | None, bool]:
        """Step over an expansion; None, and whether it may become several words. A lone `$` is itself."""
        start = self.at
        following = self.text[start + 1 : start + 2]
        if self.text[start] == "`":
            self._skip_backticks()
        elif following in ("(", "{"):
            self.at += 1
            self._skip_balanced()
        elif following == "'" and not quoted:
            self._skip_ansi_c()
            return None, False
        elif following == '"' and not quoted:
            self.at += 1
            self._double_quoted()
            return None, False
        else:
            name = _NAME.match(self.text, start + 1)
            self.at = name.end() if name else start + 1
            if not name:
                return "$", False
        # Inside quotes only the forms of "all arguments" become several words.
        return None, not quoted or "@" in self.text[start : self.at]

    def _skip_backticks(self) -> None:
        """Step over `` `…` ``."""
        closing = re.compile(r"`(?:[^`\\]|\\.)*`", re.DOTALL).match(self.text, self.at)
        if not closing:
            raise self._refusal(self.at, "a backtick is opened and never closed.")
        self.at = closing.end()

    def _skip_ansi_c(self) -> None:
        """Step over `$'…'`."""
        closing = re.compile(r"\$'(?:[^'\\]|\\.)*'", re.DOTALL).match(self.text, self.at)
        if not closing:
            raise self._refusal(self.at, "a quote is opened and never closed.")
        self.at = closing.end()

    def _skip_balanced(self) -> None:
        """Step over `(…)` or `{…}`, quotes and nested ones respected."""
        opening = self.at
        awaited = [")" if self.text[self.at] == "(" else "}"]
        self.at += 1
        while awaited and self.at < len(self.text):
            here = self.text[self.at]
            if here == "\\":
                self.at += 2
            elif here == "'":
                self._until_quote(self.at + 1)
            elif here == '"':
                self._double_quoted()
            elif here == "`":
                self._skip_backticks()
            elif self.text.startswith("<<", self.at) or re.compile(r"\s#").match(self.text, self.at):
                raise self._refusal(
                    self.at, "a here-document or comment inside a substitution is beyond this reader."
                )
            else:
                if here == awaited[-1]:
                    awaited.pop()
                elif here == "(" or self.text.startswith("${", self.at):
                    awaited.append(")" if here == "(" else "}")
                    self.at += here == "$"
                self.at += 1
        if awaited:
            raise self._refusal(opening, "a substitution is opened and never closed.")

    def _refusal(self, offset: int, reason: str) -> Exception:
        """The error that names the line of this offset."""
        return not_understood(self.text, offset, reason)
