"""What each command's ``--help`` prints: ``python -m tests.command_help --write`` puts it into docs/cli.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import pytest

from tests.blocks import PROJECT, write_block

DOCUMENT, BLOCK = "docs/cli.md", "help"


@dataclass(frozen=True)
class Program:
    """One program with commands: its heading in the document, and what Python is given to run it."""

    heading: str
    arguments: tuple[str, ...]

    @property
    def shown(self) -> str:
        """How a user writes it."""
        return " ".join(("python", *self.arguments))


CORE = Program("Checkpoints and trainings", ("-m", "checkpoint_core"))
TAB = Program("The tab", ("fluxgym_resume_tab.py",))
needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="the tab's program imports Gradio")


@cache
def help_text(program: Program, *command: str) -> str:
    """What ``--help`` prints on a terminal of 80 columns."""
    done = subprocess.run(
        [sys.executable, *program.arguments, *command, "--help"],
        cwd=PROJECT,
        env={**os.environ, "COLUMNS": "80", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def commands_in(overview: str) -> list[str]:
    """The names of the commands in what a program's own ``--help`` prints."""
    return re.findall(r"^  ([\w-]+)  ", overview.partition("\nCommands:\n")[2], re.MULTILINE)


def section(program: Program) -> str:
    """A program's part of the document: a heading and a block for itself and for each command."""
    overview = help_text(program)
    parts = [f"## {program.heading}", _shown(program.shown, overview)]
    for name in commands_in(overview):
        parts += [f"### `{name}`", _shown(f"{program.shown} {name}", help_text(program, name))]
    return "\n\n".join(parts)


def _shown(command: str, text: str) -> str:
    return f"```text\n$ {command} --help\n{text}\n```"


if __name__ == "__main__":
    made = "\n\n".join((section(CORE), section(TAB)))
    if sys.argv[1:] == ["--write"]:
        write_block(DOCUMENT, BLOCK, made)
    else:
        print(made)
