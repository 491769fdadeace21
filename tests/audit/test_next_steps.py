from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.next_steps import next_steps
from tests.damage import edit_train_state, remove, truncate
from tests.world import World


def steps_of(world: World) -> tuple[str, ...]:
    return next_steps(Auditor(world.outputs).audit_run(world.run_name))


def test_the_newest_that_is_ready_is_all_there_is_to_say(world: World) -> None:
    assert steps_of(world) == ("Resume from Epoch 4 (persian-cat-000004-state): it will resume as it is.",)


def test_a_damaged_one_is_passed_over(world: World) -> None:
    truncate(world.latest / "optimizer.bin")

    assert steps_of(world) == ("Resume from Epoch 3 (persian-cat-000003-state): it will resume as it is.",)


def test_a_newer_one_that_can_be_mended_comes_first(world: World) -> None:
    remove(world.latest / "train_state.json")
    repair_plan, older = steps_of(world)

    assert repair_plan.startswith("To go on from Epoch 4 (persian-cat-000004-state): Add --initial_epoch 5 ")
    assert repair_plan.endswith("Why: train_state.json is missing.")
    assert older == "Or resume from Epoch 3 (persian-cat-000003-state): it will resume as it is."


def test_every_cure_is_named_once(real_runs: Path) -> None:
    repair_plan = next_steps(Auditor(real_runs).audit_run("resumed-once"))[0]

    assert repair_plan.count("--initial_epoch 7") == 1
    assert "--max_train_epochs above 6" in repair_plan


def test_with_nothing_left_to_resume_the_lora_file_is_named(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        truncate(world.state(epoch) / "optimizer.bin")
    nothing, warm = steps_of(world)

    assert nothing == "No checkpoint resumes, and no cure is known that keeps the training state."
    assert warm.startswith(
        "Start from the LoRA file persian-cat-000004.safetensors instead: --network_weights"
    )
    assert "--initial_epoch 5" in warm


def test_without_lora_files_there_is_no_warm_start(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        truncate(world.state(epoch) / "optimizer.bin")
        world.lora(epoch).unlink()

    assert len(steps_of(world)) == 1


def test_what_a_run_without_checkpoints_lacks_is_said(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        shutil.rmtree(world.state(epoch))
    world.edit_script(lambda text: text.replace(" \\\n  --save_state", ""))

    assert any("Set --save_state" in step for step in steps_of(world))


def test_a_run_that_waits_for_its_first_checkpoint_says_what_to_do(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        shutil.rmtree(world.state(epoch))

    assert steps_of(world) == ("Start the training, or wait for the first save.",)


def test_a_save_that_is_going_on_is_waited_for(world: World) -> None:
    remove(world.latest / "random_states_0.pkl")
    remove(world.latest / "scheduler.bin")
    saved = max(entry.stat().st_mtime_ns for entry in world.latest.iterdir())
    run = Auditor(world.outputs, clock=lambda: saved + 1).audit_run(world.run_name)

    assert next_steps(run)[0].startswith("The latest checkpoint is being saved.")


@pytest.mark.parametrize("step", [3, 8])
def test_a_relative_position_is_mended_first(world: World, step: int) -> None:
    edit_train_state(world.latest, current_step=step)

    assert "To go on from Epoch 4" in steps_of(world)[0]
