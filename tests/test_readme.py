"""The README says what the program says, and its commands are the ones that CI runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoint_core.audit.catalogue.docs_table import with_table
from checkpoint_core.audit.wording import VERDICT_WORDS
from checkpoint_core.report import table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_NAMES = "scan check resume repair recover watch status stop prune report"
COMMANDS = ([], *([name] for name in _NAMES.split()))


def help_text(arguments: list[str]) -> str:
    """What ``--help`` prints on a terminal of 80 columns."""
    done = subprocess.run(
        [sys.executable, "-m", "checkpoint_core", *arguments, "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments) or "all")
def test_the_help_is_the_programs(arguments: list[str]) -> None:
    assert help_text(arguments) in README


def test_the_findings_are_the_catalogues() -> None:
    assert with_table(README) == README


@pytest.mark.parametrize("word", VERDICT_WORDS.values())
def test_every_verdict_is_explained(word: str) -> None:
    assert f"| **{word}** |" in README


def test_every_file_that_it_names_is_there() -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", README)

    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_documented_columns_are_where_it_says() -> None:
    assert "checkpoint_core.report.table.COLUMNS" in README
    assert table.COLUMNS
