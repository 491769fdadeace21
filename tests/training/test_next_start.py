"""From where a crashed training goes on: real states, one thing broken, and what is written into the script."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.training.next_start import NextStart, NoStart, abandoned, choose_start, left_behind
from checkpoint_core.training.save_monitor import settled_auditor
from tests.damage import edit_train_state, remove, truncate
from tests.world import RUN_NAME, World


def choose(
    world: World, refused: Collection[str] = (), abandoned: Collection[str] = ()
) -> NextStart | NoStart:
    return choose_start(settled_auditor(Auditor(world.outputs)), RUN_NAME, refused, abandoned)


def name(epoch: int) -> str:
    return f"{RUN_NAME}-{epoch:06d}-state"


def test_the_newest_checkpoint_is_written_into_the_script(world: World) -> None:
    assert choose(world) == NextStart(name(4), "Resume from epoch 4. Loses: Nothing.")
    assert (
        f'--resume "{world.latest}"' in world.script.read_text()
        or str(world.latest) in world.script.read_text()
    )


def test_one_with_flipped_bits_that_only_a_full_reading_shows_is_passed_over(world: World) -> None:
    with (world.latest / "optimizer.bin").open("r+b") as file:
        file.seek(2000)
        byte = file.read(1)
        file.seek(2000)
        file.write(bytes([byte[0] ^ 255]))
    chosen = choose(world)
    assert isinstance(chosen, NextStart)
    assert chosen.checkpoint == name(3)
    assert "8 steps have to be trained again" in chosen.told


def test_one_that_learned_nan_is_passed_over(world: World) -> None:
    path = world.latest / "model.safetensors"
    times = path.stat()
    tensors = load_file(path)
    for tensor in tensors.values():
        if numpy.issubdtype(tensor.dtype, numpy.floating):
            tensor[...] = numpy.nan
    save_file(tensors, path, metadata={"format": "pt"})
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    world.lora(4).unlink()
    chosen = choose(world)
    assert isinstance(chosen, NextStart)
    assert chosen.checkpoint == name(3)


def test_what_can_be_repaired_is(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    chosen = choose(world)
    assert isinstance(chosen, NextStart)
    assert (chosen.checkpoint, chosen.told) == (name(4), "Repair epoch 4 and resume. Loses: Nothing.")
    assert (world.latest / "scheduler.bin").is_file()


def test_what_the_trainer_refused_is_not_tried_again(world: World) -> None:
    chosen = choose(world, refused={name(4), name(3)})
    assert isinstance(chosen, NextStart)
    assert chosen.checkpoint == name(2)


def behind(world: World, checkpoint: str) -> frozenset[str]:
    return left_behind(Auditor(world.outputs).audit_run(RUN_NAME), checkpoint)


def test_what_the_user_has_gone_back_behind_is_not_taken(world: World) -> None:
    left = behind(world, name(2))
    assert left == {name(3), name(4)}
    told = "Resume from epoch 2. Loses: 16 steps have to be trained again."
    assert choose(world, abandoned=left) == NextStart(name(2), told)


def test_it_stays_behind_when_the_trainer_has_removed_where_it_began(world: World) -> None:
    left = behind(world, name(2))
    shutil.rmtree(world.state(2))
    run = Auditor(world.outputs).audit_run(RUN_NAME)
    assert abandoned(run, left, time.time_ns()) == {name(3), name(4)}


def test_what_this_training_has_saved_anew_is_its_own(world: World) -> None:
    left = behind(world, name(2))
    os.utime(world.latest / "random_states_0.pkl")
    run = Auditor(world.outputs).audit_run(RUN_NAME)
    hour_ago = time.time_ns() - 3_600_000_000_000
    assert abandoned(run, left, hour_ago) == {name(3)}


def test_who_started_fresh_starts_fresh_again(world: World) -> None:
    left = behind(world, "")
    assert left == {name(1), name(2), name(3), name(4)}
    assert choose(world, abandoned=left) == NextStart(
        "", "No checkpoint had been saved yet: it begins as the train script says."
    )


def test_before_the_first_save_it_begins_as_the_script_says(world: World) -> None:
    for path in world.run.glob("*state"):
        shutil.rmtree(path)
    before = world.script.read_bytes()
    assert choose(world) == NextStart(
        "", "No checkpoint had been saved yet: it begins as the train script says."
    )
    assert world.script.read_bytes() == before


def test_where_the_first_save_was_cut_off_it_begins_anew(world: World) -> None:
    for epoch in (2, 3, 4):
        shutil.rmtree(world.state(epoch))
        world.lora(epoch).unlink()
    truncate(world.state(1) / "optimizer.bin")
    assert choose(world) == NextStart(
        "", "It starts over: the first save was cut off and there is no other. 8 steps are trained again."
    )


def test_a_single_step_that_is_trained_again_is_one_step(world: World) -> None:
    for epoch in (2, 3, 4):
        shutil.rmtree(world.state(epoch))
    for epoch in (1, 2, 3, 4):
        world.lora(epoch).unlink()
    edit_train_state(world.state(1), current_step=1)
    for file in ("optimizer.bin", "scheduler.bin"):
        truncate(world.state(1) / file)
    chosen = choose(world)
    assert isinstance(chosen, NextStart)
    assert chosen.told.endswith(" 1 step is trained again.")


def test_where_all_are_damaged_a_person_decides(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        truncate(world.state(epoch) / "optimizer.bin")
    before = world.script.read_bytes()
    chosen = choose(world)
    assert isinstance(chosen, NoStart)
    assert "Start from the LoRA file of epoch 4" in chosen.why
    assert world.script.read_bytes() == before


def test_a_finished_training_is_not_made_longer_by_itself(world: World) -> None:
    world.edit_script(lambda text: text.replace("--max_train_epochs 8", "--max_train_epochs 4"))
    chosen = choose(world)
    assert isinstance(chosen, NoStart)
    assert "nothing left to train" in chosen.why


def test_one_that_was_killed_before_its_last_lora_file_trains_its_end_again(world: World) -> None:
    world.edit_script(lambda text: text.replace("--max_train_epochs 8", "--max_train_epochs 4"))
    world.lora(4).unlink()
    chosen = choose(world)
    assert isinstance(chosen, NextStart)
    assert chosen.checkpoint == name(3)


def test_a_script_that_is_not_understood_is_a_reason(world: World) -> None:
    world.script.write_text("eval accelerate launch sd-scripts/flux_train_network.py\n")
    assert isinstance(choose(world), NoStart)


@pytest.mark.parametrize("how", ["missing", "elsewhere"])
def test_a_resume_that_leads_nowhere_is_not_started(world: World, how: str) -> None:
    for path in world.run.glob("*state"):
        shutil.rmtree(path)
    target = {"missing": world.run / "gone-state", "elsewhere": "/another/machine/x-state"}[how]
    world.edit_script(lambda text: f'{text} \\\n  --resume "{target}"')
    chosen = choose(world)
    assert isinstance(chosen, NoStart)
    assert "a place that is not there" in chosen.why
