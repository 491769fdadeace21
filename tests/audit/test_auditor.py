"""The composition: what is read, what is remembered, how runs and checkpoints are found by name."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from checkpoint_core.audit import verdict
from checkpoint_core.audit.auditor import Auditor, audit_outputs
from checkpoint_core.audit.findings import Finding, Verdict
from checkpoint_core.audit.reports import CheckpointReport, UnknownName, find_latest_resumable
from checkpoint_core.audit.verdict import guarded
from checkpoint_core.environment.facts import Environment
from checkpoint_core.environment.rehearsal.outcome import RehearsalOutcome, RehearsalStatus
from checkpoint_core.formats import reader
from checkpoint_core.scripts.change import plan_resume
from checkpoint_core.states import inspection
from checkpoint_core.states.discovery import OutputsFolderError
from checkpoint_core.states.facts import StateFacts
from checkpoint_core.states.layout import Layout, SavePoint
from checkpoint_core.states.verification import VerificationCancelled
from tests.damage import (
    edit_train_state,
    flip_member_byte,
    flip_tensor_byte,
    interrupt_save,
    remove,
    times_kept,
    truncate,
)
from tests.environments import environment
from tests.judging import audit_world, codes, found, judge_state, outcome
from tests.world import World

MINUTE = 60 * 10**9


class Opens:
    """Counts which files the core's one reader opens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        real = reader.FileReader.__init__

        def counting(reader: reader.FileReader, path: Path) -> None:
            self.names.append(Path(path).name)
            real(reader, path)

        monkeypatch.setattr(reader.FileReader, "__init__", counting)

    def since(self) -> list[str]:
        """The names since the last question."""
        names, self.names = self.names, []
        return names


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Opens:
    return Opens(monkeypatch)


def saved_ns(world: World) -> int:
    return judge_state(world).facts.saved_ns


def at(world: World, seconds: float) -> Auditor:
    """An auditor whose clock stands so long after the latest save."""
    now = saved_ns(world) + round(seconds * 10**9)
    return Auditor(world.outputs, clock=lambda: now)


# Names


def test_all_runs_are_reported_by_name_newest_checkpoint_first(world: World) -> None:
    (world.outputs / "a-new-run").mkdir()
    report = audit_outputs(world.outputs)
    assert [run.name for run in report.runs] == ["a-new-run", world.run_name]
    names = [checkpoint.name for checkpoint in report.run(world.run_name).checkpoints]
    assert names == [world.state(epoch).name for epoch in (4, 3, 2, 1)]


def test_progress_names_each_run_before_it_is_read(world: World) -> None:
    (world.outputs / "second").mkdir()
    told: list[str] = []
    Auditor(world.outputs).audit(told.append)
    assert told == [world.run_name, "second"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "sample",
        ".hidden",
        "nowhere",
        "persian-cat/",
        "../persian-cat",
        "persian-cat/persian-cat-state",
    ],
)
def test_only_names_of_runs_are_taken(world: World, name: str) -> None:
    (world.outputs / "sample").mkdir()
    (world.outputs / ".hidden").mkdir()
    with pytest.raises(UnknownName, match="no run"):
        Auditor(world.outputs).audit_run(name)
    with pytest.raises(UnknownName, match="no run"):
        audit_outputs(world.outputs).run(name)


def test_an_absolute_path_is_no_name(world: World) -> None:
    with pytest.raises(UnknownName):
        Auditor(world.outputs).audit_run(str(world.run))
    with pytest.raises(UnknownName, match="no checkpoint"):
        audit_world(world).checkpoint(str(world.latest))


@pytest.mark.parametrize(
    "name", ["", "..", ".", "a/b", "../x", "checkpoints", "checkpoints/../persian-cat-000001-state"]
)
def test_only_names_of_checkpoints_are_taken(world: World, name: str) -> None:
    with pytest.raises(UnknownName, match="no checkpoint"):
        audit_world(world).checkpoint(name)


@pytest.mark.parametrize("folder", ["nowhere", "persian-cat/train.sh"])
def test_a_folder_that_cannot_be_listed_is_the_caller_s_mistake(world: World, folder: str) -> None:
    with pytest.raises(OutputsFolderError):
        audit_outputs(world.outputs / folder)


def nest(world: World, name: str, epoch: int = 4) -> Path:
    """A copy of a state where accelerate's automatic naming puts it."""
    nested = world.run / "checkpoints" / name
    shutil.copytree(world.state(epoch), nested)
    return nested


def test_nested_and_plain_states_of_one_name_are_told_apart(world: World) -> None:
    nest(world, world.latest.name, epoch=3)
    edit_train_state(world.latest, current_step=8)
    run = audit_world(world)
    nested, plain = run.checkpoint(f"checkpoints/{world.latest.name}"), run.checkpoint(world.latest.name)
    assert nested.facts.path.parent.name == "checkpoints"
    assert (plain.position.current_step, nested.position.current_step) == (8, 24)
    assert len({checkpoint.name for checkpoint in run.checkpoints}) == 5


def test_a_nested_state_is_resumed_by_its_own_path(world: World) -> None:
    nested = nest(world, "checkpoint_0")
    report = audit_world(world).checkpoint("checkpoints/checkpoint_0")
    assert report.facts.name.save_point is SavePoint.OTHER
    assert report.verdict is Verdict.READY
    plan_resume(world.run, report.name).execute()
    assert str(nested) in world.script.read_text()
    target = audit_world(world).facts.resume_target
    assert (target.kind, target.state_name) == ("state", "checkpoints/checkpoint_0")


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints/..",
        "checkpoints/",
        "checkpoints/.",
        "checkpoints//x",
        "checkpoints/a/b",
        "other/checkpoint_0",
        "../persian-cat-state",
        "/checkpoints/checkpoint_0",
        "checkpoints/a\\b",
        "checkpoints\\checkpoint_0",
    ],
)
def test_no_other_two_part_name_is_written_into_a_script(world: World, name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a folder"):
        plan_resume(world.run, name)


def test_a_nested_state_is_named_in_the_script_s_own_world(world: World) -> None:
    nest(world, "checkpoint_0")
    world.edit_script(
        lambda text: text.replace(str(world.run), f"/workspace/fluxgym/outputs/{world.run_name}")
    )
    change = plan_resume(world.run, "checkpoints/checkpoint_0")
    assert f"/workspace/fluxgym/outputs/{world.run_name}/checkpoints/checkpoint_0" in change.diff


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_folder_that_contains_itself_is_looked_into_once(world: World) -> None:
    nest(world, "checkpoint_0")
    (world.run / "checkpoints" / "checkpoints").symlink_to(world.run / "checkpoints")
    names = [checkpoint.name for checkpoint in audit_world(world).checkpoints]
    assert [name for name in names if name.startswith("checkpoints")] == ["checkpoints/checkpoint_0"]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="only Linux has names that are no text")
@pytest.mark.parametrize("name", ["a<b>&'\"c", "line\nbreak", "\udcff\udcfe", "*_`[x](y)", "{0.__class__}"])
def test_strange_names_are_judged_like_others(world: World, name: str) -> None:
    world.run.rename(world.outputs / name)
    run = audit_outputs(world.outputs).run(name)
    state = run.facts.path / f"{name}-000004-state"
    (run.facts.path / world.latest.name).rename(state)
    again = audit_outputs(world.outputs).run(name)
    assert again.checkpoint(state.name).verdict is Verdict.READY


# The newest that resumes


def test_the_newest_good_one_with_the_reasons_for_the_newer(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    edit_train_state(world.state(3), current_step=8)
    latest = find_latest_resumable(audit_world(world))
    assert latest.checkpoint is not None
    assert latest.checkpoint.name == world.state(2).name
    assert [name for name, _ in latest.passed_over] == [world.latest.name, world.state(3).name]
    first, second = (reason for _, reason in latest.passed_over)
    assert first.startswith("damaged: optimizer.bin is truncated")
    assert second.startswith("needs-fix: This state was saved after a resume")


def test_a_warning_does_not_pass_a_checkpoint_over(world: World) -> None:
    remove(world.latest / "random_states_0.pkl")
    latest = find_latest_resumable(audit_world(world))
    assert latest.checkpoint is not None
    assert (latest.checkpoint.name, latest.passed_over) == (world.latest.name, ())


def test_a_run_with_nothing_to_resume(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        remove(world.state(epoch) / "optimizer.bin")
    latest = find_latest_resumable(audit_world(world))
    assert latest.checkpoint is None
    assert len(latest.passed_over) == 4


def test_position_counts_before_time(world: World) -> None:
    old = world.state(2)
    for path in [*old.iterdir(), old]:
        os.utime(path, ns=(path.stat().st_mtime_ns + MINUTE,) * 2)
    assert [item.position.epoch for item in audit_world(world).checkpoints] == [4, 3, 2, 1]


def test_of_two_at_one_position_the_later_is_newer(world: World) -> None:
    copy = world.run / "a-later-copy"
    shutil.copytree(world.state(2), copy)
    for path in [*copy.iterdir(), copy]:
        os.utime(path, ns=(path.stat().st_mtime_ns + MINUTE,) * 2)
    names = [item.name for item in audit_world(world).checkpoints]
    assert names.index("a-later-copy") == names.index(world.state(2).name) - 1


# What is being saved


@pytest.mark.parametrize("whole", [0, 1, 2, 3, 4])
def test_recent_and_incomplete_is_being_saved_and_later_it_is_not(world: World, whole: int) -> None:
    now = saved_ns(world)
    interrupt_save(world.latest, whole, 0.5)
    for seconds, saving in ((1, True), (59, True), (61, False), (3600, False)):
        auditor = Auditor(world.outputs, clock=lambda seconds=seconds: now + seconds * 10**9)  # type: ignore[misc]
        verdict = auditor.audit_run(world.run_name).checkpoint(world.latest.name).verdict
        assert (verdict is Verdict.SAVING) is saving, seconds


def test_recent_and_complete_is_ready(world: World) -> None:
    assert outcome(at(world, 1).audit_run(world.run_name).checkpoint(world.latest.name)) == ("ready", [])


def test_a_recent_fault_that_no_save_explains_is_told_at_once(world: World) -> None:
    edit_train_state(world.latest, current_step=8)
    report = at(world, 1).audit_run(world.run_name).checkpoint(world.latest.name)
    assert codes(report) == ["position-relative"]


def test_the_same_auditor_changes_its_mind_when_the_minute_is_over(world: World) -> None:
    now = [saved_ns(world) + 1]
    remove(world.latest / "optimizer.bin")
    auditor = Auditor(world.outputs, clock=lambda: now[0])
    assert auditor.audit_run(world.run_name).checkpoint(world.latest.name).verdict is Verdict.SAVING
    now[0] += 2 * MINUTE
    assert auditor.audit_run(world.run_name).checkpoint(world.latest.name).verdict is Verdict.DAMAGED


def test_a_state_that_changes_between_two_looks_is_being_saved(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = inspection.readers.read_optimizer

    def growing(path: Path) -> object:
        facts = real(path)
        if path.parent == world.latest:
            (path.parent / "random_states_0.pkl").write_bytes(b"more")
        return facts

    auditor = at(world, 1)
    monkeypatch.setattr(inspection.readers, "read_optimizer", growing)
    assert outcome(auditor.audit_run(world.run_name).checkpoint(world.latest.name)) == (
        "saving",
        ["save-in-progress"],
    )


# What is remembered


def test_a_second_look_opens_no_file(world: World, opens: Opens) -> None:
    auditor = Auditor(world.outputs)
    first = auditor.audit()
    assert len(opens.since()) == 4 * 5 + 4
    second = auditor.audit()
    assert opens.since() == []
    # Not the runs as a whole: they hold the disk's free space, which others change meanwhile.
    assert [(run.checkpoints, run.findings) for run in second.runs] == [
        (run.checkpoints, run.findings) for run in first.runs
    ]


def test_only_what_changed_is_read_again(world: World, opens: Opens) -> None:
    auditor = Auditor(world.outputs)
    auditor.audit()
    opens.since()
    (world.state(2) / "train_state.json").write_text('{"current_epoch": 2, "current_step": 8}')
    report = auditor.audit().run(world.run_name)
    assert sorted(opens.since()) == sorted(path.name for path in world.state(2).iterdir())
    assert codes(report.checkpoint(world.state(2).name)) == ["position-relative"]


def test_a_changed_script_is_read_again_and_no_state(world: World, opens: Opens) -> None:
    auditor = Auditor(world.outputs)
    auditor.audit()
    opens.since()
    world.edit_script(lambda text: text.replace("--max_train_epochs 8", "--max_train_epochs 4"))
    report = auditor.audit().run(world.run_name)
    assert opens.since() == []
    assert codes(report.checkpoint(world.latest.name)) == ["run-finished"]


def test_what_is_gone_is_gone_and_what_is_new_appears(world: World) -> None:
    auditor = Auditor(world.outputs)
    auditor.audit()
    shutil.rmtree(world.latest)
    shutil.copytree(world.state(1), world.run / "a-copy")
    names = {item.name for item in auditor.audit().run(world.run_name).checkpoints}
    assert names == {world.state(epoch).name for epoch in (1, 2, 3)} | {"a-copy"}


# Every byte


def test_verifying_finds_what_a_look_cannot(world: World) -> None:
    flip_member_byte(world.latest / "optimizer.bin", "data/0")
    auditor = Auditor(world.outputs)
    assert auditor.audit_run(world.run_name).checkpoint(world.latest.name).verdict is Verdict.READY
    report = auditor.verify(world.run_name, world.latest.name)
    assert outcome(report) == ("damaged", ["optimizer-bytes-changed"])
    assert outcome(auditor.audit_run(world.run_name).checkpoint(world.latest.name)) == outcome(report)


def verified(report: CheckpointReport) -> bool:
    return report.facts.deep is not None


@pytest.mark.parametrize(
    "touch",
    [
        lambda world: (world.latest / "optimizer.bin").write_bytes(b"other"),
        lambda world: os.utime(world.latest / "model.safetensors", ns=(1, 1)),
        lambda world: (world.latest / ".DS_Store").touch(),
        lambda world: os.utime(world.lora(4), ns=(1, 1)),
        lambda world: world.lora(4).unlink(),
    ],
)
def test_what_was_verified_is_forgotten_when_a_file_changes(
    world: World, touch: Callable[[World], object]
) -> None:
    auditor = Auditor(world.outputs)
    assert verified(auditor.verify(world.run_name, world.latest.name))
    touch(world)
    assert not verified(auditor.audit_run(world.run_name).checkpoint(world.latest.name))


def test_what_was_verified_outlives_a_changed_script_and_other_states(world: World) -> None:
    auditor = Auditor(world.outputs)
    auditor.verify(world.run_name, world.latest.name)
    world.edit_script(lambda text: text.replace("--max_train_epochs 8", "--max_train_epochs 9"))
    truncate(world.state(3) / "optimizer.bin")
    assert verified(auditor.audit_run(world.run_name).checkpoint(world.latest.name))


def test_a_cancelled_verification_leaves_nothing(world: World) -> None:
    auditor = Auditor(world.outputs)
    with pytest.raises(VerificationCancelled):
        auditor.verify(world.run_name, world.latest.name, cancelled=lambda: True)
    assert not verified(auditor.audit_run(world.run_name).checkpoint(world.latest.name))


def test_flipped_weights_differ_from_the_lora_file(world: World) -> None:
    flip_tensor_byte(world.latest / "model.safetensors", offset=3)
    report = Auditor(world.outputs).verify(world.run_name, world.latest.name)
    assert report.verdict is Verdict.DAMAGED
    assert "weights-differ-from-lora" in codes(report)


# One broken thing never hides the others


def crashing(facts: StateFacts) -> Iterator[Finding]:
    raise RuntimeError("a defect of ours")
    yield


def test_a_check_that_crashes_is_unknown_and_hides_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "check_consistency", crashing)
    truncate(world.latest / "optimizer.bin")
    assert outcome(judge_state(world)) == ("damaged", ["optimizer-truncated", "check-crashed"])
    report = judge_state(world, 3)
    assert outcome(report) == ("unknown", ["check-crashed"])
    assert "RuntimeError: a defect of ours" in report.findings[0].message


def test_an_outlook_that_crashes_is_unknown_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def crashing(*_: object) -> None:
        raise ZeroDivisionError("no steps")

    monkeypatch.setattr(verdict, "make_forecast", crashing)
    report = Auditor(world.outputs).audit_run(world.run_name).checkpoints[0]

    assert report.verdict is Verdict.UNKNOWN
    assert report.forecast is None
    assert found(report, "check-crashed").evidence == "ZeroDivisionError: no steps"


def test_what_a_crashing_check_had_found_before_counts() -> None:
    def half() -> Iterator[Finding]:
        yield from guarded(lambda: iter(()))
        yield verdict.finding("state-empty")
        raise KeyError("x")

    assert [each.code for each in guarded(half)] == ["state-empty", "check-crashed"]


def test_the_user_s_layout_is_for_every_state(world: World) -> None:
    run = Auditor(world.outputs, Layout.ACCELERATE_OBJECTS).audit_run(world.run_name)
    assert {item.facts.layout for item in run.checkpoints} == {Layout.ACCELERATE_OBJECTS}
    assert {item.facts.layout_source for item in run.checkpoints} == {"chosen by you"}


def test_an_audit_writes_nothing(world: World) -> None:
    def stamps() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in [world.root, *world.root.rglob("*")]}

    before = stamps()
    Auditor(world.outputs).verify(world.run_name, world.latest.name)
    assert stamps() == before


def test_the_report_says_when_it_was_made(world: World) -> None:
    assert Auditor(world.outputs, clock=lambda: 123).audit().made_ns == 123
    assert abs(audit_outputs(world.outputs).made_ns - time.time_ns()) < MINUTE


def test_reading_needs_no_writable_folder(world: World) -> None:
    with times_kept(world.latest):
        world.latest.chmod(0o555)
    assert outcome(judge_state(world)) == ("ready", [])


# Several at once


def test_a_run_that_is_read_slowly_holds_no_other_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(world.run, world.outputs / "other")
    inside, go_on = threading.Event(), threading.Event()
    real = inspection.readers.read_optimizer

    def slow(path: Path) -> object:
        if path.parent == world.latest:
            inside.set()
            assert go_on.wait(30)
        return real(path)

    monkeypatch.setattr(inspection.readers, "read_optimizer", slow)
    auditor = Auditor(world.outputs)
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(auditor.audit_run, world.run_name)
        assert inside.wait(30)
        assert len(auditor.audit_run("other").checkpoints) == 4
        assert not reading.done()
        go_on.set()
        assert len(reading.result(30).checkpoints) == 4


def test_two_that_read_a_run_for_the_first_time_get_the_same_judgement(world: World) -> None:
    auditor = Auditor(world.outputs)
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(auditor.audit_run, [world.run_name] * 16))
    for run in runs:
        assert all(mine is theirs for mine, theirs in zip(run.checkpoints, runs[0].checkpoints, strict=True))


def test_an_environment_that_is_asked_for_holds_nobody_up(world: World) -> None:
    inside, go_on, first = threading.Event(), threading.Event(), threading.Lock()

    def asked() -> Environment:
        if first.acquire(blocking=False):
            inside.set()
            assert go_on.wait(30)
        return environment()

    auditor = Auditor(world.outputs, environment=asked)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(auditor.audit)
        assert inside.wait(30)
        assert len(auditor.audit_run(world.run_name).checkpoints) == 4
        assert not waiting.done()
        go_on.set()
        assert len(waiting.result(30).runs) == 1


def test_a_rehearsal_holds_nobody_up(world: World) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def trial(*_: object) -> RehearsalOutcome:
        inside.set()
        assert go_on.wait(30)
        return RehearsalOutcome(RehearsalStatus.LOADED)

    auditor = Auditor(world.outputs, environment=environment)
    with ThreadPoolExecutor() as pool:
        trying = pool.submit(auditor.rehearse, world.run_name, world.latest.name, trial)
        assert inside.wait(30)
        assert auditor.audit_run(world.run_name).checkpoint(world.latest.name).rehearsal is None
        assert not trying.done()
        go_on.set()
        assert trying.result(30).rehearsal is not None


def test_a_run_that_may_not_be_entered_hides_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that a container made as root, say; for root himself nothing is closed, so the system's answer is made."""
    closed = world.outputs / "closed"
    closed.mkdir()
    real = os.stat

    def refusing(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(f"{closed}{os.sep}"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", refusing)
    runs = {run.name: run for run in Auditor(world.outputs).audit().runs}
    assert runs[world.run_name].checkpoints
    assert runs["closed"].facts.script is None
