"""Which of a script's commands starts the training, and where in it the trainer's own arguments begin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from checkpoint_core.scripts.tokens import Command, ScriptNotUnderstood, Word, line_of_offset, not_understood

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_PYTHON = re.compile(r"python[0-9.]*w?|py")
#: Commands that only run the command after them.
_WRAPPERS = {"nohup", "exec", "time", "command", "env", "nice", "ionice", "stdbuf", "setsid", "sudo", "call"}
_SHELLS = {"eval", "sh", "bash", "zsh", "cmd"}
_LAUNCH_MODULES = {"accelerate.commands.launch"}


@dataclass(frozen=True, slots=True)
class TrainingCommand:
    """The words of the one command that trains. `called` says that batch's `call` starts it."""

    launcher: tuple[Word, ...]
    trainer: Word
    arguments: tuple[Word, ...]
    called: bool


def find_training_command(commands: Sequence[Command], text: str) -> TrainingCommand:
    """The one training command; raises ScriptNotUnderstood when there is none, several, or a hidden one."""
    found: list[tuple[Command, int]] = []
    for command in commands:
        start = _launch_end(command.words)
        if start is not None:
            found.append((command, start))
        elif _hides_training(command):
            where = command.inside or "inside a quoted command"
            raise not_understood(text, command.words[0].start, f"the training is started {where}.")
    if not found:
        raise _none_found(text)
    command, start = found[0]
    if len(found) > 1:
        raise not_understood(
            text, found[1][0].words[0].start, "it is a second training command; keep one a script."
        )
    if command.inside:
        raise not_understood(text, command.words[0].start, f"the training command stands {command.inside}.")
    return _split(command, start, text)


def _split(command: Command, start: int, text: str) -> TrainingCommand:
    """Part the words after the launch into the launcher's own, the trainer, and the trainer's."""
    words = command.words
    for index in range(start, len(words)):
        if words[index].shown in ("-m", "--module"):
            raise not_understood(
                text, words[index].start, "the trainer is given as a module and not as a .py file."
            )
        if _is_python_file(words[index]):
            called = any(_program(word) == "call" for word in words[:start])
            return TrainingCommand(words[start:index], words[index], words[index + 1 :], called)
    reason = (
        "the launcher is given no .py file to run; does a comment or a missing continuation cut it short?"
    )
    raise not_understood(text, words[0].start, reason)


def _launch_end(words: Sequence[Word]) -> int | None:
    """The index of the first word after the launching ones, or None when the command starts no training."""
    at = _after_wrappers(words)
    names = [_program(word) for word in words[at : at + 3]] + ["", "", ""]
    if names[0] == "accelerate" and names[1] == "launch":
        return at + 2
    if names[0] == "accelerate-launch":
        return at + 1
    if not _PYTHON.fullmatch(names[0]):
        return None
    if names[1] == "-m" and names[2] in _LAUNCH_MODULES:
        return at + 3
    script = next((word for word in words[at + 1 :] if _is_python_file(word)), None)
    return at + 1 if script is not None and "train" in _program(script) else None


def _after_wrappers(words: Sequence[Word]) -> int:
    """The index of the program itself, behind assignments and commands that only pass on."""
    wrapped = False
    for index, word in enumerate(words):
        if _program(word) in _WRAPPERS:
            wrapped = True
        elif not _ASSIGNMENT.match(word.shown) and not (wrapped and re.match(r"-|\d+$", word.shown)):
            return index
    return len(words)


def _program(word: Word) -> str:
    """A program's bare name: `"C:\\env\\Scripts\\accelerate.exe"` is accelerate."""
    name = re.split(r"[/\\]", word.shown)[-1].lower().lstrip("@")
    return name[:-4] if name.endswith(".exe") else name


def _is_python_file(word: Word) -> bool:
    return word.shown.lower().endswith(".py") and not word.shown.startswith("-")


def _hides_training(command: Command) -> bool:
    """Whether a command that runs other text mentions the training in it."""
    at = _after_wrappers(command.words)
    if at == len(command.words) or (_program(command.words[at]) not in _SHELLS and not command.inside):
        return False
    return (
        re.search(r"accelerate\S*\s+launch|train\w*\.py", " ".join(word.shown for word in command.words))
        is not None
    )


def _none_found(text: str) -> ScriptNotUnderstood:
    """The refusal for a script without a training command, naming the line that comes nearest to one."""
    mention = re.search(r"accelerate|train\w*\.py", text)
    number = line_of_offset(text, mention.start()) if mention else 1
    line = text.split("\n")[number - 1].rstrip("\r")
    return ScriptNotUnderstood(
        number, line, "no command in the script starts the training with `accelerate launch`."
    )
