"""What to do next: the recovery plan's order in sentences, never another one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.recovery.next_steps import next_steps
from checkpoint_core.recovery.options import OptionKind, RecoveryPlan
from checkpoint_core.recovery.planning import plan_recovery
from tests.damage import edit_train_state, remove, truncate
from tests.environments import environment
from tests.world import World


def planned(auditor: Auditor, name: str) -> tuple[RunReport, RecoveryPlan]:
    run = auditor.audit_run(name)
    return run, plan_recovery(auditor, run)


def steps_of(world: World) -> tuple[str, ...]:
    return next_steps(*planned(Auditor(world.outputs), world.run_name))


def test_the_newest_that_is_ready_is_all_there_is_to_say(world: World) -> None:
    assert steps_of(world) == ("Resume from Epoch 4 (persian-cat-000004-state): it will resume as it is.",)


def test_a_damaged_one_is_passed_over(world: World) -> None:
    truncate(world.latest / "optimizer.bin")

    assert steps_of(world) == ("Resume from Epoch 3 (persian-cat-000003-state): it will resume as it is.",)


def test_a_newer_one_that_can_be_mended_comes_first(world: World) -> None:
    remove(world.latest / "train_state.json")
    repair_plan, older = steps_of(world)

    assert repair_plan.startswith("To resume from Epoch 4 (persian-cat-000004-state): Add --initial_epoch 5 ")
    assert repair_plan.endswith("Why: train_state.json is missing.")
    assert older == "Or resume from Epoch 3 (persian-cat-000003-state): it will resume as it is."


def test_every_cure_is_named_once(real_runs: Path) -> None:
    repair_plan = next_steps(*planned(Auditor(real_runs), "resumed-once"))[0]

    assert repair_plan.count("--initial_epoch 7") == 1
    assert "--max_train_epochs above 6" in repair_plan


def test_with_nothing_left_to_resume_the_lora_file_is_named(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        truncate(world.state(epoch) / "optimizer.bin")
    (warm,) = steps_of(world)

    assert warm.startswith(
        "No checkpoint can be resumed, and no lossless fix is known. "
        "Start from the LoRA file persian-cat-000004.safetensors instead: --network_weights"
    )
    assert "--initial_epoch 5" in warm


def test_without_lora_files_there_is_no_warm_start(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        truncate(world.state(epoch) / "optimizer.bin")
        world.lora(epoch).unlink()
    (fresh,) = steps_of(world)

    assert "Start fresh instead: the training begins at epoch 1" in fresh


def test_what_a_run_without_checkpoints_lacks_is_said(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        shutil.rmtree(world.state(epoch))
    world.edit_script(lambda text: text.replace(" \\\n  --save_state", ""))

    assert any("Set --save_state" in step for step in steps_of(world))


def test_a_run_that_waits_for_its_first_checkpoint_says_what_to_do(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        shutil.rmtree(world.state(epoch))
        world.lora(epoch).unlink()

    assert steps_of(world) == ("Start the training, or wait for the first save.",)


def test_lora_files_without_checkpoints_are_gone_on_from_and_not_overwritten(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        shutil.rmtree(world.state(epoch))
    (warm,) = steps_of(world)

    assert warm.startswith(
        "There is no checkpoint to resume from. Start from the LoRA file persian-cat-000004."
    )


def test_a_save_that_is_going_on_is_waited_for(world: World) -> None:
    remove(world.latest / "random_states_0.pkl")
    remove(world.latest / "scheduler.bin")
    saved = max(entry.stat().st_mtime_ns for entry in world.latest.iterdir())
    auditor = Auditor(world.outputs, clock=lambda: saved + 1)

    wait, older = next_steps(*planned(auditor, world.run_name))
    assert wait.startswith("The latest checkpoint is being saved.")
    assert older.startswith("Resume from Epoch 3")


@pytest.mark.parametrize("step", [3, 8])
def test_a_relative_position_is_mended_first(world: World, step: int) -> None:
    edit_train_state(world.latest, current_step=step)

    assert "To resume from Epoch 4" in steps_of(world)[0]


def test_what_only_the_user_can_do_comes_before_giving_up_whole_checkpoints(world: World) -> None:
    lacking = environment(accelerate=None)
    run, recovery = planned(Auditor(world.outputs, environment=lambda: lacking), world.run_name)

    assert recovery.recommended is None
    assert recovery.headline.startswith("Epoch 4 resumes once this is done: Install it: run ")
    assert next_steps(run, recovery) == (
        f"To resume from Epoch 4 (persian-cat-000004-state): {run.checkpoints[0].findings[0].cure} Why: accelerate is "
        "not installed in the training interpreter (/gym/env/bin/python).",
    )


def test_a_checkpoint_that_resumes_comes_before_what_only_the_user_can_do(world: World) -> None:
    remove(world.script)  # a repair is carried out together with the script's change
    remove(world.latest / "train_state.json")
    first, second, script = steps_of(world)

    assert first == "Resume from Epoch 3 (persian-cat-000003-state): it will resume as it is."
    assert second.startswith("To resume from Epoch 4 (persian-cat-000004-state)")
    assert script.startswith("The run has no train script")


def _each(part: str, *epochs: int) -> Callable[[World], None]:
    def break_them(world: World) -> None:
        for epoch in epochs:
            remove(world.state(epoch) / part)

    return break_them


def _script(old: str, new: str) -> Callable[[World], None]:
    return lambda world: world.edit_script(lambda text: text.replace(old, new))


DAMAGES: dict[str, Callable[[World], None]] = {
    "none": lambda _: None,
    "no train state": _each("train_state.json", 4),
    "no schedule": _each("scheduler.bin", 3, 4),
    "no random states": _each("random_states_0.pkl", 4),
    "no optimizer": _each("optimizer.bin", 4),
    "no optimizer anywhere": _each("optimizer.bin", 1, 2, 3, 4),
    "no weights": _each("model.safetensors", 4),
    "relative step": lambda world: edit_train_state(world.latest, current_step=8),
    "other rank": _script("--network_dim 4", "--network_dim 8"),
    "finished": _script("--max_train_epochs 8", "--max_train_epochs 4"),
    "no script": lambda world: remove(world.script),
    "script not understood": lambda world: world.edit_script(lambda _: "accelerate launch $EVERYTHING\n"),
    "saves none": _script(" \\\n  --save_state", ""),
    "no script and no train state": lambda world: [
        remove(world.script),
        _each("train_state.json", 1, 2, 3, 4)(world),
    ],
}


def assert_one_recommender(run: RunReport, recovery: RecoveryPlan) -> None:
    """The first step is what the recovery plan recommends."""
    first, best = next_steps(run, recovery)[0], recovery.recommended
    if recovery.wait:
        assert "being saved" in first
    elif best is None:
        assert recovery.by_hand is not None
        assert recovery.by_hand.name in first
    elif best.checkpoint:
        assert f"({best.checkpoint})" in first or f"from {best.checkpoint}:" in first
        assert first.startswith("To resume from" if best.kind is OptionKind.REPAIR else "Resume from")
    elif best.kind is OptionKind.WARM_START:
        assert f"LoRA file {best.lora} " in first
    else:
        assert not any(item.name in first for item in run.checkpoints)
        assert "Start" in first


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("with_loras", [True, False])
def test_the_first_step_is_the_recommended_option(world: World, damage: str, with_loras: bool) -> None:
    DAMAGES[damage](world)
    for epoch in () if with_loras else (1, 2, 3, 4):
        world.lora(epoch).unlink()

    assert_one_recommender(*planned(Auditor(world.outputs), world.run_name))


def test_the_first_step_is_the_recommended_option_of_every_real_run(real_runs: Path) -> None:
    auditor = Auditor(real_runs)
    for name in auditor.run_names():
        assert_one_recommender(*planned(auditor, name))
