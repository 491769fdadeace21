"""The files against the manifest, tried on facts alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from checkpoint_core.audit.catalogue.states import finding
from checkpoint_core.audit.checks.since_save import check_since_save
from checkpoint_core.audit.findings import Finding, Severity
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.states.facts import (
    DeepFacts,
    EntryKind,
    FileChange,
    ManifestFacts,
    ManifestFile,
    StateFacts,
)


@pytest.fixture(scope="session")
def whole(stepped: RunReport) -> StateFacts:
    """A state that is as its manifest tells."""
    return with_manifest(stepped.checkpoints[0].facts)


def with_manifest(
    facts: StateFacts,
    *changed: tuple[str, FileChange],
    findings: tuple[str, ...] = (),
    verdict: str = "ready",
) -> StateFacts:
    files = {entry.name: ManifestFile(entry.size_bytes, entry.modified_ns, "0" * 64) for entry in facts.files}
    manifest = ManifestFacts(facts.saved_ns, verdict, findings, verdict == "ready", files, changed)
    return replace(facts, manifest=manifest)


def with_hashes(facts: StateFacts, **same: bool) -> StateFacts:
    known = {name.replace("_bin", ".bin").replace("_pkl", ".pkl"): value for name, value in same.items()}
    return replace(facts, deep=DeepFacts({}, {}, None, 1, known))


def told(facts: StateFacts, *others: Finding) -> list[tuple[str, str | None, Severity]]:
    return [(each.code, each.file, each.severity) for each in check_since_save(facts, others)]


def test_nothing_is_said_without_a_manifest_or_a_change(whole: StateFacts) -> None:
    assert told(whole) == []
    assert told(replace(whole, manifest=None)) == []


@pytest.mark.parametrize(
    ("how", "severity"),
    [
        (FileChange.MISSING, Severity.WARNING),
        (FileChange.SIZE, Severity.WARNING),
        (FileChange.TIME, Severity.INFO),
    ],
)
def test_how_a_file_differs_decides_the_weight(
    whole: StateFacts, how: FileChange, severity: Severity
) -> None:
    facts = with_manifest(whole, ("optimizer.bin", how))
    assert told(facts) == [("changed-since-save", "optimizer.bin", severity)]


@pytest.mark.parametrize("how", [None, FileChange.TIME])
@pytest.mark.parametrize(
    ("name", "severity"),
    [
        ("optimizer_bin", Severity.ERROR),
        ("scheduler_bin", Severity.ERROR),
        ("random_states_0_pkl", Severity.WARNING),
    ],
)
def test_other_bytes_are_damage_where_they_decide_how_it_trains(
    whole: StateFacts, name: str, severity: Severity, how: FileChange | None
) -> None:
    file = name.replace("_bin", ".bin").replace("_pkl", ".pkl")
    facts = with_manifest(whole, (file, how)) if how else whole
    assert told(with_hashes(facts, **{name: False})) == [("changed-since-save", file, severity)]
    assert told(with_hashes(facts, **{name: True})) == []


def test_a_leftover_of_any_name_is_never_damage(whole: StateFacts) -> None:
    assert whole.manifest is not None
    manifest = replace(whole.manifest, files={"model-notes.txt": ManifestFile(1, 1, "0" * 64)})
    deep = DeepFacts({}, {}, None, 1, {"model-notes.txt": False})
    facts = replace(whole, manifest=manifest, deep=deep)
    assert told(facts) == [("changed-since-save", "model-notes.txt", Severity.WARNING)]


def test_what_can_be_repaired_stays_so(whole: StateFacts) -> None:
    lost = finding("scheduler-corrupt", file="scheduler.bin", detail="it is broken")
    facts = with_hashes(whole, scheduler_bin=False)
    (made,) = check_since_save(facts, [replace(lost, severity=Severity.FIXABLE)])
    assert made.severity is Severity.WARNING
    assert "the damage came after it" in made.effect


def test_a_finding_that_tells_nothing_of_the_bytes_hides_no_damage(whole: StateFacts) -> None:
    other = replace(finding("learning-rate-zero"), file="scheduler.bin")
    facts = with_hashes(whole, scheduler_bin=False)
    assert told(facts, other) == [("changed-since-save", "scheduler.bin", Severity.ERROR)]


def test_what_the_first_check_told_already_is_no_later_damage(whole: StateFacts) -> None:
    broken = finding("random-states-truncated", file="random_states_0.pkl", detail="half of it")
    assert told(with_manifest(whole, findings=("random-states-truncated",)), broken) == []
    assert told(whole, broken) == [("changed-since-save", "random_states_0.pkl", Severity.WARNING)]


def test_a_link_in_a_files_place_is_told(whole: StateFacts) -> None:
    facts = with_manifest(whole, ("optimizer.bin", FileChange.MISSING))
    entries = tuple(
        replace(entry, kind=EntryKind.OUTSIDE_LINK, size_bytes=0) if entry.name == "optimizer.bin" else entry
        for entry in facts.files
    )
    (made,) = check_since_save(replace(facts, files=entries), ())
    assert made.evidence == "it is no regular file any more"


@pytest.mark.parametrize("verdict", ["unknown", "saving"])
def test_a_first_check_that_could_not_tell_calls_no_save_bad(whole: StateFacts, verdict: str) -> None:
    assert told(with_manifest(whole, findings=("optimizer-unreadable",), verdict=verdict)) == []


DEEP = ("optimizer-not-finite",)


def test_what_only_reading_every_byte_sees_stays_damage(whole: StateFacts) -> None:
    bad = with_manifest(whole, findings=DEEP, verdict="damaged")
    assert told(bad) == [("damaged-at-save", None, Severity.ERROR)]
    assert told(with_hashes(bad)) == [("damaged-at-save", None, Severity.INFO)], "it is seen again then"


def test_a_bad_save_that_was_changed_since_is_judged_by_what_it_is_now(whole: StateFacts) -> None:
    bad = with_manifest(whole, ("optimizer.bin", FileChange.SIZE), findings=DEEP, verdict="damaged")
    assert ("damaged-at-save", None, Severity.INFO) in told(bad)


def test_a_bad_save_of_which_repairs_are_not_known_is_not_called_damaged(whole: StateFacts) -> None:
    bad = with_manifest(whole, findings=DEEP, verdict="damaged")
    assert bad.manifest is not None
    unknown = replace(bad, manifest=replace(bad.manifest, repaired=None))
    assert told(unknown) == [("damaged-at-save", None, Severity.INFO)]
    repaired = replace(bad, manifest=bad.manifest.without(frozenset({"optimizer.bin"})))
    assert told(repaired) == []
