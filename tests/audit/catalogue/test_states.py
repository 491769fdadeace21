"""Codes and sentences: each is made somewhere, each can be filled in, each reads as a sentence."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint_core.audit.catalogue import states
from checkpoint_core.audit.catalogue.states import CATALOGUE, Entry, file_finding, finding, kind_of
from checkpoint_core.audit.findings import DAMAGED_BYTES, LOST, FindingKind, Severity, StatePart, Subject
from checkpoint_core.formats.reader import DamageKind

CORE = Path(states.__file__).parents[2]
#: The parts of a state whose codes are put together, `{part}-{kind}`, and what the deep scan adds to a part.
PARTS = ("weights", "optimizer", "scheduler", "random-states", "custom-object")
PUT_TOGETHER = {
    *(f"{part}-{kind}" for part in PARTS for kind in ("missing", *(kind.value for kind in DamageKind))),
    *(f"{part}-{told}" for part in ("weights", "optimizer") for told in ("bytes-changed", "not-finite")),
}

#: Sentences may begin with what is written small: names of files and programs, and the fields of this test.
LOWER = ("train_state.json", "optimizer.bin", "accelerate", "value of", "some evidence")


def literals() -> Iterator[str]:
    """Every string in the package that could be a code, the catalogue's own left out."""
    for path in CORE.rglob("*.py"):
        if not path.name.startswith("catalogue"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def fields(entry: Entry) -> set[str]:
    texts = (entry.message, entry.effect, entry.cure)
    return {name for text in texts for _, name, _, _ in string.Formatter().parse(text) if name}


def test_codes_are_unique_and_well_formed() -> None:
    groups = (
        tuple(states._file_entries()),
        states._SAVES,
        states._POSITION,
        states._CONTENTS,
        states.SCRIPT,
        states.FORECAST,
        states.ENVIRONMENT,
        states.REHEARSAL,
        states._DEEP,
        states._TARGETS,
        states._RUNS,
        states._PATHS,
    )
    assert sum(map(len, groups)) == len(CATALOGUE)
    for code in CATALOGUE:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", code), code


def test_every_code_is_made_somewhere() -> None:
    made = set(literals()) | PUT_TOGETHER
    assert set(CATALOGUE) - made == set()


def test_every_code_that_is_made_is_in_the_catalogue() -> None:
    made = {
        node.args[0].value
        for path in CORE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", None) == "finding"
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    assert len(made) > 30
    assert made | PUT_TOGETHER <= set(CATALOGUE)


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=list(CATALOGUE))
def test_the_sentences_are_filled_in_and_end(entry: Entry) -> None:
    values = {name: f"value of {name}" for name in fields(entry) if name not in ("file", "evidence")}
    # What a cure ends in may be nothing, and a quoted reason brings its own full stop.
    values.update({name: "" for name in ("hint", "match") if name in values})
    if entry.code == "script-not-understood":
        values["detail"] = "Line 3: it is not closed."
    made = entry.finding(file="optimizer.bin", evidence="some evidence", **values)
    assert (made.code, made.severity, made.subject) == (entry.code, entry.severity, entry.subject)
    for sentence in (made.message, made.effect, made.cure):
        assert sentence.endswith((".", "”.")), sentence
        assert sentence[0].isupper() or sentence.startswith(LOWER), sentence
        assert ".." not in sentence.replace("…", "")
        assert "  " not in sentence
        assert not set(re.findall(r"\{[a-z_]+\}", sentence)) - {"{current_epoch}"}


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=list(CATALOGUE))
def test_a_field_that_is_not_given_is_an_error_here_and_not_on_the_page(entry: Entry) -> None:
    needed = fields(entry) - {"file", "evidence"}
    if needed:
        with pytest.raises(KeyError):
            entry.finding()


def test_an_unknown_code_is_an_error() -> None:
    with pytest.raises(KeyError):
        finding("no-such-code")


def test_braces_from_the_disk_are_text() -> None:
    made = finding("optimizer-truncated", file="{evidence}", detail="{0.__class__}", evidence="{file}")
    assert made.message == "{evidence} is truncated: {0.__class__}."


def test_only_the_state_itself_is_ever_called_damaged() -> None:
    damaging = {entry.subject for entry in CATALOGUE.values() if entry.severity is Severity.ERROR}
    assert damaging == {Subject.STATE}


def test_random_states_alone_never_damage() -> None:
    severities = {
        code: entry.severity for code, entry in CATALOGUE.items() if code.startswith("random-states")
    }
    assert len(severities) > 8
    assert set(severities.values()) == {Severity.WARNING, Severity.FIXABLE}
    assert [code for code, severity in severities.items() if severity is Severity.FIXABLE] == [
        "random-states-hostile"
    ]


@pytest.mark.parametrize("part", [part for part in PARTS if part != "random-states"])
@pytest.mark.parametrize("kind", [kind.value for kind in DamageKind])
def test_what_could_not_be_read_is_not_called_damaged(part: str, kind: str) -> None:
    untold = kind in ("unreadable", "unsupported")
    assert CATALOGUE[f"{part}-{kind}"].severity is (Severity.UNKNOWN if untold else Severity.ERROR)


def test_information_concerns_no_verdict_and_every_subject_is_known() -> None:
    assert {entry.subject for entry in CATALOGUE.values()} <= set(Subject)
    assert CATALOGUE["counts-from-zero"].severity is Severity.INFO
    assert CATALOGUE["script-flag-unknown"].severity is Severity.UNKNOWN
    assert CATALOGUE["script-config-file"].severity is Severity.WARNING


def named_kind(code: str) -> FindingKind | None:
    """The kind that a code begins or ends with, the longest: ``-names-broken`` is more than ``-broken``."""
    named = [
        kind for kind in FindingKind if code.startswith(f"{kind.value}-") or code.endswith(f"-{kind.value}")
    ]
    return max(named, key=lambda kind: len(kind.value), default=None)


def named_part(entry: Entry) -> StatePart | None:
    """The part of a state whose name a code begins or ends with, where the finding concerns the state."""
    if entry.subject is not Subject.STATE or entry.code.startswith("rehearsal-"):
        return None
    code = entry.code
    named = (
        part for part in StatePart if code.startswith(f"{part.value}-") or code.endswith(f"-{part.value}")
    )
    return next(named, None)


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=list(CATALOGUE))
def test_kind_and_part_are_those_that_the_code_names(entry: Entry) -> None:
    assert (entry.kind, entry.part) == (named_kind(entry.code), named_part(entry))


@pytest.mark.parametrize("kind", list(FindingKind))
def test_every_kind_is_some_findings(kind: FindingKind) -> None:
    assert any(entry.kind is kind for entry in CATALOGUE.values())


@pytest.mark.parametrize("part", list(StatePart))
def test_every_part_can_be_lost(part: StatePart) -> None:
    lost = {entry.code for entry in CATALOGUE.values() if entry.part is part and entry.kind in LOST}
    kinds = ("missing",) if part is StatePart.TRAIN_STATE else ("missing", "empty", "truncated", "corrupt")
    assert lost == {f"{part.value}-{kind}" for kind in kinds}


def test_what_is_missing_has_no_damaged_bytes() -> None:
    assert {FindingKind.MISSING} == LOST - DAMAGED_BYTES


@pytest.mark.parametrize("damage", list(DamageKind))
@pytest.mark.parametrize("part", [part for part in StatePart if part.value in PARTS])
def test_every_damage_of_a_file_has_its_finding(part: StatePart, damage: DamageKind) -> None:
    kind = FindingKind(damage.value)
    made = file_finding(part, kind, file="x.bin", detail="it is short", evidence=("a.b", "c, d"))
    assert (made.code, made.kind, made.part) == (f"{part.value}-{damage.value}", kind, part)
    assert made.is_one_of(part, {kind})
    assert not made.is_one_of(part, set(FindingKind) - {kind})
    assert not any(made.is_one_of(other, {kind}) for other in StatePart if other is not part)


def test_names_are_kept_apart_and_shown_together() -> None:
    made = finding("weights-not-lora", file="x.safetensors", evidence=("a, b", "c"))
    assert (made.names, made.evidence) == (("a, b", "c"), "a, b, c")
    assert "named like a, b, c." in made.message
    assert finding("weights-not-lora", file="x.safetensors", evidence="a, b").names == ()


def test_a_code_from_a_manifest_tells_its_kind() -> None:
    assert kind_of("weights-not-finite") is FindingKind.NOT_FINITE
    assert kind_of("of-another-version") is None
