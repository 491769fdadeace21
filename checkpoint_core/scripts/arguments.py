"""A trainer's command line as its argparse takes it apart: flags, their values, and what may hide a flag.

Source: argparse documentation, "Arguments containing -" and "Argument abbreviations", and how CPython's
`ArgumentParser._parse_optional` tells a flag from a value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from checkpoint_core.scripts.flags import KNOWN, MANY_VALUED, SWITCHES, meant_flag
from checkpoint_core.scripts.tokens import Word

_NEGATIVE_NUMBER = re.compile(r"-\d+|-\d*\.\d+")


@dataclass(frozen=True, slots=True)
class Argument:
    """One flag as it stands in the script.

    `flag` is what the trainer takes it for, `word` where it is written, `joined` says `--flag=value`,
    `values` are the words it takes and `strays` those after them that belong to no flag.
    """

    flag: str
    word: Word
    joined: bool
    values: tuple[Word, ...] = ()
    strays: tuple[Word, ...] = ()

    @property
    def is_spelled_out(self) -> bool:
        """Whether the flag is written with its full name."""
        return self.word.head.partition("=")[0] == self.flag

    @property
    def value(self) -> str | None:
        """The first value as the trainer gets it; None when there is none or only the shell knows it."""
        if self.joined:
            return self.word.value.partition("=")[2] if self.word.value is not None else None
        return self.values[0].value if self.values else None

    @property
    def is_decided_at_run_time(self) -> bool:
        """Whether a value holds a variable or another expansion."""
        return (self.joined and self.word.value is None) or any(value.value is None for value in self.values)


@dataclass(frozen=True, slots=True)
class Arguments:
    """All flags of a command line in order, and the words that only the running shell can read."""

    given: tuple[Argument, ...]
    hiding: tuple[Word, ...]
    #: How many of the words come before a lone `--`, after which argparse sees no flags.
    reach: int

    def of(self, flag: str) -> tuple[Argument, ...]:
        """Every occurrence of the flag."""
        return tuple(argument for argument in self.given if argument.flag == flag)


def read_arguments(words: Sequence[Word]) -> Arguments:
    """Take the words after the trainer's name apart."""
    reach = next((index for index, word in enumerate(words) if word.value == "--"), len(words))
    given: list[Argument] = []
    hiding: list[Word] = []
    for word in words[:reach]:
        current = given[-1] if given else None
        if word.may_be_several or _may_be_a_flag(word, current):
            hiding.append(word)
        elif _is_flag(word):
            given.append(_flag(word))
        elif current is not None:
            given[-1] = _with_word(current, word)
    return Arguments(tuple(given), tuple(hiding), reach)


def _is_flag(word: Word) -> bool:
    """Whether argparse takes this word for a flag rather than for a value."""
    text = word.head
    if not text.startswith("-") or text == "-":
        return False
    if word.value is None or text in KNOWN or meant_flag(text.partition("=")[0]) in KNOWN:
        return True
    return not _NEGATIVE_NUMBER.fullmatch(text) and " " not in text


def _may_be_a_flag(word: Word, current: Argument | None) -> bool:
    """Whether a word with an expansion could be a flag: where no value is awaited, it must be one."""
    if word.value is not None or "=" in word.head:
        return False
    return word.head.startswith("-") or (not word.head and not _awaits_value(current))


def _awaits_value(current: Argument | None) -> bool:
    if current is None or current.joined or current.flag in SWITCHES:
        return False
    return current.flag in MANY_VALUED or not current.values


def _flag(word: Word) -> Argument:
    spelling, equals, _ = word.head.partition("=")
    return Argument(meant_flag(spelling), word, bool(equals))


def _with_word(current: Argument, word: Word) -> Argument:
    """The argument with one more value, or with a stray word when it takes no more."""
    taken = _awaits_value(current) and not current.strays
    return Argument(
        current.flag,
        current.word,
        current.joined,
        current.values + (word,) * taken,
        current.strays + (word,) * (not taken),
    )
