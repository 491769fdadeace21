"""What the other files tell of a lost one, and when they do not."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from checkpoint_core.audit.reports import CheckpointReport
from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.scripts.reading import read_script
from checkpoint_core.states.facts import OptimizerFacts, StateFacts
from checkpoint_core.trainer.launch import LaunchPoint, launch_from
from checkpoint_core.trainer.reconstruction import SchedulerValues, lost_scheduler, lost_train_state
from tests.damage import empty, flip_member_byte, interrupt_overwrite, remove
from tests.judging import audit_world, codes, found, judge_state
from tests.world import World


def script_of(world: World) -> ScriptFacts:
    facts, problem = read_script(world.script)
    assert facts is not None, problem
    return facts


def asked(world: World, **optimizer: object) -> tuple[StateFacts, LaunchPoint]:
    """The newest state without its schedule, with something else in its optimizer."""
    report = judge_state(world)
    assert isinstance(report.facts.optimizer, OptimizerFacts)
    facts = replace(report.facts, scheduler=None, optimizer=replace(report.facts.optimizer, **optimizer))  # type: ignore[arg-type]
    return facts, launch_from(report.position, script_of(world))


def test_the_schedule_is_the_one_that_was_saved(world: World) -> None:
    saved = judge_state(world).facts.scheduler
    values = lost_scheduler(*asked(world))

    assert values == SchedulerValues(saved.base_lrs, saved.last_lrs, saved.last_epoch)  # type: ignore[union-attr]


def test_each_process_counts_an_update(world: World) -> None:
    facts, launch = asked(world)
    values = lost_scheduler(facts, launch_from(launch.position, replace(script_of(world), num_processes=2)))
    assert values is not None
    assert values.last_epoch == 64


@pytest.mark.parametrize(
    "change",
    [
        {"step": None},
        {"step": 0},
        {"initial_rates": ()},
        {"initial_rates": (1e-3,)},
        {"learning_rates": (5e-4, 5e-4)},
        {"schedule_free": True},
    ],
)
def test_what_the_optimizer_does_not_tell_is_not_guessed_at(world: World, change: dict[str, object]) -> None:
    assert lost_scheduler(*asked(world, **change)) is None


def test_a_script_with_another_schedule_does_not_fit(world: World) -> None:
    facts, launch = asked(world)
    script = script_of(world)
    other = replace(script, flags={**script.flags, "--lr_scheduler": ("cosine",)})

    assert lost_scheduler(facts, launch_from(launch.position, other)) is None
    assert lost_scheduler(facts, launch_from(launch.position, None)) is None


@pytest.mark.parametrize("damage", [remove, empty])
def test_a_lost_schedule_needs_a_fix_where_it_can_be_rebuilt(world: World, damage: object) -> None:
    damage(world.latest / "scheduler.bin")  # type: ignore[operator]
    report = judge_state(world)

    (code,) = codes(report)
    assert report.verdict.value == "needs-fix"
    assert "the optimizer has counted 32 updates" in found(report, code).cure


def test_a_lost_schedule_is_damage_where_it_cannot(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    world.edit_script(lambda text: text.replace("constant_with_warmup", "cosine"))

    assert judge_state(world).verdict.value == "damaged"


def test_with_the_optimizer_gone_too_it_is_damage(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    remove(world.latest / "optimizer.bin")
    assert judge_state(world).verdict.value == "damaged"


def test_a_broken_optimizer_is_no_witness(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    flip_member_byte(world.latest / "optimizer.bin", "data.pkl", 2)
    assert judge_state(world).verdict.value == "damaged"


def test_an_overwrite_killed_after_its_optimizer_is_the_new_save_with_an_old_schedule(world: World) -> None:
    """The same epoch saved again, as after a resume that trained it once more."""
    for name in ("scheduler.bin", "random_states_0.pkl"):
        (world.latest / name).write_bytes((world.state(3) / name).read_bytes())
    older = world.state(3).stat().st_mtime_ns - 600 * 1_000_000_000
    for name in ("scheduler.bin", "random_states_0.pkl"):
        os.utime(world.latest / name, ns=(older, older))
    report = judge_state(world)

    assert report.verdict.value == "needs-fix"
    assert codes(report) == ["mixed-saves"]
    assert "the optimizer has counted 32 updates" in found(report, "mixed-saves").cure


def test_an_older_optimizer_cannot_be_taken_apart(world: World) -> None:
    interrupt_overwrite(world.latest, world.state(3), 2)
    assert judge_state(world).verdict.value == "damaged"


def last_state(world: World) -> CheckpointReport:
    """The last state of epoch 4, over which epoch 6 was about to be saved."""
    last = world.latest.rename(world.run / f"{world.run_name}-state")
    (last / "train_state.json").write_text('{"current_epoch": 6, "current_step": 48}')
    return audit_world(world).checkpoint(last.name)


def test_a_later_train_state_is_put_back(world: World) -> None:
    report = last_state(world)
    state = lost_train_state(report.facts, report.position)

    assert state is not None
    assert (state.current_epoch, state.current_step) == (4, 32)


def test_an_epochs_name_says_more_than_counts(world: World) -> None:
    (world.latest / "train_state.json").write_text('{"current_epoch": 6, "current_step": 48}')
    report = judge_state(world)
    assert lost_train_state(report.facts, report.position) is None
