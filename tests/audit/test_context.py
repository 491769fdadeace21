"""The run around a state: what its siblings tell of the length of an epoch."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.states.layout import Layout
from tests.damage import rewrite_torch_zip, times_kept
from tests.judging import audit_world, scanned
from tests.world import SAVED_EPOCHS, World

HOUR = 3600 * 10**9


def without_loras(world: World) -> None:
    for epoch in SAVED_EPOCHS:
        world.lora(epoch).unlink()


def count_anew(state: Path, epoch: int, steps: int) -> None:
    """Let a state have been saved after so many steps of a training without a resume."""
    with times_kept(state / "train_state.json"):
        (state / "train_state.json").write_text(json.dumps({"current_epoch": epoch, "current_step": steps}))
    rewrite_torch_zip(state / "scheduler.bin", lambda saved: {**saved, "last_epoch": steps})


def saved_later(state: Path, nanoseconds: int) -> None:
    for path in [*state.iterdir(), state]:
        os.utime(path, ns=(path.stat().st_mtime_ns + nanoseconds,) * 2)


def test_a_lora_file_tells_before_any_state(world: World) -> None:
    count_anew(world.latest, 4, 40)
    facts = audit_world(world).facts
    assert (facts.steps_per_epoch, facts.likely_steps_per_epoch) == (8, 8)


def test_without_a_lora_file_a_run_is_told_as_before_and_judged_by_its_states(world: World) -> None:
    without_loras(world)
    run = audit_world(world)
    assert (run.facts.steps_per_epoch, run.facts.likely_steps_per_epoch) == (None, 8)
    (told,) = scanned(Auditor(world.outputs))["runs"]
    assert told["steps_per_epoch"] is None
    assert {item.position.steps_per_epoch for item in run.checkpoints} == {8}


def test_of_the_states_the_one_that_was_saved_last_tells(world: World) -> None:
    """A training that was begun anew over another dataset: the epochs that it has not reached are the older ones."""
    without_loras(world)
    for epoch in (1, 2):
        count_anew(world.state(epoch), epoch, 12 * epoch)
        saved_later(world.state(epoch), HOUR)

    assert audit_world(world).facts.likely_steps_per_epoch == 12


def test_a_last_state_that_the_steps_cut_short_does_not_tell_while_an_epoch_s_does(world: World) -> None:
    """--max_train_steps 50 ends the fifth epoch of 12 steps after two: 50 // 5 is no epoch's length."""
    without_loras(world)
    for epoch in SAVED_EPOCHS:
        count_anew(world.state(epoch), epoch, 12 * epoch)
    last = world.latest.rename(world.run / f"{world.run_name}-state")
    count_anew(last, 5, 50)
    saved_later(last, HOUR)

    run = audit_world(world)
    assert run.facts.likely_steps_per_epoch == 12
    assert run.checkpoint(last.name).position.step == 50
    for epoch in (1, 2, 3):
        os.rename(world.state(epoch), world.outputs / f"{epoch}-away")
    assert audit_world(world).facts.likely_steps_per_epoch == 10


def test_a_state_after_a_resume_tells_nothing(world: World) -> None:
    without_loras(world)
    for epoch in SAVED_EPOCHS:
        count_anew(world.state(epoch), epoch, 8 * epoch)
        (world.state(epoch) / "train_state.json").write_text(
            json.dumps({"current_epoch": epoch, "current_step": 4})
        )
    assert audit_world(world).facts.likely_steps_per_epoch is None


def test_states_of_another_trainer_tell_nothing(world: World) -> None:
    facts = Auditor(world.outputs).audit_run(world.run_name).facts
    others = tuple(replace(state, layout=Layout.ACCELERATE_OBJECTS) for state in facts.states)
    assert replace(facts, loras=()).likely_steps_per_epoch == 8
    assert replace(facts, loras=(), states=others).likely_steps_per_epoch is None
