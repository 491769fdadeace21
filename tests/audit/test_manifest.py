"""The manifest of the first check: written and read back, and what it tells of a state at every later look."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checkpoint_core.atomic_write import WriteFailed
from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.findings import Severity, Verdict
from checkpoint_core.audit.manifest import (
    Manifest,
    StateChanged,
    forget_manifest,
    make_manifest,
    manifest_name,
    read_manifest,
    write_manifest,
)
from checkpoint_core.audit.reports import CheckpointReport
from checkpoint_core.audit.single_state import audit_state
from checkpoint_core.formats.reader import DamageKind
from checkpoint_core.recovery import transaction
from checkpoint_core.recovery.repair import plan_repair
from checkpoint_core.report.json_schema import checkpoint_json
from checkpoint_core.states import ManifestFile
from checkpoint_core.states.facts import Damage, FileChange, ManifestFacts
from checkpoint_core.states.layout import MANIFESTS_FOLDER
from checkpoint_core.states.repair_records import RECORD
from checkpoint_core.states.verification import digest_of
from tests.damage import drop_rng_step, empty, flip_member_byte, flip_tensor_byte, nan_in_optimizer, truncate
from tests.judging import codes, found, judge_state, outcome
from tests.world import STATE_FILES, World

HOUR_NS = 3600 * 1_000_000_000


def check_it(world: World, epoch: int = 4, deep: bool = False) -> Manifest:
    """The first check of a state, written down an hour after its save."""
    auditor, name = Auditor(world.outputs), world.state(epoch).name
    report = auditor.audit_run(world.run_name).checkpoint(name)
    if deep:
        report = auditor.verify(world.run_name, name)
    saved = report.facts.saved_ns
    manifest = make_manifest(report, clock=lambda: saved + HOUR_NS)
    write_manifest(world.run, manifest)
    return manifest


def verified(world: World, epoch: int = 4) -> CheckpointReport:
    return Auditor(world.outputs).verify(world.run_name, world.state(epoch).name)


def since_save(report: CheckpointReport) -> list[tuple[str, str | None, str]]:
    """What was found against the manifest: code, file, severity."""
    told = ("changed-since-save", "damaged-at-save")
    return [(each.code, each.file, each.severity.value) for each in report.findings if each.code in told]


def manifest_of(report: CheckpointReport) -> ManifestFacts:
    assert report.facts.manifest is not None
    return report.facts.manifest


def touch(path: Path, seconds: float = 600) -> None:
    at = path.stat().st_mtime_ns + round(seconds * 1e9)
    os.utime(path, ns=(at, at))


# Written and read


def test_a_manifest_holds_every_file_and_is_read_back(world: World) -> None:
    made = check_it(world)

    assert made.files.keys() == set(STATE_FILES)
    for name, file in made.files.items():
        path = world.latest / name
        assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (file.size_bytes, file.modified_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert (made.verdict, made.findings, made.is_good) == (Verdict.READY, (), True)
    assert read_manifest(world.run, world.latest.name) == made
    assert (world.run / MANIFESTS_FOLDER / f"{world.latest.name}.json").is_file()


def test_a_state_without_one_has_none(world: World) -> None:
    assert read_manifest(world.run, world.latest.name) is None
    assert judge_state(world).facts.manifest is None
    assert checkpoint_json(judge_state(world))["manifest"] is None


def test_it_can_be_forgotten(world: World) -> None:
    check_it(world)
    forget_manifest(world.run, world.latest.name)
    forget_manifest(world.run, world.latest.name)
    assert read_manifest(world.run, world.latest.name) is None


def test_the_script_in_the_way_makes_no_bad_save(world: World) -> None:
    world.edit_script(lambda text: text.replace("--max_train_epochs 8", "--max_train_epochs 4"))
    made = check_it(world)
    assert (made.verdict, made.findings, made.is_good) == (Verdict.NEEDS_FIX, (), True)


def test_a_state_that_changes_while_it_is_read_has_no_manifest(world: World) -> None:
    report = judge_state(world)
    touch(world.latest / "model.safetensors")
    with pytest.raises(StateChanged):
        make_manifest(report)
    (world.latest / "model.safetensors").unlink()
    with pytest.raises(StateChanged):
        make_manifest(report)


def test_the_reading_can_be_stopped(world: World) -> None:
    class Enough(Exception):
        pass

    def stop(_: int) -> None:
        raise Enough

    with pytest.raises(Enough):
        make_manifest(judge_state(world), count=stop)


def test_a_digest_is_that_of_all_pieces(tmp_path: Path) -> None:
    for size in (0, 1, 1024 * 1024, 3 * 1024 * 1024 + 7):
        path, data = tmp_path / str(size), os.urandom(size)
        path.write_bytes(data)
        counted: list[int] = []
        assert digest_of(path, counted.append) == hashlib.sha256(data).hexdigest()
        assert sum(counted) == size


ODD_NAMES = (
    "checkpoints/checkpoint_0",
    "checkpoints%2Fcheckpoint_0",
    "ca t’s “state” é-state",
    "猫" * 80 + "-000001-state",
    "猫" * 80 + "-000002-state",
    os.fsdecode(b"\xff-state"),
    "con-state",
)


def test_every_state_has_a_flat_and_plain_name_of_its_own() -> None:
    names = [manifest_name(state) for state in ODD_NAMES]
    assert len(set(names)) == len(names)
    for name in names:
        assert name.isascii()
        assert len(name) < 200
        assert not set(name) & set('/\\:*?"<>| ')


@pytest.mark.parametrize("state", ODD_NAMES)
def test_a_manifest_of_an_odd_name_is_read_back(tmp_path: Path, state: str) -> None:
    files = {os.fsdecode(b"\xfe.bin"): ManifestFile(1, -1, "0" * 64)}
    made = Manifest(state, 1, Verdict.READY, (), files, True)
    write_manifest(tmp_path, made)
    assert read_manifest(tmp_path, state) == made


def test_accelerates_automatic_naming_has_manifests_too(world: World) -> None:
    inner = world.run / "checkpoints" / "checkpoint_0"
    inner.parent.mkdir()
    world.latest.rename(inner)
    auditor = Auditor(world.outputs)
    item = auditor.audit_run(world.run_name).checkpoint("checkpoints/checkpoint_0")
    write_manifest(world.run, make_manifest(item))
    truncate(inner / "optimizer.bin")

    now = auditor.audit_run(world.run_name).checkpoint("checkpoints/checkpoint_0")
    assert ("changed-since-save", "optimizer.bin", "warning") in since_save(now)


def test_manifests_are_no_states_and_no_activity_of_the_run(world: World) -> None:
    before = Auditor(world.outputs).audit_run(world.run_name)
    check_it(world)
    after = Auditor(world.outputs).audit_run(world.run_name)
    assert [item.name for item in after.checkpoints] == [item.name for item in before.checkpoints]
    assert after.facts.modified_ns == before.facts.modified_ns


# Manifests that cannot be used


def changed(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: {**document, key: value}


def with_file(**values: Any) -> Callable[[dict[str, Any]], object]:
    good = {"size_bytes": 1, "modified_ns": 1, "sha256": "0" * 64}
    return changed("files", {"optimizer.bin": {**good, **values}})


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "a list": lambda document: [document],
    "a number": lambda _: 7,
    "nothing in it": lambda _: {"schema_version": 1},
    "of a newer version": changed("schema_version", 2),
    "of another state": changed("state", "other-state"),
    "a state that is no text": changed("state", 4),
    "a verdict that nobody gave": changed("verdict", "splendid"),
    "a verdict that is a list": changed("verdict", ["ready"]),
    "good that is no yes or no": changed("is_good", "yes"),
    "findings that are text": changed("findings", "optimizer-truncated"),
    "findings that are numbers": changed("findings", [1]),
    "findings that are sentences": changed("findings", ["<script>alert(1)</script>"]),
    "a time that is text": changed("made_at_ns", "now"),
    "a time beyond all clocks": changed("made_at_ns", 10**30),
    "files that are a list": changed("files", ["optimizer.bin"]),
    "files that are a number": changed("files", 3),
    "a file that is null": changed("files", {"optimizer.bin": None}),
    "a file elsewhere": changed("files", {"../optimizer.bin": None}),
    "too many files": changed("files", {str(number): None for number in range(2000)}),
    "a size that is true": with_file(size_bytes=True),
    "a size below nothing": with_file(size_bytes=-1),
    "a digest that is none": with_file(sha256="no digest"),
    "a digest that is a number": with_file(sha256=5),
}


@pytest.mark.parametrize("edit", BROKEN.values(), ids=list(BROKEN))
def test_a_manifest_that_was_not_written_here_is_ignored(
    world: World, edit: Callable[[dict[str, Any]], object]
) -> None:
    check_it(world)
    path = world.run / MANIFESTS_FOLDER / manifest_name(world.latest.name)
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    truncate(world.latest / "optimizer.bin")

    assert isinstance(read_manifest(world.run, world.latest.name), Damage)
    report = judge_state(world)
    assert report.facts.manifest is None
    assert outcome(report) == ("damaged", ["optimizer-truncated"])


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000, b" " * 2_000_000, b'{"schema_version": NaN}'],
    ids=["empty", "cut off", "no text", "deep", "a huge number", "huge", "NaN"],
)
def test_a_manifest_that_is_no_json_is_ignored(world: World, data: bytes) -> None:
    check_it(world)
    (world.run / MANIFESTS_FOLDER / manifest_name(world.latest.name)).write_bytes(data)

    assert isinstance(read_manifest(world.run, world.latest.name), Damage)
    assert outcome(judge_state(world)) == ("ready", [])


def test_a_folder_in_a_manifests_place_is_ignored(world: World) -> None:
    path = world.run / MANIFESTS_FOLDER / manifest_name(world.latest.name)
    path.mkdir(parents=True)
    assert isinstance(read_manifest(world.run, world.latest.name), Damage)
    assert judge_state(world).facts.manifest is None


def test_a_file_in_the_folders_place_is_ignored_and_not_written_over(world: World) -> None:
    (world.run / MANIFESTS_FOLDER).write_text("mine")
    assert judge_state(world).facts.manifest is None
    with pytest.raises(WriteFailed):
        write_manifest(world.run, make_manifest(judge_state(world)))
    assert (world.run / MANIFESTS_FOLDER).read_text() == "mine"


@pytest.mark.parametrize("linked", ["folder", "file"])
def test_nothing_is_read_or_written_through_a_link(world: World, tmp_path: Path, linked: str) -> None:
    made = check_it(world)
    here = world.run / MANIFESTS_FOLDER
    here = here if linked == "folder" else here / manifest_name(made.state)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(here, elsewhere)
    here.symlink_to(elsewhere)
    kept = elsewhere / manifest_name(made.state) if linked == "folder" else elsewhere
    before = kept.read_bytes()

    refused = read_manifest(world.run, made.state)
    assert isinstance(refused, Damage)
    assert refused.kind is DamageKind.UNREADABLE
    assert judge_state(world).facts.manifest is None
    with pytest.raises(WriteFailed):
        write_manifest(world.run, replace(made, made_at_ns=1))
    with pytest.raises(WriteFailed):
        forget_manifest(world.run, made.state)
    assert kept.read_bytes() == before


def test_a_link_that_leads_out_of_the_outputs_folder_is_not_hashed(world: World, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (world.latest / "linked").symlink_to(secret)
    assert check_it(world).files.keys() == set(STATE_FILES)


# At a later look


def test_nothing_is_said_where_all_is_as_it_was(world: World) -> None:
    check_it(world)
    for report in (judge_state(world), verified(world)):
        assert report.verdict is Verdict.READY
        assert since_save(report) == []
        assert manifest_of(report).changed == ()
    assert manifest_of(judge_state(world)).files.keys() == set(STATE_FILES)


def test_a_file_that_is_cut_off_later_is_told_as_damaged_after_the_save(world: World) -> None:
    check_it(world)
    truncate(world.latest / "optimizer.bin")
    report = judge_state(world)

    assert outcome(report) == ("damaged", ["optimizer-truncated", "changed-since-save"])
    told = found(report, "changed-since-save")
    assert (told.file, told.severity) == ("optimizer.bin", Severity.WARNING)
    assert "The save itself was fine: the damage came after it" in told.effect
    assert "bytes and has" in told.evidence
    assert manifest_of(report).changed == (("optimizer.bin", FileChange.SIZE),)


def test_a_file_that_is_gone_later_is_told(world: World) -> None:
    check_it(world)
    (world.latest / "model.safetensors").unlink()
    told = found(judge_state(world), "changed-since-save")
    assert (told.file, told.evidence) == ("model.safetensors", "it is gone")


def test_a_state_that_was_emptied_later_is_told(world: World) -> None:
    check_it(world)
    for name in STATE_FILES:
        (world.latest / name).unlink()
    os.utime(world.latest, ns=(time.time_ns() - HOUR_NS,) * 2)
    assert len(since_save(judge_state(world))) == len(STATE_FILES)


def test_broken_bytes_of_the_same_size_and_time_are_told_where_a_check_sees_them(world: World) -> None:
    check_it(world)
    flip_member_byte(world.latest / "scheduler.bin", "data.pkl", 40)
    told = found(judge_state(world), "changed-since-save")
    assert (told.file, told.severity) == ("scheduler.bin", Severity.WARNING)
    assert "the damage came after it" in told.effect


def test_a_flipped_byte_of_the_weights_is_told_by_every_byte_alone(world: World) -> None:
    """The lowest byte of a number is rounded away in the LoRA file, so that the manifest alone tells it."""
    check_it(world)
    flip_tensor_byte(world.latest / "model.safetensors")
    assert outcome(judge_state(world)) == ("ready", [])

    report = verified(world)
    assert outcome(report) == ("damaged", ["changed-since-save"])
    told = found(report, "changed-since-save")
    assert (told.file, told.severity) == ("model.safetensors", Severity.ERROR)
    assert "The save itself was fine" in told.effect
    assert "weights-match-lora" not in [each.code for each in report.findings]


def test_a_flipped_byte_that_the_lora_file_tells_came_after_the_save(world: World) -> None:
    check_it(world)
    flip_tensor_byte(world.latest / "model.safetensors", offset=3)

    report = verified(world)
    assert outcome(report) == ("damaged", ["weights-differ-from-lora", "changed-since-save"])
    assert "the damage came after it" in found(report, "changed-since-save").effect


def test_a_flipped_byte_of_the_optimizer_came_after_the_save(world: World) -> None:
    check_it(world)
    flip_member_byte(world.latest / "optimizer.bin", "data/0", 2)
    assert outcome(judge_state(world)) == ("ready", [])
    assert outcome(verified(world)) == ("damaged", ["optimizer-bytes-changed", "changed-since-save"])


def test_other_bytes_of_the_random_states_are_a_warning(world: World) -> None:
    check_it(world)
    drop_rng_step(world.latest)
    path = world.run / MANIFESTS_FOLDER / manifest_name(world.latest.name)
    document = json.loads(path.read_text())
    document["files"]["random_states_0.pkl"]["size_bytes"] = (
        (world.latest / "random_states_0.pkl").stat().st_size
    )
    path.write_text(json.dumps(document))

    assert ("changed-since-save", "random_states_0.pkl", "warning") in since_save(verified(world))


def test_another_time_alone_is_worth_knowing_until_every_byte_is_read(world: World) -> None:
    check_it(world)
    touch(world.latest / "random_states_0.pkl")
    report = judge_state(world)

    assert outcome(report) == ("ready", [])
    assert found(report, "changed-since-save").evidence == "only its time differs"
    assert since_save(verified(world)) == []


def test_a_time_that_a_coarse_disk_rounds_is_no_other_time(world: World) -> None:
    check_it(world)
    touch(world.latest / "random_states_0.pkl", 1.5)
    assert since_save(judge_state(world)) == []


def test_a_save_that_was_bad_at_birth_is_told_as_such(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    made = check_it(world)
    assert (made.verdict, made.findings, made.is_good) == (Verdict.DAMAGED, ("optimizer-truncated",), False)

    report = judge_state(world)
    assert since_save(report) == [("damaged-at-save", None, "info")]
    assert found(report, "damaged-at-save").evidence == "optimizer-truncated"
    assert report.findings[0].code == "optimizer-truncated"


def test_damage_that_another_file_makes_good_is_damage_at_birth_too(world: World) -> None:
    truncate(world.latest / "scheduler.bin")
    made = check_it(world)
    assert (made.verdict, made.is_good) == (Verdict.NEEDS_FIX, False)
    assert since_save(judge_state(world)) == [("damaged-at-save", None, "info")]


def test_lost_random_states_alone_are_no_bad_save(world: World) -> None:
    empty(world.latest / "random_states_0.pkl")
    made = check_it(world)
    assert (made.findings, made.is_good) == (("random-states-empty",), True)
    assert since_save(judge_state(world)) == []


def test_what_only_the_first_full_check_saw_is_not_called_ready_afterwards(world: World) -> None:
    nan_in_optimizer(world.latest)
    assert judge_state(world).verdict is Verdict.READY
    check_it(world, deep=True)

    report = judge_state(world)
    assert outcome(report) == ("damaged", ["damaged-at-save"])
    assert "optimizer-not-finite" in report.findings[0].message
    assert outcome(verified(world)) == ("damaged", ["optimizer-not-finite"])


def test_a_save_that_was_bad_and_changed_is_not_called_fine(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    check_it(world)
    truncate(world.latest / "scheduler.bin")
    told = found(judge_state(world), "changed-since-save")
    assert told.effect.startswith("It was corrupt when saved")


def test_the_manifest_of_an_earlier_save_of_that_name_says_nothing(world: World) -> None:
    check_it(world)
    for name in STATE_FILES:
        touch(world.latest / name, 7200)
    truncate(world.latest / "optimizer.bin")

    report = judge_state(world)
    assert report.facts.manifest is None
    assert outcome(report) == ("damaged", ["optimizer-truncated"])
    check_it(world)
    assert since_save(judge_state(world)) == [("damaged-at-save", None, "info")]


# Remembered


def test_a_manifest_that_appears_changes_and_goes_is_noticed(world: World) -> None:
    auditor, name = Auditor(world.outputs), world.latest.name

    def look() -> ManifestFacts | None:
        return auditor.audit_run(world.run_name).checkpoint(name).facts.manifest

    assert look() is None
    made = check_it(world)
    first = look()
    assert first is not None
    assert first.was_good
    write_manifest(world.run, replace(made, is_good=False, verdict=Verdict.DAMAGED))
    second = look()
    assert second is not None
    assert not second.was_good
    forget_manifest(world.run, name)
    assert look() is None


def test_what_every_byte_told_outlives_the_manifest_that_is_written_then(world: World) -> None:
    auditor, name = Auditor(world.outputs), world.latest.name
    report = auditor.verify(world.run_name, name)
    write_manifest(world.run, make_manifest(report))

    assert found(auditor.audit_run(world.run_name).checkpoint(name), "bytes-verified")


def test_states_are_not_read_again_for_the_manifest_of_another(world: World) -> None:
    auditor = Auditor(world.outputs)
    auditor.audit()
    check_it(world, 4)
    before = auditor.audit_run(world.run_name).checkpoint(world.state(3).name).facts
    assert auditor.audit_run(world.run_name).checkpoint(world.state(3).name).facts is before


def test_a_state_alone_is_held_against_its_manifest_too(world: World) -> None:
    check_it(world)
    truncate(world.latest / "optimizer.bin")
    assert "changed-since-save" in codes(audit_state(world.latest))


# Repairs


def repair(world: World) -> str:
    auditor = Auditor(world.outputs)
    run = auditor.audit_run(world.run_name)
    repair_plan = plan_repair(auditor, run, run.checkpoint(world.latest.name))
    assert repair_plan is not None
    assert "changed-since-save" not in [each.code for each in repair_plan.after.findings], (
        "it is judged as it will be"
    )
    return transaction.apply(repair_plan.plan).id


def test_what_a_repair_wrote_is_not_reported_and_its_undoing_neither(world: World) -> None:
    check_it(world)
    truncate(world.latest / "scheduler.bin")
    assert ("changed-since-save", "scheduler.bin", "warning") in since_save(judge_state(world))

    made = repair(world)
    for report in (judge_state(world), verified(world)):
        assert outcome(report) == ("ready", [])
        assert since_save(report) == []
        assert manifest_of(report).repaired == {"scheduler.bin"}

    transaction.undo(world.run, made)
    assert ("changed-since-save", "scheduler.bin", "warning") in since_save(judge_state(world))


def test_a_save_that_was_bad_and_repaired_is_not_called_bad(world: World) -> None:
    truncate(world.latest / "scheduler.bin")
    check_it(world)
    repair(world)
    assert outcome(judge_state(world)) == ("ready", [])
    assert since_save(judge_state(world)) == []


def test_a_repair_before_the_manifest_says_nothing_about_what_comes_after(world: World) -> None:
    truncate(world.latest / "scheduler.bin")
    repair(world)
    later = time.time_ns() + 10 * 1_000_000_000
    write_manifest(world.run, make_manifest(judge_state(world), clock=lambda: later))
    truncate(world.latest / "scheduler.bin")
    assert ("changed-since-save", "scheduler.bin", "warning") in since_save(judge_state(world))


def test_nothing_is_compared_where_the_record_of_repairs_cannot_be_read(world: World) -> None:
    check_it(world)
    (world.run / RECORD).write_text("no record")
    flip_tensor_byte(world.latest / "model.safetensors")
    truncate(world.latest / "optimizer.bin")

    report = verified(world)
    assert manifest_of(report).repaired is None
    assert manifest_of(report).files == {}
    assert since_save(report) == []


def test_a_record_of_repairs_that_is_mended_is_noticed(world: World) -> None:
    check_it(world)
    truncate(world.latest / "optimizer.bin")
    (world.run / RECORD).write_text("no record")
    auditor, name = Auditor(world.outputs), world.latest.name
    assert since_save(auditor.audit_run(world.run_name).checkpoint(name)) == []
    (world.run / RECORD).unlink()
    assert since_save(auditor.audit_run(world.run_name).checkpoint(name)) != []


def test_programs_get_it(world: World) -> None:
    check_it(world)
    truncate(world.latest / "optimizer.bin")
    document = checkpoint_json(judge_state(world))["manifest"]
    assert json.loads(json.dumps(document)) == document
    assert document["changed"] == [{"file": "optimizer.bin", "how": "size"}]
    assert (document["was_good"], document["verdict"]) == (True, "ready")
