"""A train script read without losing a byte: its trainer, its flags, and copies with one flag changed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from checkpoint_core.scripts import bash, batch, splices
from checkpoint_core.scripts.arguments import Argument, Arguments, read_arguments
from checkpoint_core.scripts.command import TrainingCommand, find_training_command
from checkpoint_core.scripts.flags import MANY_VALUED, SWITCHES
from checkpoint_core.scripts.tokens import (
    Dialect,
    InexpressiblePath,
    ScriptNotUnderstood,
    Word,
    line_of_offset,
    not_understood,
)

_FLAG = re.compile(r"--[A-Za-z0-9][A-Za-z0-9_-]*")


def dialect_of(path: Path) -> Dialect:
    """The language of a script by its suffix: `.bat` and `.cmd` are batch, all else is bash."""
    return Dialect.BAT if path.suffix.lower() in (".bat", ".cmd") else Dialect.SH


def find_script(run_dir: Path, *, platform: str = sys.platform) -> Path | None:
    """The run's train script, or None; of two the one FluxGym writes on this platform (app.py, `gen_sh`)."""
    names = ("train.bat", "train.sh") if platform == "win32" else ("train.sh", "train.bat")
    # os.path, unlike Path, takes a folder that may not be entered for one that holds no script.
    return next((run_dir / name for name in names if os.path.isfile(run_dir / name)), None)


@dataclass(frozen=True)
class TrainScript:
    """A parsed train script; make one with `parse`, and a changed copy with the `with…` methods.

    Reading never fails after `parse`: what only the running shell knows is None, and `unknown` says why. A
    change raises ScriptNotUnderstood where its effect cannot be known.
    """

    text: str = field(repr=False)
    dialect: Dialect
    command: TrainingCommand = field(repr=False)
    arguments: Arguments = field(repr=False)

    @classmethod
    def parse(cls, data: bytes, dialect: Dialect) -> TrainScript:
        """Read a script's bytes; raises ScriptNotUnderstood with the line that stops the reader."""
        return cls._of_text(_decoded(data), dialect)

    @classmethod
    def _of_text(cls, text: str, dialect: Dialect) -> TrainScript:
        reader = bash if dialect is Dialect.SH else batch
        command = find_training_command(reader.commands(text), text)
        if dialect is Dialect.BAT:
            _refuse_batch_surprises(text, command)
        return cls(text, dialect, command, read_arguments(command.arguments))

    @property
    def trainer(self) -> str:
        """The Python file that the launcher runs, such as `sd-scripts/flux_train_network.py`."""
        return self.command.trainer.shown

    @property
    def launcher_arguments(self) -> tuple[str, ...]:
        """The words between launcher and trainer; source text where only the shell knows the value."""
        return tuple(word.shown for word in self.command.launcher)

    @property
    def trainer_arguments(self) -> tuple[str, ...]:
        """What the trainer is handed; source text where only the shell knows the value."""
        return tuple(word.shown for word in self.command.arguments)

    def value(self, flag: str) -> str | None:
        """The flag's value as the trainer takes it (the last one wins); None when absent or not known."""
        given = self.arguments.of(flag)
        return given[-1].value if given else None

    def values(self, flag: str) -> tuple[str, ...]:
        """The values of a flag that takes several, such as `--network_args`; source text where not known."""
        given = self.arguments.of(flag)
        if given and given[-1].joined:
            return (given[-1].word.shown.partition("=")[2],)
        return tuple(word.shown for word in given[-1].values) if given else ()

    def has(self, flag: str) -> bool:
        """Whether the flag is written in the training command."""
        return bool(self.arguments.of(flag))

    def line_of(self, flag: str) -> int | None:
        """The line, from 1, of the flag's last occurrence."""
        given = self.arguments.of(flag)
        return line_of_offset(self.text, given[-1].word.start) if given else None

    def unknown(self, flag: str) -> str | None:
        """Why the flag's presence or value cannot be known from the script; None when it can."""
        for word in self.arguments.hiding:
            line = line_of_offset(self.text, word.start)
            return f"{word.raw} in line {line} may hold further flags; {self._cure(word)}."
        for argument in self.arguments.of(flag)[-1:]:
            if argument.is_decided_at_run_time:
                line = line_of_offset(self.text, argument.word.start)
                return f"the value of {flag} in line {line} is decided only when the script runs."
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the script should be told whatever is changed, in plain sentences."""
        return tuple(_notes(self))

    def with_value(self, flag: str, value: str) -> TrainScript:
        """The script with the flag set to the value, once: the last occurrence is changed, others vanish.

        Raises InexpressiblePath when the script's language cannot carry the value, ScriptNotUnderstood when
        the flag might hide in a variable, ValueError for a flag that takes no value or several.
        """
        if flag in SWITCHES | MANY_VALUED or not _FLAG.fullmatch(flag):
            raise ValueError(f"{flag} is not a flag with one value")
        given = self._editable(flag)
        if len(given) == 1 and given[0].value == value and given[0].is_spelled_out:
            return self
        if value == "--":
            raise InexpressiblePath(
                "'--' cannot be a value: the trainer's argparse drops it in every spelling."
            )
        quoted = self._quoted(value)
        joined = value.startswith("-")
        if not given:
            return self._inserted(
                f"{flag}{'=' if joined else ' '}{quoted}", [f"{flag}={value}"] if joined else [flag, value]
            )
        script: TrainScript = self._without(given[:-1])
        last = script.arguments.of(flag)[-1]
        return script._replaced(last, quoted, value, joined=joined)

    def with_values(self, flag: str, values: Sequence[str]) -> TrainScript:
        """The script with a flag that takes several values (`--network_args`) set to these, once.

        Raises as `with_value`, ValueError for no value at all: `without` takes the flag out.
        """
        if flag not in MANY_VALUED or not values:
            raise ValueError(f"{flag} is not a flag with several values, or none was given")
        if any(value.startswith("-") for value in values):
            raise InexpressiblePath("a value that begins with '-' would be taken for the next flag")
        given = self._editable(flag)
        if len(given) == 1 and self.values(flag) == tuple(values) and given[0].is_spelled_out:
            return self
        line = " ".join((flag, *map(self._quoted, values)))
        script: TrainScript = self._without(given[:-1])
        if given and not given[-1].joined and given[-1].values:
            try:
                return script._with_values_in_place(script.arguments.of(flag)[-1], line, values)
            except (
                ScriptNotUnderstood
            ):  # a comment or an odd continuation between them: the flag moves to the end
                pass
        rest: TrainScript = script._without(script.arguments.of(flag))
        return rest._inserted(line, [flag, *values])

    def _with_values_in_place(self, argument: Argument, line: str, values: Sequence[str]) -> TrainScript:
        splice = splices.Splice(argument.word.start, argument.values[-1].end, line)
        old = {word.start for word in argument.values}
        expected: list[str] = []
        for word in self.command.arguments:
            if word.start == argument.word.start:
                expected += [argument.flag, *values]
            elif word.start not in old:
                expected.append(word.shown)
        return self._edited([splice], tuple(expected), argument.word.start)

    def with_switch(self, flag: str) -> TrainScript:
        """The script with a flag that takes no value (`--save_state`); the same script if it is there."""
        if not _FLAG.fullmatch(flag):
            raise ValueError(f"{flag} is not a flag")
        return self if self._editable(flag) else self._inserted(flag, [flag])

    def without(self, flag: str) -> TrainScript:
        """The script without the flag and its values; the same script if it is not there."""
        return self._without(self._editable(flag))

    def to_bytes(self) -> bytes:
        """The script's bytes: those it was parsed from, but for what was changed."""
        return self.text.encode("utf-8", "surrogateescape")

    def _quoted(self, value: str) -> str:
        if self.dialect is Dialect.SH:
            return bash.quote(value)
        delayed = batch.expands_exclamation_marks(self.text)
        return batch.quote(value, delayed=delayed, called=self.command.called)

    def _editable(self, flag: str) -> tuple[Argument, ...]:
        """The flag's occurrences; raises ScriptNotUnderstood when more may hide, or stray words follow."""
        for word in self.arguments.hiding:
            reason = f"{word.raw} may hold further flags, {flag} among them; {self._cure(word)}."
            raise not_understood(self.text, word.start, reason)
        given = self.arguments.of(flag)
        for argument in given:
            if argument.strays:
                reason = (
                    f"{argument.strays[0].raw!r} after {flag} belongs to no flag and stops the trainer; "
                    "a path with spaces needs quotes. Correct or delete it."
                )
                raise not_understood(self.text, argument.strays[0].start, reason)
        return given

    def _cure(self, word: Word) -> str:
        """What the user can do about a word that hides flags."""
        if word.may_be_several and "@" not in word.raw and "*" not in word.raw:
            return "put it in double quotes if it is one value"
        return "write its flags out"

    def _inserted(self, line: str, arguments: list[str]) -> TrainScript:
        """The script with one more line at the end of the training command, before a lone `--`."""
        reach = self.arguments.reach
        words = (self.command.trainer, *self.command.arguments[:reach])
        splice = splices.line_after(self.text, self.dialect, words, line)
        known = [word.shown for word in self.command.arguments]
        return self._edited([splice], (*known[:reach], *arguments, *known[reach:]), words[-1].end)

    def _replaced(self, argument: Argument, quoted: str, value: str, *, joined: bool) -> TrainScript:
        """The script with another value for one occurrence, its flag spelled out."""
        edits = [splices.replaced(argument, quoted, joined=joined)]
        if not (joined or argument.joined) and argument.values and not argument.is_spelled_out:
            edits.append(splices.Splice(argument.word.start, argument.word.end, argument.flag))
        old = {argument.word.start, *(word.start for word in argument.values)}
        new = [f"{argument.flag}={value}"] if joined or argument.joined else [argument.flag, value]
        expected: list[str] = []
        for word in self.command.arguments:
            if word.start == argument.word.start:
                expected += new
            elif word.start not in old:
                expected.append(word.shown)
        return self._edited(edits, tuple(expected), argument.word.start)

    def _without(self, given: tuple[Argument, ...]) -> TrainScript:
        """The script without these occurrences, taken out from the last to the first."""
        script = self
        for argument in reversed(given):
            script = script._without_one(argument)
        return script

    def _without_one(self, argument: Argument) -> TrainScript:
        """The script without one occurrence of a flag."""
        start = argument.word.start
        gone = {start, *(word.start for word in argument.values)}
        words = self.command.arguments
        expected = tuple(word.shown for word in words if word.start not in gone)
        before = max(word.end for word in (self.command.trainer, *words) if word.end <= start)
        after = [
            word.start
            for word in words[: self.arguments.reach]
            if word.start > start and word.start not in gone
        ]
        ways = splices.removed(self.text, self.dialect, argument, before, min(after, default=None))
        return self._first_that_holds(ways, expected, start)

    def _first_that_holds(
        self, ways: list[list[splices.Splice]], expected: tuple[str, ...], offset: int
    ) -> TrainScript:
        """The first way to edit after which the trainer gets what is expected."""
        for way in ways[:-1]:
            try:
                return self._edited(way, expected, offset)
            except ScriptNotUnderstood:
                continue
        return self._edited(ways[-1], expected, offset)

    def _edited(self, edits: list[splices.Splice], expected: tuple[str, ...], offset: int) -> TrainScript:
        """The script after the splices, read again: it must hand the trainer exactly what is expected."""
        script = TrainScript._of_text(splices.apply(self.text, edits), self.dialect)
        if script.trainer_arguments != expected or script.launcher_arguments != self.launcher_arguments:
            raise not_understood(
                self.text, offset, "the change would reach further than the one flag; edit it by hand."
            )
        return script


def _decoded(data: bytes) -> str:
    """Text from which the very same bytes can be made again."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        line = data.split(b"\n")[0].decode("ascii", "replace").replace("\0", "")
        raise ScriptNotUnderstood(1, line, "the file is UTF-16 or no text at all; save it as UTF-8.")
    return data.decode("utf-8", "surrogateescape")


def _refuse_batch_surprises(text: str, command: TrainingCommand) -> None:
    """Refuse where batch reads the training command in a way that nobody means."""
    words = (command.trainer, *command.arguments)
    delayed = batch.expands_exclamation_marks(text)
    for word in words:
        if delayed and "!" in word.raw:
            raise not_understood(text, word.start, "`!` is special here because of enabledelayedexpansion.")
        if command.called and re.search(r"[%^]", word.raw):
            raise not_understood(
                text, word.start, "`call` reads `%` and `^` a second time; start the program directly."
            )
        lead = text[text.rfind("\n", 0, word.start) + 1 : word.start]
        if not lead.strip() and re.match(r"(?i)rem$|::", word.raw):
            raise not_understood(
                text,
                word.start,
                "within a command this is no comment: cmd hands it to the trainer. Delete the line.",
            )


def _notes(script: TrainScript) -> list[str]:
    """The sentences of `TrainScript.notes`."""
    notes: list[str] = []
    if script.dialect is Dialect.SH and "\r\n" in script.text:
        notes.append(
            "The script has Windows line ends (CR LF); bash on Linux and macOS stops at them. Convert it."
        )
    if script.text.startswith("\ufeff"):
        notes.append(
            "The script begins with a byte order mark, which its shell takes for part of the first command."
        )
    if script.has("--resume_from_huggingface"):
        notes.append(
            "--resume_from_huggingface is set: the trainer then looks for --resume on the Hugging Face Hub."
        )
    last = (script.command.trainer, *script.command.arguments)[-1]
    lost = re.compile(r"\n[ \t]*--\w").search(script.text, last.end)
    if lost:
        line = line_of_offset(script.text, lost.end())
        notes.append(
            f"The training command ends before line {line}: the flags from there on do not reach the trainer."
        )
    return notes
