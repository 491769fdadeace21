"""The state against the script: from which epoch the trainer goes on, and whether anything is left to train."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.audit.checks.position import check_position
from checkpoint_core.audit.context import CheckContext
from checkpoint_core.audit.findings import Finding, Severity, Subject
from checkpoint_core.audit.reports import CheckpointReport, RunReport
from checkpoint_core.audit.verdict import judge
from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.states.facts import StateFacts
from checkpoint_core.states.layout import Layout, SavePoint, parse_state_name
from checkpoint_core.trainer.dataset_config import DatasetFacts
from checkpoint_core.trainer.launch import launch_from
from checkpoint_core.trainer.position import locate
from tests.damage import edit_train_state, empty, remove, times_kept, truncate
from tests.judging import audit_world, codes, found, judge_copy, judge_state, make_directory_of, outcome
from tests.world import STEPS_PER_EPOCH, World

EPOCH_2, MID_EPOCH_2, END_OF_2, LAST = (
    "stepped-000002-state",
    "stepped-step00000012-state",
    "stepped-step00000016-state",
    "stepped-state",
)


def with_flags(world: World, flags: str) -> None:
    """Let the world's script say so too."""
    world.edit_script(lambda text: text.rstrip("\n \\") + f" \\\n  {flags}\n")


def write_train_state(state: Path, text: str) -> None:
    with times_kept(state / "train_state.json") if (state / "train_state.json").exists() else nullcontext():
        (state / "train_state.json").write_text(text)


def judged(run: RunReport, state: str, **script: object) -> CheckpointReport:
    """A state judged anew, with other flags in the script."""
    facts = run.checkpoint(state).facts
    assert run.facts.script is not None
    return judge(facts, CheckContext(run.facts.path, replace(run.facts.script, **script), STEPS_PER_EPOCH))  # type: ignore[arg-type]


# Rows 14, 15, 29a: train_state.json


@pytest.mark.parametrize(
    ("break_it", "code", "verdict"),
    [
        (remove, "train-state-missing", "needs-fix"),
        (empty, "train-state-broken", "needs-fix"),
        (truncate, "train-state-broken", "needs-fix"),
        (lambda path: write_train_state(path.parent, "[4, 32]"), "train-state-broken", "needs-fix"),
        (lambda path: edit_train_state(path.parent, current_step="32"), "train-state-broken", "needs-fix"),
        (lambda path: edit_train_state(path.parent, current_step=-1), "train-state-broken", "needs-fix"),
        (lambda path: edit_train_state(path.parent, current_step=None), "train-state-no-step", "needs-fix"),
        (make_directory_of, "train-state-unreadable", "unknown"),
    ],
)
def test_a_broken_train_state_has_its_cure(
    world: World, break_it: Callable[[Path], None], code: str, verdict: str
) -> None:
    break_it(world.latest / "train_state.json")
    report = judge_state(world)
    assert outcome(report) == (verdict, [code])
    assert report.findings[0].file == "train_state.json"
    if verdict == "needs-fix":
        assert '{"current_epoch": 4, "current_step": 32}' in report.findings[0].cure


@pytest.mark.parametrize(
    "break_it", [remove, empty, lambda path: edit_train_state(path.parent, current_step=None)]
)
def test_the_cure_written_as_it_says_makes_the_state_ready(
    world: World, break_it: Callable[[Path], None]
) -> None:
    break_it(world.latest / "train_state.json")
    cure = judge_state(world).findings[0].cure
    write_train_state(world.latest, cure[cure.index("{") : cure.index("}") + 1])
    assert outcome(judge_state(world)) == ("ready", [])


def test_without_a_train_state_the_script_can_say_the_epoch(world: World) -> None:
    remove(world.latest / "train_state.json")
    with_flags(world, "--initial_epoch 5")
    assert outcome(judge_state(world)) == ("ready", [])


def test_the_script_cannot_help_against_a_broken_train_state(world: World) -> None:
    """The trainer's hook reads the file all the same, and stops."""
    empty(world.latest / "train_state.json")
    with_flags(world, "--initial_epoch 5")
    assert outcome(judge_state(world)) == ("needs-fix", ["train-state-broken"])


def test_without_the_epoch_in_the_train_state_the_name_tells_it(world: World) -> None:
    edit_train_state(world.latest, current_epoch=None)
    report = judge_state(world)
    assert outcome(report) == ("ready", [])
    assert report.position.epoch == 4


# Row 29: the second resume


def test_relative_steps_need_the_script_or_the_edit_and_either_is_enough(world: World) -> None:
    edit_train_state(world.latest, current_step=16)
    report = judge_state(world)
    assert outcome(report) == ("needs-fix", ["position-relative"])
    assert "continues at epoch 3 instead of 5" in report.findings[0].effect
    with_flags(world, "--initial_epoch 5")
    assert outcome(judge_state(world)) == ("ready", [])
    world.edit_script(lambda text: text.replace("--initial_epoch 5", ""))
    edit_train_state(world.latest, current_step=32)
    assert outcome(judge_state(world)) == ("ready", [])


@pytest.mark.parametrize(
    ("flag", "starts"),
    [("--initial_epoch 3", 3), ("--initial_step 16", 3), ("--initial_epoch 6", 6), ("--initial_epoch 1", 1)],
)
def test_a_script_that_names_another_epoch(world: World, flag: str, starts: int) -> None:
    with_flags(world, flag)
    report = judge_state(world)
    assert outcome(report) == ("needs-fix", ["script-initial-epoch"])
    assert f"continues at epoch {starts}" in report.findings[0].effect
    assert flag in report.findings[0].message
    assert "Set --initial_epoch 5" in report.findings[0].cure


@pytest.mark.parametrize("flag", ["--initial_epoch 5", "--initial_epoch=5", "--initial_step 32"])
def test_a_script_that_names_the_right_epoch(world: World, flag: str) -> None:
    with_flags(world, flag)
    assert outcome(judge_state(world)) == ("ready", [])


def test_the_step_outweighs_the_epoch_in_the_script(world: World) -> None:
    with_flags(world, "--initial_epoch 2 --initial_step 32")
    assert outcome(judge_state(world)) == ("ready", [])


def test_skipping_changes_nothing_about_a_relative_state(world: World) -> None:
    edit_train_state(world.latest, current_step=16)
    with_flags(world, "--skip_until_initial_step")
    assert codes(judge_state(world)) == ["position-relative"]


def test_every_state_of_a_real_resumed_run_is_seen_through(resumed: RunReport) -> None:
    relative = {item.name for item in resumed.checkpoints if "position-relative" in codes(item)}
    assert relative == {
        "stepped-state",
        "stepped-000002-state",
        *(f"stepped-step{step:08d}-state" for step in (4, 8, 12, 16)),
    }


@pytest.mark.parametrize(
    ("state", "epoch", "step", "next_epoch"),
    [
        ("stepped-step00000004-state", 2, 12, 2),
        ("stepped-step00000008-state", 2, 16, 3),
        ("stepped-step00000012-state", 3, 20, 3),
        ("stepped-000002-state", 2, 16, 3),
        ("stepped-state", 3, 24, 4),
    ],
)
def test_the_true_position_behind_relative_steps(
    resumed: RunReport, state: str, epoch: int, step: int, next_epoch: int
) -> None:
    position = resumed.checkpoint(state).position
    assert (position.epoch, position.step, position.next_epoch) == (epoch, step, next_epoch)
    assert not {"position-relative", "script-initial-epoch"} & {
        *codes(judged(resumed, state, initial_epoch=next_epoch))
    }


# Row 28: nothing left to train


@pytest.mark.parametrize(("epochs", "finished"), [(3, True), (4, True), (5, False)])
def test_a_run_whose_epochs_are_done(world: World, epochs: int, finished: bool) -> None:
    world.edit_script(lambda text: text.replace("--max_train_epochs 8", f"--max_train_epochs {epochs}"))
    report = judge_state(world)
    assert codes(report) == ["run-finished"] * finished
    if finished:
        assert f"epoch 4 of {epochs} is done" in report.findings[0].message
        assert "above 4" in report.findings[0].cure


@pytest.mark.parametrize(
    ("steps", "finished"), [(24, True), (32, True), (33, False), (40, False), (None, False)]
)
def test_a_run_that_is_limited_by_steps(world: World, steps: int | None, finished: bool) -> None:
    flag = f"--max_train_steps {steps}" if steps else ""
    world.edit_script(lambda text: text.replace("--max_train_epochs 8", flag))
    assert codes(judge_state(world)) == ["run-finished"] * finished


def test_the_trainer_s_own_limit_counts_when_the_script_has_none(stepped: RunReport) -> None:
    facts = stepped.checkpoint(EPOCH_2).facts
    script = replace(stepped.facts.script, max_train_epochs=None)  # type: ignore[type-var]
    # Under a cosine of 1,600 steps, that is.
    report = judge(facts, CheckContext(stepped.facts.path, script, STEPS_PER_EPOCH))
    assert codes(report) == ["learning-rate-jumps"]
    late = replace(script, max_train_steps=12)  # type: ignore[type-var]
    assert codes(judge(facts, CheckContext(stepped.facts.path, late, STEPS_PER_EPOCH))) == ["run-finished"]


def test_the_last_epoch_cut_short_by_the_steps_is_finished(stepped: RunReport) -> None:
    limited = judged(stepped, "stepped-step00000020-state", max_train_epochs=None, max_train_steps=20)
    assert "run-finished" in codes(limited)
    longer = judged(stepped, "stepped-step00000020-state", max_train_epochs=None, max_train_steps=21)
    assert codes(longer) == ["mid-epoch", "learning-rate-jumps"]


def test_a_finished_run_that_had_been_resumed_is_told_as_both(resumed: RunReport) -> None:
    """Row 28a: the trainer's assertion passes, and it trains the last epochs again."""
    assert codes(resumed.checkpoint(LAST))[:2] == ["position-relative", "run-finished"]
    # The resumed launch had a constant rate, the script says cosine.
    told = codes(judged(resumed, LAST, max_train_epochs=5, initial_epoch=4))
    assert told == ["learning-rate-jumps"]


# States inside an epoch


def test_a_state_inside_an_epoch_repeats_its_beginning(stepped: RunReport) -> None:
    report = stepped.checkpoint(MID_EPOCH_2)
    assert outcome(report) == ("ready-with-warnings", ["mid-epoch"])
    assert "4 steps are trained a second time" in report.findings[0].effect
    assert report.position.next_epoch == 2


def test_a_step_s_state_at_the_end_of_an_epoch_repeats_nothing(stepped: RunReport) -> None:
    assert outcome(stepped.checkpoint(END_OF_2)) == ("ready", [])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"skip_until_initial_step": True}, []),
        ({"skip_until_initial_step": True, "initial_step": 12}, []),
        ({"skip_until_initial_step": True, "initial_step": 10}, ["mid-epoch"]),
        ({"skip_until_initial_step": True, "initial_epoch": 2}, ["mid-epoch"]),
        ({"initial_epoch": 2}, ["mid-epoch"]),
        ({"initial_epoch": 3}, ["script-initial-epoch", "mid-epoch"]),
    ],
)
def test_what_skipping_spares(stepped: RunReport, flags: dict[str, object], told: list[str]) -> None:
    assert codes(judged(stepped, MID_EPOCH_2, **flags)) == told


# Names


def test_a_renamed_copy_goes_on_where_its_files_stand(world: World) -> None:
    renamed = world.run / f"{world.run_name}-000007-state"
    world.latest.rename(renamed)
    report = audit_world(world).checkpoint(renamed.name)
    assert outcome(report) == ("ready-with-warnings", ["name-differs"])
    assert "name says epoch 7, the files in it say epoch 4" in report.findings[0].message


def test_an_edited_train_state_under_an_honest_name_is_not_called_ready(world: World) -> None:
    edit_train_state(world.latest, current_epoch=2, current_step=16)
    assert outcome(judge_state(world)) == ("unknown", ["position-unknown"])


def test_a_copy_with_a_free_name_goes_on_too(world: World) -> None:
    copy = world.run / "the good one"
    shutil.copytree(world.latest, copy)
    report = audit_world(world).checkpoint("the good one")
    assert outcome(report) == ("ready", [])
    assert (report.facts.name.save_point, report.position.epoch) == (SavePoint.OTHER, 4)


def test_an_output_name_that_ends_like_an_epoch(stepped: RunReport) -> None:
    facts = stepped.checkpoint(LAST).facts
    script = replace(stepped.facts.script, output_name="cat-000123", max_train_epochs=9)  # type: ignore[type-var]
    last = replace(facts, name=parse_state_name("cat-000123-state", "cat-000123"))
    report = judge(last, CheckContext(stepped.facts.path, script, STEPS_PER_EPOCH))
    assert report.position.epoch == 3
    assert "run-finished" not in codes(report)


# What cannot be told is never fine


def bare(facts: StateFacts, **changes: object) -> StateFacts:
    """A state of a run without LoRA files, after a resume: its two counts differ."""
    return replace(facts, lora=None, **changes)  # type: ignore[arg-type]


def test_without_lora_files_equal_counts_tell_that_no_resume_came_before(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        remove(world.lora(epoch))
    assert [item.verdict.value for item in audit_world(world).checkpoints] == ["ready"] * 4


def test_a_sibling_that_was_never_resumed_tells_the_steps_of_an_epoch(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        remove(world.lora(epoch))
    edit_train_state(world.latest, current_step=16)
    assert outcome(judge_state(world)) == ("needs-fix", ["position-relative"])


def test_nothing_that_tells_the_steps_of_an_epoch(resumed: RunReport) -> None:
    facts = bare(resumed.checkpoint(EPOCH_2).facts)
    report = judge(facts, CheckContext(resumed.facts.path, resumed.facts.script))
    assert outcome(report) == ("unknown", ["position-unknown"])
    assert "counts 8 steps, scheduler.bin 16" in report.findings[0].message


def test_a_script_s_step_without_the_steps_of_an_epoch(resumed: RunReport) -> None:
    script = replace(resumed.facts.script, initial_step=16)  # type: ignore[type-var]
    report = judge(bare(resumed.checkpoint(EPOCH_2).facts), CheckContext(resumed.facts.path, script))
    assert outcome(report) == ("unknown", ["position-unknown"])


def test_neither_name_nor_files_tell_the_epoch(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.latest, tmp_path / "outputs" / "lone-run" / "checkpoint_0")
    edit_train_state(tmp_path / "outputs" / "lone-run" / "checkpoint_0", current_epoch=None)
    report = judge_copy(tmp_path / "outputs" / "lone-run" / "checkpoint_0", tmp_path)
    assert outcome(report) == ("unknown", ["position-unknown"])
    assert "neither the name nor the files tell the epoch" in report.findings[0].message


def test_a_state_without_a_script_is_judged_by_itself(world: World, tmp_path: Path) -> None:
    assert outcome(judge_copy(world.latest, tmp_path)) == ("ready", [])


@pytest.mark.parametrize(
    "flags",
    [
        '--initial_epoch "$START"',
        '--initial_step="$START"',
        '--max_train_epochs "$EPOCHS"',
        "--initial_epoch $(cat next)",
        "$EXTRA",
        '"${EXTRA[@]}"',
        "--initial_epoch five",
        "--initial_epoch",
    ],
)
def test_a_script_whose_numbers_are_not_known_leaves_the_position_open(world: World, flags: str) -> None:
    with_flags(world, flags)
    report = judge_state(world)
    assert outcome(report) == ("unknown", ["position-unknown"])


def test_the_reason_names_the_flag_and_the_line(world: World) -> None:
    with_flags(world, '--initial_epoch "$START"')
    line = 1 + world.script.read_text().splitlines().index('  --initial_epoch "$START"')
    assert f"the value of --initial_epoch in line {line} is decided only when the script runs" in (
        found(judge_state(world), "position-unknown").message
    )


@pytest.mark.parametrize(
    "flags",
    [
        '--resume "$STATE"',
        '--output_dir "$OUT"',
        '--max_train_steps "$N"',
        '--initial_epoch "$E" --initial_step 32',
    ],
)
def test_an_unknown_value_that_decides_nothing_here_changes_nothing(world: World, flags: str) -> None:
    with_flags(world, flags)
    assert outcome(judge_state(world)) == ("ready", [])


def test_the_second_layout_has_no_position_to_judge(stepped: RunReport) -> None:
    facts = replace(stepped.checkpoint(EPOCH_2).facts, layout=Layout.ACCELERATE_OBJECTS)
    script = ScriptFacts("train.sh", "t.py", Layout.ACCELERATE_OBJECTS)
    report = judge(facts, CheckContext(stepped.facts.path, script))
    assert not [
        code for code in codes(report) if code.startswith(("position", "train-state", "run-finished"))
    ]


def test_what_the_train_state_holds_is_what_the_trainer_wrote(world: World) -> None:
    assert json.loads((world.latest / "train_state.json").read_text())["current_step"] == 4 * STEPS_PER_EPOCH


def test_a_save_killed_after_its_first_file_is_not_taken_for_an_edit(world: World) -> None:
    """A last state of epoch 4, over which epoch 6 was about to be saved."""
    last = world.state(4).rename(world.run / f"{world.run_name}-state")
    (last / "train_state.json").write_text('{"current_epoch": 6, "current_step": 48}')

    report = audit_world(world).checkpoint(last.name)

    assert outcome(report) == ("needs-fix", ["counts-disagree"])
    assert "writes train_state.json back to step 32" in found(report, "counts-disagree").cure


def test_a_count_that_its_time_does_not_explain_is_no_fix(world: World) -> None:
    """The same numbers, but the file is as old as the others: it may be the optimizer that is of another save."""
    last = world.state(4).rename(world.run / f"{world.run_name}-state")
    with times_kept(last / "train_state.json"):
        (last / "train_state.json").write_text('{"current_epoch": 6, "current_step": 48}')

    assert outcome(audit_world(world).checkpoint(last.name)) == ("unknown", ["counts-disagree"])


def test_a_scheduler_that_counted_repeated_epochs_is_no_contradiction(resumed: RunReport) -> None:
    assert any(
        (report.position.lifetime_step or 0) > (report.position.current_step or 0)
        for report in resumed.checkpoints
    )
    assert not any("counts-disagree" in codes(report) for report in resumed.checkpoints)


# Row 35: the dataset is another one than when the state was saved


def on_dataset(
    run: RunReport, state: str, batches: tuple[int, int] | None, **script: object
) -> list[Finding]:
    """What is found of a state when its images now make that many batches; information left out."""
    facts = run.checkpoint(state).facts
    flags = replace(run.facts.script, **script)  # type: ignore[type-var]
    position = locate(facts, flags, STEPS_PER_EPOCH)
    dataset = DatasetFacts("dataset.toml", batches, None if batches else "it is not known")
    told = check_position(facts, launch_from(position, flags, dataset), dataset)
    return [each for each in told if each.severity is not Severity.INFO]


@pytest.mark.parametrize(
    ("batches", "script", "expected"),
    [
        ((8, 8), {}, []),
        ((6, 10), {}, []),
        (None, {}, []),
        ((12, 12), {}, ["dataset-changed"]),
        ((4, 4), {"max_train_epochs": 9}, ["dataset-changed"]),
        ((9, 12), {}, ["dataset-changed"]),
        ((7, 7), {}, ["epoch-length-changed"]),
        ((6, 7), {}, ["epoch-length-changed"]),
        ((12, 12), {"initial_epoch": 3}, ["epoch-length-changed"]),
        ((12, 12), {"initial_epoch": 2}, ["script-initial-epoch"]),
        ((8, 8), {"initial_epoch": 2}, ["script-initial-epoch"]),
        ((12, 12), {"initial_step": 16}, ["dataset-changed"]),
        ((12, 12), {"initial_step": 24}, ["epoch-length-changed"]),
        ((12, 12), {"unknown": (("--initial_epoch", "a variable"),)}, ["position-unknown"]),
    ],
)
def test_other_images_may_lead_to_another_epoch(
    stepped: RunReport, batches: tuple[int, int] | None, script: dict[str, object], expected: list[str]
) -> None:
    assert [each.code for each in on_dataset(stepped, EPOCH_2, batches, **script)] == expected


def test_the_finding_names_both_lengths_both_epochs_and_the_cure(stepped: RunReport) -> None:
    (changed,) = on_dataset(stepped, EPOCH_2, (12, 12))
    assert "An epoch had 8 steps when this checkpoint was saved, now" in changed.message
    assert changed.message.endswith("make 12.")
    assert "continues at epoch 2 instead of 3" in changed.effect
    assert changed.cure.startswith("Set --initial_epoch 3 in the train script")
    assert (changed.severity, changed.subject) == (Severity.FIXABLE, Subject.SCRIPT)
    (open_,) = on_dataset(stepped, EPOCH_2, (4, 7), max_train_epochs=9)
    assert "continues at epoch 3 to 5 instead of 3" in open_.effect
    (longer,) = on_dataset(stepped, EPOCH_2, (7, 7))
    assert (longer.severity, "now it has 7" in longer.message) == (Severity.WARNING, True)


def test_relative_steps_are_counted_with_the_present_epochs(resumed: RunReport) -> None:
    """Saved in epoch 2 with 8 relative steps: four steps an epoch would lead to the right one by accident."""
    assert [each.code for each in on_dataset(resumed, EPOCH_2, (8, 8))] == ["position-relative"]
    assert [each.code for each in on_dataset(resumed, EPOCH_2, (4, 4))] == ["epoch-length-changed"]
    (changed,) = on_dataset(resumed, EPOCH_2, (16, 16))
    assert (changed.code, "at epoch 1 instead of 3" in changed.effect) == ("dataset-changed", True)


def test_images_that_are_gone_are_a_warning(stepped: RunReport) -> None:
    facts = stepped.checkpoint(EPOCH_2).facts
    position = locate(facts, stepped.facts.script, STEPS_PER_EPOCH)
    for is_missing in (True, False):
        dataset = DatasetFacts("dataset.toml", None, "there is no /gym/datasets/cat", is_missing)
        launch = launch_from(position, stepped.facts.script, dataset)
        told = check_position(facts, launch, dataset)
        missing = [each for each in told if each.code == "dataset-missing"]
        assert len(missing) == is_missing
        for each in missing:
            assert each.message.endswith("where the script says: there is no /gym/datasets/cat.")
            assert each.severity is Severity.WARNING


def test_a_missing_train_state_is_its_own_finding_whatever_the_images(stepped: RunReport) -> None:
    facts = replace(stepped.checkpoint(EPOCH_2).facts, train_state=None)
    position = locate(facts, stepped.facts.script, STEPS_PER_EPOCH)
    dataset = DatasetFacts("d", (12, 12))
    told = check_position(facts, launch_from(position, stepped.facts.script, dataset), dataset)
    assert next(told).code == "train-state-missing"


@pytest.mark.parametrize(
    ("accumulation", "script", "expected"),
    [
        ("2", {}, ["skip-accumulation"]),
        ("1", {}, []),
        ("2", {"skip_until_initial_step": False}, []),
        ("2", {"initial_epoch": 3}, ["skip-accumulation"]),
        ("2", {"initial_epoch": 2}, []),  # 8 updates are taken for 16 batches, which is right by accident
    ],
)
def test_skipping_with_accumulation_leaves_epochs_out(
    stepped: RunReport, accumulation: str, script: dict[str, object], expected: list[str]
) -> None:
    assert stepped.facts.script is not None
    flags = {**stepped.facts.script.flags, "--gradient_accumulation_steps": (accumulation,)}
    values = {"skip_until_initial_step": True, "max_train_epochs": 9, **script}
    batches = STEPS_PER_EPOCH * int(accumulation)
    told = on_dataset(stepped, EPOCH_2, (batches, batches), flags=flags, **values)
    assert [each.code for each in told] == expected
    if expected:
        assert "continues at epoch 5 instead of 3" in told[0].effect


@pytest.mark.parametrize(
    ("step", "expected"), [(32, []), (36, ["script-initial-step"]), (39, ["script-initial-step"])]
)
def test_an_initial_step_ahead_of_the_state_leaves_steps_untrained(
    world: World, step: int, expected: list[str]
) -> None:
    with_flags(world, f"--initial_step {step} --skip_until_initial_step")
    report = judge_state(world)
    assert codes(report) == expected
    if expected:
        assert "stands at step 32" in found(report, "script-initial-step").message
