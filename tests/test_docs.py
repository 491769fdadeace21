"""The documents say what the program says: help texts, findings, floors, names; and their links lead somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint_core.audit.catalogue.docs_table import with_table
from checkpoint_core.report import table
from tests import architecture
from tests.architecture import CORE as HOUSE
from tests.architecture import MODULES, tree_of
from tests.architecture import TAB as TAB_FILE
from tests.blocks import PROJECT, with_block
from tests.command_help import CORE, TAB, Program, commands_in, help_text, needs_gradio

DOCS = PROJECT / "docs"
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *DOCS.glob("*.md")])
_NAMES = "scan check resume repair recover watch status stop prune restore report"
COMMANDS = ([], *([name] for name in _NAMES.split()))
TAB_COMMANDS = ([], *([name] for name in "demo serve launch install uninstall".split()))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments) or "all")
def test_the_help_is_the_programs(arguments: list[str]) -> None:
    assert help_text(CORE, *arguments) in text_of("cli.md")


@needs_gradio
@pytest.mark.parametrize("arguments", TAB_COMMANDS, ids=lambda arguments: " ".join(arguments) or "all")
def test_the_help_is_the_tabs(arguments: list[str]) -> None:
    assert help_text(TAB, *arguments) in text_of("cli.md")


@pytest.mark.parametrize(
    ("program", "tried"),
    [(CORE, COMMANDS), pytest.param(TAB, TAB_COMMANDS, marks=needs_gradio)],
    ids=["core", "tab"],
)
def test_every_command_is_tried_here(program: Program, tried: tuple[list[str], ...]) -> None:
    assert sorted(commands_in(help_text(program))) == sorted(name for names in tried for name in names)


def test_the_findings_are_the_catalogues() -> None:
    assert with_table(text_of("findings.md")) == text_of("findings.md")


def test_the_floors_are_those_of_the_imports() -> None:
    """Mend it by ``python -m tests.architecture --write``."""
    document = text_of("architecture.md")
    assert with_block(document, architecture.BLOCK, architecture.block()) == document


def test_only_what_is_between_the_marks_is_replaced() -> None:
    text = "before\n<!-- x: begin -->\nold\n<!-- x: end -->\nafter"
    assert with_block(text, "x", "new") == text.replace("old", "new")
    assert with_block(text.replace("\nold", ""), "x", "old") == text


@pytest.mark.parametrize(
    "text", ["", "<!-- x: begin -->", "<!-- x: end -->", "<!-- x: end --><!-- x: begin -->"]
)
def test_a_document_without_the_marks_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="x: begin"):
        with_block(text, "x", "new")


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them: the second of two equal ones ends in -1."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", FENCE.sub("", text), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        taken = sum(
            anchor == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", anchor) is not None for anchor in found
        )
        found.add(f"{slug}-{taken}" if taken else slug)
    return found


def links(text: str) -> Iterator[str]:
    """Where a document's links lead, but for other sites."""
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        if not re.match(r"[a-z]+:", target):
            yield target


def dead_links(document: Path, text: str) -> list[str]:
    """The relative links of a document that lead nowhere."""
    dead = []
    for target in links(text):
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve()
        is_here = not name or (path.exists() and path.is_relative_to(PROJECT))
        if not is_here or (anchor and anchor not in anchors(path.read_text("utf-8") if name else text)):
            dead.append(target)
    return dead


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_every_link_leads_somewhere(document: Path) -> None:
    assert dead_links(document, document.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "dead"),
    [
        ("[a](cli.md) [b](cli.md#scan) ![c](screenshot-fluxgym.png) [d](https://example.org/x#y)", []),
        ("[a](no-such.md)", ["no-such.md"]),
        ("[a](cli.md#no-such)", ["cli.md#no-such"]),
        ("# Here & there\n[a](#here--there)", []),
        ("# One\n# One\n[a](#one-1) [b](#one-2)", ["#one-2"]),
        ("```text\n# One\n[a](no-such.md)\n```\n[b](#one)", ["#one"]),
        ("[a](../../elsewhere.md)", ["../../elsewhere.md"]),
    ],
)
def test_a_dead_link_is_found(text: str, dead: list[str]) -> None:
    assert dead_links(DOCS / "any.md", text) == dead


def test_every_document_is_reached_from_the_readme() -> None:
    linked = set(links((PROJECT / "README.md").read_text(encoding="utf-8")))
    assert {f"docs/{path.name}" for path in DOCS.glob("*.md")} <= {
        target.partition("#")[0] for target in linked
    }


COMMAND = re.compile(
    r"(?:-m checkpoint_core|checkpoint-core|fluxgym_resume_tab\.py|fluxgym-checkpoints) (?P<name>[a-z]+)(?P<rest>.*)"
)


def helps() -> dict[str, str]:
    """What each command's help says, as docs/cli.md has it; that this is the program's is held above."""
    sections = re.split(r"^### `(\w+)`$", text_of("cli.md"), flags=re.MULTILINE)
    return dict(zip(sections[1::2], sections[2::2], strict=True))


def commands_shown(text: str) -> Iterator[tuple[str, str]]:
    """Each command that a document shows, by name, with what follows it: in a shell block, inline, in a table."""
    shell = [line for language, code in FENCE.findall(text) if language == "sh" for line in code.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    for line in (*shell, *inline):
        if found := COMMAND.search(line):
            yield found["name"], found["rest"]
    for cell, rest in re.findall(r"^\| (\[`\w+[^|]*)\|(.*)\|$", text, re.MULTILINE):
        yield from ((name, rest) for name in re.findall(r"\[`(\w+)", cell))


def unknown_commands(text: str) -> list[str]:
    """Commands of a document that are none, and options that their commands do not have."""
    known, unknown = helps(), []
    for name, rest in commands_shown(text):
        options = re.findall(r"(?<!\S)`?(--[a-z][\w-]*)", rest)
        if name not in known:
            unknown.append(name)
        unknown += [f"{name} {option}" for option in options if option not in known.get(name, option)]
    return unknown


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_every_command_and_option_that_is_shown_is_there(document: Path) -> None:
    assert unknown_commands(document.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("```sh\npython -m checkpoint_core scan outputs --json\n```", []),
        ("```sh\npython -m checkpoint_core scam outputs\n```", ["scam"]),
        ("```sh\npython -m checkpoint_core repair STATE  # --aply does it\n```", ["repair --aply"]),
        ("run `python x/fluxgym_resume_tab.py install --fluxgym .`", []),
        ("run `python x/fluxgym_resume_tab.py install --folder .`", ["install --folder"]),
        (
            "| [`repair STATE`](docs/cli.md#repair) | `--apply` does it, `--redo` reverts it |",
            ["repair --redo"],
        ),
    ],
)
def test_a_command_that_is_none_is_found(text: str, unknown: list[str]) -> None:
    assert unknown_commands(text) == unknown


def test_the_commands_are_seen() -> None:
    shown = {
        name for document in DOCUMENTS for name, _ in commands_shown(document.read_text(encoding="utf-8"))
    }
    assert shown >= {*_NAMES.split(), "demo", "serve", "launch", "install", "uninstall"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_every_module_that_is_run_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for module in re.findall(r"python -m\s((?:tests|benchmarks|checkpoint_core)[\w.]*\w)", text):
        path = PROJECT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


ARCHITECTURE = text_of("architecture.md")
WALK = re.findall(r"^\|[^|]+\| `([\w/]+\.py)` \| (.+) \|$", ARCHITECTURE, re.MULTILINE)


def defined_in(file: Path) -> set[str]:
    """The functions, classes and names that a module defines, methods too."""
    nodes = list(ast.walk(tree_of(file)))
    named = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return named | {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


@pytest.mark.parametrize(("module", "names"), WALK, ids=[module for module, _ in WALK])
def test_the_walk_passes_what_is_there(module: str, names: str) -> None:
    passed = re.findall(r"`(\w+)`", names)
    assert passed
    assert [name for name in passed if name not in defined_in(HOUSE / module)] == []


def test_the_walk_goes_through_every_room() -> None:
    assert {module.partition("/")[0] for module, _ in WALK} >= {
        path.parent.name for path in HOUSE.glob("*/__init__.py")
    } - {"formats", "demo"}


def test_every_file_that_the_architecture_names_is_there() -> None:
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w.-]+\.py)`", FENCE.sub("", ARCHITECTURE))
    bases = (PROJECT, HOUSE, HOUSE / "audit" / "catalogue")
    assert [name for name in named if not any((base / name).exists() for base in bases)] == []


def test_every_name_in_the_architecture_is_defined() -> None:
    named = set(re.findall(r"`(\w*(?:[A-Z]|\w_)\w*)`", FENCE.sub("", ARCHITECTURE)))
    everywhere = set[str]().union(*(defined_in(file) for file in (*MODULES, TAB_FILE)))
    assert named
    assert sorted(named - everywhere) == []


def test_the_documented_columns_are_where_it_says() -> None:
    assert "checkpoint_core.report.table.COLUMNS" in text_of("report-schema.md")
    assert table.COLUMNS
