"""Generated examples are the same everywhere; random ones are a command of their own that tells how to keep them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.world import PROJECT

_MADE = """
import os, pytest
from hypothesis import assume, given, settings, strategies as st
@pytest.fixture(scope="module")
def three():
    return 3
@settings(max_examples=3)
@given(text=st.text(), number=st.integers())
def test_small(three, text, number):
    with open(os.environ["SEEN"], "a") as seen:
        seen.write(f"{text!a} {number}\\n")
    assume(number != 1001)
    assert number < 1000
def test_plain():
    assert False
"""


def made(folder: Path, *command: str, **variables: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a generated test that only small numbers pass; returns what was said and all that was generated."""
    test, seen = folder / "test_made.py", folder / "seen"
    test.write_text(_MADE)
    seen.unlink(missing_ok=True)
    environment = {**os.environ, "SEEN": str(seen), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    # Where Hypothesis keeps what failed, to try it first the next time.
    environment["HYPOTHESIS_STORAGE_DIRECTORY"] = tempfile.mkdtemp(dir=folder)
    ended = subprocess.run(
        [sys.executable, "-m", *command, str(test)],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return ended, seen.read_text().splitlines()


def test_what_random_rounds_find_is_told_as_the_line_that_keeps_it(tmp_path: Path) -> None:
    ended, seen = made(tmp_path, "tests.random_rounds", "--examples", "300", "--seed", "7")
    assert ended.returncode == 1
    assert "test_made.py::test_small\n  @example(text='', number=1000)\n" in ended.stdout
    assert f"python -m tests.random_rounds --examples 300 --seed 7 {tmp_path}" in ended.stdout
    assert "test_plain" not in ended.stdout
    assert len(seen) > 3


def test_a_seed_gives_the_same_examples_and_another_one_others(tmp_path: Path) -> None:
    first, again, other = (
        made(tmp_path, "tests.random_rounds", "--examples", "5", "--seed", seed)[1] for seed in "112"
    )
    assert first == again != other


def test_without_a_seed_one_is_told_and_new_examples_are_taken(tmp_path: Path) -> None:
    one, other = (made(tmp_path, "tests.random_rounds", "--examples", "20") for _ in range(2))
    assert one[0].stdout.startswith("Seed ")
    assert one[1] != other[1]


@pytest.mark.parametrize(
    "variables", [{"CI": "true"}, {"CI": "", "GITHUB_ACTIONS": "", "PYTHONHASHSEED": "3"}]
)
def test_pytest_takes_the_same_examples_whatever_the_environment_says(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    plain = ("pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-k", "small")
    assert made(tmp_path, *plain)[1] == made(tmp_path, *plain, **variables)[1]
