from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.findings import Verdict
from checkpoint_core.audit.manifest import make_manifest, write_manifest
from checkpoint_core.audit.reports import CheckpointReport
from checkpoint_core.audit.single_state import ScriptUnusable, audit_state
from checkpoint_core.environment.facts import Environment
from checkpoint_core.environment.rehearsal.outcome import RehearsalOutcome, RehearsalStatus
from checkpoint_core.report.json_schema import check_json
from checkpoint_core.states.facts import StateFacts
from checkpoint_core.states.layout import Layout
from checkpoint_core.states.verification import VerificationCancelled
from tests.damage import (
    HOSTILE_PICKLES,
    add_custom_checkpoint,
    add_leftovers,
    add_process,
    drop_rng_step,
    edit_train_state,
    empty,
    flip_tensor_byte,
    interrupt_overwrite,
    interrupt_save,
    make_schedule_free,
    nan_in_weights,
    put_pickle,
    remove,
    rewrite_torch_zip,
    truncate,
)
from tests.environments import environment
from tests.judging import scanned
from tests.world import World


def codes(report: CheckpointReport) -> list[str]:
    return [found.code for found in report.findings]


def test_a_state_alone_is_judged_as_in_its_run(world: World) -> None:
    truncate(world.state(3) / "optimizer.bin")
    now = time.time_ns()
    in_run = Auditor(world.outputs, clock=lambda: now).audit_run(world.run_name)

    for epoch in (1, 2, 3, 4):
        assert audit_state(world.state(epoch), clock=lambda: now) == in_run.checkpoint(
            world.state(epoch).name
        )


NOW_NS = time.time_ns()


def assert_alone_as_in_its_run(
    outputs: Path, deep: bool, there: Environment, layout: Layout | None = None
) -> None:
    """Each state of an outputs folder: what `check --json` says is what `scan --json` says, in every field."""
    auditor = Auditor(outputs, layout, lambda: NOW_NS, lambda: there)
    if deep:
        for run in auditor.audit().runs:
            for checkpoint in run.checkpoints:
                auditor.verify(run.name, checkpoint.name)
    scan = scanned(auditor)
    assert scan["checkpoints"]
    for told in scan["checkpoints"]:
        alone = audit_state(told["path"], layout=layout, deep=deep, clock=lambda: NOW_NS, environment=there)
        checked = check_json(alone)
        assert {key: checked[key] for key in told} == told
        assert (alone.facts.deep is not None) is deep


@pytest.fixture
def free_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests write meanwhile must not change what is said of the disk."""
    usage = shutil.disk_usage(Path.cwd())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


@pytest.mark.usefixtures("free_space")
@pytest.mark.parametrize("there", [None, environment(), environment(accelerate="0.33.0")])
@pytest.mark.parametrize("deep", [False, True])
def test_real_states_alone_are_judged_as_in_their_runs(
    real_runs: Path, deep: bool, there: Environment
) -> None:
    assert_alone_as_in_its_run(real_runs, deep, there)


@pytest.mark.usefixtures("free_space")
@pytest.mark.parametrize("deep", [False, True])
def test_sample_states_alone_are_judged_as_in_their_runs(sample_template: Path, deep: bool) -> None:
    assert_alone_as_in_its_run(sample_template / "outputs", deep, environment())


def later(path: Path, seconds: int) -> None:
    os.utime(path, ns=(path.stat().st_mtime_ns + seconds * 10**9,) * 2)


def without_loras(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        world.lora(epoch).unlink()


def with_two_lengths_of_an_epoch(world: World) -> None:
    """Epoch 5 of a resumed launch, whose siblings were saved by two trainings of other lengths; no LoRA files."""
    without_loras(world)
    for epoch, steps in ((1, 10), (2, 24)):
        edit_train_state(world.state(epoch), current_step=steps)
        rewrite_torch_zip(
            world.state(epoch) / "scheduler.bin", lambda saved, steps=steps: {**saved, "last_epoch": steps}
        )
    later(world.state(1) / "random_states_0.pkl", 60)
    shutil.rmtree(world.state(3))
    edit_train_state(world.latest, current_epoch=5, current_step=3)


DAMAGES: dict[str, Callable[[World], object]] = {
    "whole": lambda _: None,
    "no-script": lambda world: world.script.unlink(),
    "no-loras": without_loras,
    "two-lengths": with_two_lengths_of_an_epoch,
    "one-lora-longer": lambda world: (without_loras(world), edit_train_state(world.latest, current_step=8)),
    "relative": lambda world: edit_train_state(world.latest, current_step=8),
    "truncated": lambda world: truncate(world.latest / "optimizer.bin"),
    "empty": lambda world: empty(world.latest / "scheduler.bin"),
    "lost": lambda world: remove(world.latest / "train_state.json"),
    "interrupted": lambda world: interrupt_save(world.latest, 2, 0.5),
    "mixed": lambda world: interrupt_overwrite(world.state(3), world.latest, 2),
    "flipped": lambda world: flip_tensor_byte(world.latest / "model.safetensors", offset=3),
    "nan": lambda world: nan_in_weights(world.latest / "model.safetensors"),
    "no-rng-step": lambda world: drop_rng_step(world.latest),
    "schedule-free": lambda world: make_schedule_free(world.latest),
    "custom": lambda world: add_custom_checkpoint(world.latest),
    "process": lambda world: add_process(world.latest),
    "leftovers": lambda world: add_leftovers(world.latest),
    "hostile": lambda world: put_pickle(world.latest / "optimizer.bin", HOSTILE_PICKLES["os-system"]),
    "nested": lambda world: shutil.copytree(world.latest, world.run / "checkpoints" / "checkpoint_0"),
    "last": lambda world: world.latest.rename(world.run / f"{world.run_name}-state"),
    "manifest": lambda world: (
        write_manifest(world.run, make_manifest(audit_state(world.latest))),
        flip_tensor_byte(world.latest / "model.safetensors", offset=3),
    ),
    "longer-dataset": lambda world: shutil.copy2(
        next((world.root / "datasets").rglob("*.png")), world.root / "datasets" / world.run_name / "more.png"
    ),
}


@pytest.mark.usefixtures("free_space")
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_states_alone_are_judged_as_in_their_runs(world: World, damage: str) -> None:
    DAMAGES[damage](world)
    assert_alone_as_in_its_run(world.outputs, False, None)
    assert_alone_as_in_its_run(world.outputs, True, environment())
    assert_alone_as_in_its_run(world.outputs, False, None, Layout.ACCELERATE_OBJECTS)


def test_siblings_of_two_lengths_give_one_step(world: World) -> None:
    """Scan took the first sibling's length, check the one's that stands furthest on: step 50 against 60."""
    with_two_lengths_of_an_epoch(world)
    in_run = Auditor(world.outputs).audit_run(world.run_name).checkpoint(world.latest.name)
    assert in_run.position.step == audit_state(world.latest).position.step == 50


def test_a_state_that_changes_while_it_is_read_does_not_pass_for_verified(world: World) -> None:
    def touched(done: int, total: int) -> None:
        if done == total:
            os.utime(world.latest / "optimizer.bin", ns=(1, 1))

    report = audit_state(world.latest, deep=True, progress=touched)
    assert (report.verdict, codes(report)) == (Verdict.SAVING, ["save-in-progress"])


def test_a_state_that_changes_while_it_is_rehearsed_is_told(world: World) -> None:
    def changing(facts: StateFacts, _: Environment) -> RehearsalOutcome:
        os.utime(facts.path / "optimizer.bin", ns=(1, 1))
        return RehearsalOutcome(RehearsalStatus.CHANGED)

    assert "rehearsal-not-finished" in codes(
        audit_state(world.latest, environment=environment(), rehearse=changing)
    )


def test_a_hidden_folder_s_states_tell_each_other_the_length_of_an_epoch(world: World) -> None:
    hidden = world.run.rename(world.outputs / ".kept")
    for epoch in (1, 2, 3, 4):
        (hidden / world.lora(epoch).name).unlink()
    edit_train_state(hidden / world.latest.name, current_step=8)

    assert audit_state(hidden / world.latest.name).position.steps_per_epoch == 8


def test_a_relative_path_is_understood(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.run)

    assert audit_state(world.latest.name).verdict is Verdict.READY


def test_another_script_decides_when_it_is_given(world: World, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.sh"
    elsewhere.write_text(world.script.read_text().replace("--max_train_epochs 8", "--max_train_epochs 4"))

    assert codes(audit_state(world.latest, elsewhere))[0] == "run-finished"
    assert audit_state(world.latest).verdict is Verdict.READY


def test_another_scripts_trainer_decides_the_layout(world: World, tmp_path: Path) -> None:
    elsewhere = tmp_path / "train.sh"
    elsewhere.write_text("accelerate launch my_trainer.py --output_dir x\n")
    report = audit_state(world.latest, elsewhere)

    assert report.facts.layout is Layout.ACCELERATE_OBJECTS
    assert "custom-object-missing" in codes(report)


def test_a_layout_that_is_chosen_is_used(world: World) -> None:
    report = audit_state(world.latest, layout=Layout.ACCELERATE_OBJECTS)

    assert report.facts.layout_source == "chosen by you"
    assert "custom-object-missing" in codes(report)


@pytest.mark.parametrize("text", [None, "echo nothing is trained here\n"])
def test_a_given_script_that_cannot_be_used_is_refused(
    world: World, tmp_path: Path, text: str | None
) -> None:
    script = tmp_path / "other.sh"
    if text is not None:
        script.write_text(text)

    with pytest.raises(ScriptUnusable, match=r"other\.sh"):
        audit_state(world.latest, script)


def test_every_byte_is_read_when_asked(world: World) -> None:
    flip_tensor_byte(world.latest / "model.safetensors", offset=3)
    seen: list[tuple[int, int]] = []

    assert audit_state(world.latest).verdict is Verdict.READY
    assert audit_state(world.latest, deep=True, progress=lambda *n: seen.append(n)).verdict is Verdict.DAMAGED
    assert seen == sorted(seen)
    assert 0 < seen[-1][0] <= seen[-1][1]


def test_reading_every_byte_can_be_cancelled(world: World) -> None:
    with pytest.raises(VerificationCancelled):
        audit_state(world.latest, deep=True, cancelled=lambda: True)


def test_a_state_that_is_being_written_is_told_by_the_clock(world: World) -> None:
    (world.latest / "random_states_0.pkl").unlink()
    (world.latest / "scheduler.bin").unlink()
    (world.latest / "optimizer.bin").unlink()
    saved = max(entry.stat().st_mtime_ns for entry in world.latest.iterdir())

    assert audit_state(world.latest, clock=lambda: saved + 1_000_000_000).verdict is Verdict.SAVING
    assert audit_state(world.latest, clock=lambda: saved + 3_600_000_000_000).verdict is Verdict.DAMAGED


def test_a_copy_in_a_hidden_folder_is_judged_all_the_same(world: World, tmp_path: Path) -> None:
    copy = tmp_path / ".kept" / "my copy"
    shutil.copytree(world.latest, copy)
    report = audit_state(copy)

    assert report.run == ".kept"
    assert report.position.epoch == 4
    assert report.verdict.resumes


def test_accelerates_automatic_naming_belongs_to_the_run_above(world: World) -> None:
    inner = world.run / "checkpoints" / "checkpoint_0"
    inner.parent.mkdir()
    world.latest.rename(inner)

    assert audit_state(inner).run == world.run_name


def mistake(report: CheckpointReport) -> tuple[str, str]:
    (found,) = report.findings
    assert report.verdict is Verdict.DAMAGED
    return found.code, found.cure


def test_a_lora_file_is_told_with_the_state_of_the_same_save(world: World) -> None:
    code, cure = mistake(audit_state(world.lora(3)))

    assert code == "path-lora-file"
    assert cure.endswith(f" It is {world.state(3)}.")


def test_a_lora_file_without_a_state_leads_to_the_good_states(world: World) -> None:
    shutil.rmtree(world.state(3))
    code, cure = mistake(audit_state(world.lora(3)))

    assert code == "path-lora-file"
    assert f"resume: {world.state(4).name}, {world.state(2).name}" in cure


def test_a_runs_folder_is_told_with_its_good_states(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    report = audit_state(world.run)
    code, cure = mistake(report)

    assert code == "path-run-folder"
    assert report.run == world.run_name
    assert world.state(3).name in cure
    assert world.state(4).name not in cure


def test_a_run_with_no_good_state_says_so(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        truncate(world.state(epoch) / "optimizer.bin")

    assert "None of the states in" in mistake(audit_state(world.run))[1]


def test_a_missing_path_leads_to_the_good_states_beside_it(world: World) -> None:
    code, cure = mistake(audit_state(world.run / "persian-cat-000009-state"))

    assert code == "path-missing"
    assert world.latest.name in cure


def test_a_file_of_a_state_leads_to_its_directory(world: World) -> None:
    for name in ("optimizer.bin", "model.safetensors"):
        code, cure = mistake(audit_state(world.latest / name))
        assert code == "path-not-a-state"
        assert cure.endswith(f" This file lies in one: {world.latest}.")


def test_any_other_folder_is_no_state(tmp_path: Path) -> None:
    assert mistake(audit_state(tmp_path))[0] == "path-not-a-state"


def test_an_empty_state_directory_is_a_state(world: World) -> None:
    for file in list(world.latest.iterdir()):
        os.remove(file)

    assert "state-empty" in codes(audit_state(world.latest, clock=lambda: 4_000_000_000_000_000_000))


def test_a_run_that_is_called_like_a_state_is_a_run(world: World) -> None:
    renamed = world.run.rename(world.outputs / "my-state")

    assert mistake(audit_state(renamed))[0] == "path-run-folder"
