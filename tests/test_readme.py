"""The README is short, says what the program says, and names what is there."""

from __future__ import annotations

import re

import pytest

from checkpoint_core.audit.wording import VERDICT_WORDS
from tests.blocks import PROJECT
from tests.command_help import CORE, TAB, Program, commands_in, help_text, needs_gradio

README = (PROJECT / "README.md").read_text(encoding="utf-8")
MOST_BYTES = 14_000


def test_it_is_read_in_a_few_minutes() -> None:
    assert len(README.encode()) <= MOST_BYTES


@pytest.mark.parametrize("word", VERDICT_WORDS.values())
def test_every_verdict_is_explained(word: str) -> None:
    assert f"| **{word}** |" in README


def test_every_file_that_it_names_is_there() -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", README)

    assert named
    assert [name for name in named if not (PROJECT / name).exists()] == []


@pytest.mark.parametrize("program", [CORE, pytest.param(TAB, marks=needs_gradio)], ids=["core", "tab"])
def test_its_tables_hold_every_command(program: Program) -> None:
    table = README.partition(f"`{program.shown} …`")[2].partition("\n\n`")[0]
    named = re.findall(r"\[`(\w+)[^`]*`\]\(docs/cli\.md#(\w+)\)", table)

    assert [command for command, _ in named] == [anchor for _, anchor in named]
    assert sorted(command for command, _ in named) == sorted(commands_in(help_text(program)))
