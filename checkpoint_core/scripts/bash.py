"""The commands of a bash script, as far as words, quotes and continuations go; nothing is expanded.

Source: Bash Reference Manual, 3.1.2 "Quoting", 3.1.3 "Comments", 3.2 "Shell Commands", 3.5 "Shell
Expansions". Two things are read as people mean them and not as bash on Linux does: a byte order mark at the
start is passed over, and CR LF is a line end (as in Git Bash and after conversion).

Bash takes a backslash and its line end out before it looks for words, operators and expansions, between any two
characters (parse.y, `shell_getc`); only single quotes, `$'…'` and comments keep them. So the reader never stands
at one: `_move` and `_step` go on behind it, and `_ahead` looks past it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from checkpoint_core.scripts.tokens import Command, Word, not_understood, refuse_unwritable

_BLANK = " \t"
_ENDS_WORD = " \t\n;&|<>()"
_PATTERN = "*?["
_NAME_START = re.compile(r"[A-Za-z_]")
_NAME_CHARACTER = re.compile(r"[A-Za-z0-9_]")
_SPECIAL_PARAMETERS = "0123456789@*#?$!-"
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\[[^]]*\])?\+?=")
_REDIRECTION = re.compile(r"&>>?|<<<|<<|<>|<&|>>|>&|>\||<|>")
_FILE_NUMBER = re.compile(r"[0-9]+|\{[A-Za-z_][A-Za-z0-9_]*\}")
#: At the very end of the text bash drops a backslash, too.
_CONTINUATION = re.compile(r"\\(?:\r?\n|\Z)")
_BACKTICKS = re.compile(r"`(?:[^`\\]|\\.)*`", re.DOTALL)
_ANSI_C = re.compile(r"'(?:[^'\\]|\\.)*'", re.DOTALL)
#: What opens a substitution, and the bracket that closes it; which bracket inside it awaits one more of those.
_SUBSTITUTIONS = {"$(": ")", "${": "}", "$[": "]"}
_PARTNERS = {")": "(", "}": None, "]": "["}
#: People nest a few; each level is one of Python's own, too.
_MAX_DEPTH = 40
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
        self.at = 0
        self.depth = 0
        self.blocks: list[int] = []
        self.groups: list[int] = []
        #: The continuations stepped over since the word began, as offsets.
        self.joints: list[tuple[int, int]] = []
        self._move(1 if text.startswith("\ufeff") else 0)

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
        awaiting_target = ""
        while self.at < len(self.text):
            if self._skip_space():
                continue
            if self._newline_length():
                self._move(self.at + self._newline_length())
                return words
            here = self.text[self.at]
            redirection = _REDIRECTION.match(self._ahead(3))
            if redirection:
                awaiting_target = redirection.group()
                self._redirect(words, awaiting_target)
            elif here in ";&|":
                self._step()
                return words
            elif here in "()":
                self._group(here)
                return words
            elif here == "-" and awaiting_target in ("<&", ">&"):
                # What follows this hyphen is a word of its own (parse.y, `read_token`).
                self._step()
                awaiting_target = ""
            else:
                word = self._word()
                if not awaiting_target:
                    words.append(word)
                awaiting_target = ""
        return words

    def _redirect(self, words: list[Word], operator: str) -> None:
        """Step over a redirection's operator; a file number right before it is no argument."""
        if operator == "<<":
            raise self._refusal(
                self.at, "a here-document is beyond this reader; move it to a file of its own."
            )
        if operator in "<>" and self._ahead(2) == f"{operator}(":
            raise self._refusal(self.at, "a process substitution is beyond this reader.")
        numbered = operator[0] in "<>" and words and words[-1].end == self.at
        if numbered and _FILE_NUMBER.fullmatch(words[-1].raw):
            words.pop()
        self._step(len(operator))

    def _group(self, here: str) -> None:
        """Count a parenthesis; in a `case` the closing one of a pattern has no opening one."""
        if here == "(":
            self.groups.append(self.at)
        elif self.groups:
            self.groups.pop()
        elif not self.blocks:
            raise self._refusal(self.at, "a closing parenthesis without an opening one.")
        self._step()

    def _move(self, to: int) -> None:
        """Go on at this offset, or behind the continuations there."""
        while joint := _CONTINUATION.match(self.text, to):
            self.joints.append(joint.span())
            to = joint.end()
        self.at = to

    def _step(self, count: int = 1) -> None:
        """Step over so many characters."""
        for _ in range(count):
            self._move(self.at + 1)

    def _here(self) -> str:
        """The character here; empty at the end."""
        return self.text[self.at : self.at + 1]

    def _ahead(self, count: int) -> str:
        """So many characters from here on; right up to the first quote or backslash among them."""
        found, at = "", self.at
        while len(found) < count and at < len(self.text):
            found, at = found + self.text[at], at + 1
            while joint := _CONTINUATION.match(self.text, at):
                at = joint.end()
        return found

    def _source(self, start: int) -> str:
        """The text from an offset of this word up to here, without its continuations."""
        pieces, end = [], self.at
        for joint in reversed(self.joints):
            if joint[0] >= start:
                pieces.append(self.text[joint[1] : end])
                end = joint[0]
        return "".join((self.text[start:end], *reversed(pieces)))

    def _newline_length(self) -> int:
        """How many characters the line end here has; 0 when there is none."""
        if self.text.startswith("\r\n", self.at):
            return 2
        return int(self.text.startswith("\n", self.at))

    def _skip_space(self) -> bool:
        """Step over one blank, or a comment up to its line end; False when none is here.

        A backslash at the end of a comment does not continue it (Bash Reference Manual, 3.1.3), so a flag
        that was commented out in the middle of a command ends the command.
        """
        if self.text[self.at] in _BLANK:
            self._step()
        elif self.text[self.at] == "#":
            while self.at < len(self.text) and not self._newline_length():
                self.at += 1
        else:
            return False
        return True

    def _word(self) -> Word:
        """The word that starts here."""
        start = self.at
        self.joints.clear()
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
        if brace and re.search(r",|\.\.", self._source(brace[0])):
            # Brace expansion: every word that comes of it begins with the text before the brace.
            unknown_from = brace[1] if unknown_from is None else min(unknown_from, brace[1])
            several = several or "".join(parts[: brace[1]])[:1] in ("", "-")
        value = "".join(parts) if unknown_from is None else None
        head = "".join(parts[:unknown_from])
        return Word(start, self.at, self._source(start), value, head, several)

    def _at_word_end(self) -> bool:
        """Whether the character here belongs to no word."""
        return self.at >= len(self.text) or self._newline_length() > 0 or self.text[self.at] in _ENDS_WORD

    def _part(self, start: int, before: str) -> tuple[str | None, bool]:
        """The next piece of a word: its literal text, or None and whether the shell may split it."""
        here = self.text[self.at]
        if here == "\\":
            escaped = self.text[self.at + 1]
            self._move(self.at + 2)
            return escaped, False
        if here == "'":
            return self._until_quote(self.at + 1), False
        if here == '"':
            return self._double_quoted()
        if here in "$`":
            return self._expansion(quoted=False)
        if here in _PATTERN:
            self._step()
            # Every file that a pattern finds begins with the text before it.
            return None, not before or before.startswith("-")
        if here == "~" and (self.at == start or (_ASSIGNMENT.match(before) and before[-1] in "=:")):
            self._step()
            return None, False
        self._step()
        return here, False

    def _until_quote(self, begin: int) -> str:
        """The text of a single-quoted part."""
        end = self.text.find("'", begin)
        if end < 0:
            raise self._refusal(self.at, "a single quote is opened and never closed.")
        self._move(end + 1)
        return self.text[begin:end]

    def _double_quoted(self) -> tuple[str | None, bool]:
        """A double-quoted part; a backslash counts only before `$`, backtick, `"`, backslash and line end."""
        opening = self.at
        self._step()
        literal: list[str] = []
        known, several = True, False
        while here := self._here():
            if here == '"':
                self._step()
                return ("".join(literal) if known else None), several
            if here == "\\" and self.text[self.at + 1] in '$`"\\':
                literal.append(self.text[self.at + 1])
                self._move(self.at + 2)
            elif here in "$`":
                part, splits = self._expansion(quoted=True)
                literal.append(part or "")
                known, several = known and part is not None, several or splits
            else:
                literal.append(here)
                self._step()
        raise self._refusal(opening, "a double quote is opened and never closed.")

    def _expansion(self, *, quoted: bool) -> tuple[str | None, bool]:
        """Step over an expansion; None, and whether it may become several words. A lone `$` is itself."""
        start, opening = self.at, self._ahead(2)
        if opening[0] == "`":
            self._skip_to_match(_BACKTICKS, "a backtick")
        elif opening in _SUBSTITUTIONS:
            self._skip_substitution(_SUBSTITUTIONS[opening])
        elif opening == "$'" and not quoted:
            self._step()
            self._skip_to_match(_ANSI_C, "a quote")
            return None, False
        elif opening == '$"' and not quoted:
            self._step()
            return None, self._double_quoted()[1]
        else:
            self._step()
            if not self._skip_name():
                return "$", False
        # Inside quotes only the forms of "all arguments" become several words.
        return None, not quoted or "@" in self.text[start : self.at]

    def _skip_name(self) -> bool:
        """Step over a variable's name or a special parameter; False when none is here."""
        if not _NAME_START.match(self._here()):
            special = self._here() != "" and self._here() in _SPECIAL_PARAMETERS
            self._step(int(special))
            return special
        while _NAME_CHARACTER.match(self._here()):
            self._step()
        return True

    def _skip_to_match(self, pattern: re.Pattern[str], opened: str) -> None:
        """Step over what the pattern matches here, closing mark included."""
        closed = pattern.match(self.text, self.at)
        if not closed:
            raise self._refusal(self.at, f"{opened} is opened and never closed.")
        self._move(closed.end())

    def _skip_substitution(self, closer: str) -> None:
        """Step over `$(…)`, `$((…))`, `${…}` or `$[…]`."""
        opening = self.at
        if self.depth == _MAX_DEPTH:
            raise self._refusal(opening, "substitutions are nested too deeply for this reader.")
        is_command = self._ahead(2) == "$(" and self._ahead(3) != "$(("
        self.depth += 1
        self._step(2)
        unclosed, before = 1, " "
        while unclosed:
            here = self._here()
            if not here:
                raise self._refusal(opening, "a substitution is opened and never closed.")
            self._refuse_inside(closer, before, is_command=is_command)
            # A brace inside of `${…}` is text (parse.y, P_FIRSTCLOSE); parentheses and brackets are counted.
            unclosed += {closer: -1, _PARTNERS[closer]: 1}.get(here, 0)
            self._skip_piece()
            before = here
        self.depth -= 1

    def _skip_piece(self) -> None:
        """Step over one character inside of a substitution, or over what is quoted or substituted there."""
        here = self._here()
        if here == "\\":
            self._move(self.at + 2)
        elif here == "'":
            self._until_quote(self.at + 1)
        elif here == '"':
            self._double_quoted()
        elif here in "$`":
            self._expansion(quoted=False)
        else:
            self._step()

    def _refuse_inside(self, closer: str, before: str, *, is_command: bool) -> None:
        """Refuse what moves the end of a substitution in ways that are not read here."""
        begins_word = before in _ENDS_WORD
        if is_command and (self._ahead(2) == "<<" or (begins_word and self._here() == "#")):
            reason = "a here-document or comment inside a substitution is beyond this reader."
        elif is_command and begins_word and re.match(r"case\s", self._ahead(5)):
            reason = "a `case` inside a substitution is beyond this reader."
        elif closer != ")" and self._ahead(2) in ("<(", ">("):
            reason = "a process substitution is beyond this reader."
        else:
            return
        raise self._refusal(self.at, reason)

    def _refusal(self, offset: int, reason: str) -> Exception:
        """The error that names the line of this offset."""
        return not_understood(self.text, offset, reason)
