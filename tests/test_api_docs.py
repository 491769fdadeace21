"""docs/api.md says what `import checkpoint_core` offers: every name, members that are there, examples that run."""

from __future__ import annotations

import dataclasses
import doctest
import enum
import re

import pytest

import checkpoint_core
from checkpoint_core.report.table import COLUMNS
from tests.damage import truncate
from tests.world import PROJECT, World

TEXT = (PROJECT / "docs" / "api.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL))
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PRESENT_NAMES = (
    "Auditor AuditReport CheckpointReport Finding LatestResumable Layout OutputsFolderError RunReport Severity Subject "
    "UnknownName Verdict __version__ audit_outputs find_latest_resumable load_table to_dataframe to_display"
).split()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


def rows(section: str) -> list[list[str]]:
    """A table's cells, without its head."""
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def members(name: str) -> set[str]:
    """What instances of a public class have."""
    offered = getattr(checkpoint_core, name)
    fields = dataclasses.fields(offered) if dataclasses.is_dataclass(offered) else ()
    return {*dir(offered), *(field.name for field in fields)}


def test_every_public_name_is_documented_and_every_documented_name_is_public() -> None:
    assert set(SECTIONS) == set(checkpoint_core.__all__)


@pytest.mark.parametrize("name", PRESENT_NAMES)
def test_what_programs_import_today_stays(name: str) -> None:
    assert name in checkpoint_core.__all__
    assert getattr(checkpoint_core, name) is not None


ENUMS = ("Layout", "Severity", "Subject", "Verdict")
CLASSES = ("AuditReport", "Auditor", "CheckpointReport", "Finding", "LatestResumable", "RunReport")


@pytest.mark.parametrize("name", ENUMS)
def test_every_value_is_documented(name: str) -> None:
    offered = getattr(checkpoint_core, name)
    assert issubclass(offered, enum.Enum)
    assert [row[0] for row in rows(SECTIONS[name])] == [member.value for member in offered]


@pytest.mark.parametrize("name", CLASSES)
def test_every_documented_member_is_there(name: str) -> None:
    documented = [row[0] for row in rows(SECTIONS[name])]
    assert documented
    assert [member for member in documented if member not in members(name)] == []


def test_the_columns_are_the_tables() -> None:
    assert {row[0]: row[1] for row in rows(SECTIONS["load_table"])} == COLUMNS


def test_every_link_leads_to_a_section() -> None:
    assert set(re.findall(r"\]\(#(\w+)\)", TEXT)) <= {name.lower() for name in SECTIONS}


def test_the_examples_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    truncate(world.latest / "optimizer.bin")
    monkeypatch.chdir(world.root)
    names: dict[str, object] = {}
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    told: list[str] = []
    for number, text in enumerate(EXAMPLES, 1):
        example = doctest.DocTestParser().get_doctest(text, names, f"example {number}", "docs/api.md", 0)
        runner.run(example, out=told.append, clear_globs=False)
        names = example.globs
    assert runner.tries >= len(EXAMPLES)
    assert not runner.failures, "".join(told)


def test_the_facts_that_it_names_are_there(world: World) -> None:
    run = checkpoint_core.audit_outputs(world.outputs).run(world.run_name)
    described = {"RunReport": run, "CheckpointReport": run.checkpoints[0]}
    for name, value in described.items():
        for member, meaning in rows(SECTIONS[name]):
            for inner in re.findall(r"`(\w+)`", meaning) if member in ("facts", "position") else ():
                assert hasattr(getattr(value, member), inner), f"{name}.{member}.{inner}"
