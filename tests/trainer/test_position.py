"""The arithmetic of epochs and steps, on facts alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.formats.train_state import TrainState
from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.states.facts import CustomObjectFacts, OptimizerFacts, SchedulerFacts, StateFacts
from checkpoint_core.states.layout import Layout, parse_state_name
from checkpoint_core.trainer.dataset_config import DatasetFacts
from checkpoint_core.trainer.position import (
    DEFAULT_MAX_STEPS,
    Position,
    accumulation_steps,
    epoch_length,
    is_finished,
    last_epoch,
    launch_epoch,
    launch_step,
    locate,
    steps_per_epoch_now,
    total_steps,
    why_undecided,
)

EPOCH, STEP, LAST, OTHER = "cat-000003-state", "cat-step00000020-state", "cat-state", "copy"


def state(
    name: str = EPOCH,
    epoch: int | None = 3,
    step: int | None = 24,
    lifetime: int | None = 24,
    **changes: object,
) -> StateFacts:
    """Facts of a state with these counts and no LoRA file."""
    values: dict[str, object] = {
        "path": Path("outputs/cat") / name,
        "name": parse_state_name(name, "cat"),
        "layout": Layout.SD_SCRIPTS,
        "layout_source": "",
        "observed_ns": 0,
        "changed": False,
        "modified_ns": 0,
        "files": (),
        "problem": None,
        "train_state": None if epoch is None and step is None else TrainState(epoch, step),
        "weights": None,
        "optimizer": OptimizerFacts("adamw", 1, (1,), 1, (), lifetime, False),
        "scheduler": None if lifetime is None else SchedulerFacts(lifetime, (), ()),
        "random_states": None,
        "custom_object": None,
        "lora": None,
    }
    return StateFacts(**{**values, **changes})  # type: ignore[arg-type]


def script(**flags: object) -> ScriptFacts:
    return ScriptFacts("train.sh", "flux_train_network.py", Layout.SD_SCRIPTS, **flags)  # type: ignore[arg-type]


def counts(position: Position) -> tuple[object, ...]:
    return position.epoch, position.step, position.mid_epoch, position.start_epoch, position.next_epoch


@pytest.mark.parametrize(
    ("facts", "steps_per_epoch", "expected"),
    [
        # epoch, true step, inside the epoch, where it would go on, where it should
        (state(), 8, (3, 24, False, 4, 4)),
        (state(step=8), 8, (3, 24, False, 2, 4)),
        (state(lifetime=40), 8, (3, 24, False, 4, 4)),  # repeated epochs count in the lifetime
        (state(epoch=None, step=None), 8, (3, 24, False, None, 4)),
        (state(epoch=None), 8, (3, 24, False, 4, 4)),
        (state(lifetime=None), 8, (3, 24, False, 4, 4)),
        (state(STEP, 3, 20, 20), 8, (3, 20, True, 3, 3)),
        (state(STEP, 3, 12, 20), 8, (3, 20, True, 2, 3)),
        (state(STEP, 2, 16, 16), 8, (2, 16, False, 3, 3)),
        (state(STEP, 1, 1, 1), 8, (1, 1, True, 1, 1)),
        (state(STEP, 1, 8, 8), 8, (1, 8, False, 2, 2)),
        (state(LAST, 3, 24, 24), 8, (3, 24, False, 4, 4)),
        (state(LAST, 3, 20, 20), 8, (3, 20, True, 3, 3)),  # cut short by --max_train_steps
        (state(OTHER, None, None), 8, (None, 24, False, None, None)),
        (state(step=5, epoch=5, name="cat-000005-state", lifetime=5), 1, (5, 5, False, 6, 6)),
    ],
)
def test_where_a_state_stands(facts: StateFacts, steps_per_epoch: int, expected: tuple[object, ...]) -> None:
    assert counts(locate(facts, None, steps_per_epoch)) == expected


@pytest.mark.parametrize(
    ("facts", "steps", "relative"),
    [
        (state(), 8, False),
        (state(step=16), None, None),  # 16 of 24: a resume came before, and nothing tells the epoch's length
        (
            state(STEP, 3, 20, 20),
            None,
            False,
        ),  # no resume: the trainer's own count is right, whatever the length
        (state(STEP, 3, 12, 20), None, None),
        (state(OTHER, None, 24, 24), None, None),
        (state(step=None, epoch=None, lifetime=None), None, None),
        (
            state(epoch=3, step=25, lifetime=25),
            None,
            False,
        ),  # 25 steps are no whole epochs: the length is not told
    ],
)
def test_what_equal_counts_tell(facts: StateFacts, steps: int | None, relative: bool | None) -> None:
    position = locate(facts, None, None)
    assert (position.steps_per_epoch, position.is_relative) == (steps, relative)


def test_the_scheduler_counts_each_process() -> None:
    facts = state(lifetime=48)
    assert locate(facts, script(num_processes=2), None).lifetime_step == 24
    assert locate(facts, script(num_processes=1), None).lifetime_step == 48


@pytest.mark.parametrize(("step", "repeated"), [(17, 1), (20, 4), (23, 7), (24, 0)])
def test_the_steps_that_are_trained_twice(step: int, repeated: int) -> None:
    assert locate(state(STEP, 3, step, step), None, 8).repeated_steps == repeated


def test_a_registered_object_tells_its_own_numbers() -> None:
    facts = state(
        OTHER,
        layout=Layout.ACCELERATE_OBJECTS,
        train_state=None,
        custom_object=CustomObjectFacts(24, 3),
    )
    position = locate(facts, None, 8)
    assert (position.epoch, position.step, position.is_relative) == (3, 24, None)


@pytest.mark.parametrize(
    ("flags", "epoch"),
    [
        ({}, 4),
        ({"initial_epoch": 7}, 7),
        ({"initial_step": 16}, 3),
        ({"initial_step": 15}, 2),
        ({"initial_step": 0}, 1),
        ({"initial_epoch": 7, "initial_step": 16}, 3),
        (None, 4),
    ],
)
def test_where_the_script_lets_the_trainer_begin(flags: dict[str, object] | None, epoch: int) -> None:
    position = locate(state(), None, 8)
    assert launch_epoch(position, None if flags is None else script(**flags)) == epoch


def test_without_a_count_the_trainer_begins_at_the_first_epoch() -> None:
    assert launch_epoch(locate(state(epoch=None, step=None), None, 8), script()) == 1


@pytest.mark.parametrize(
    ("flags", "steps_per_epoch", "epochs"),
    [
        ({"max_train_epochs": 6}, 8, 6),
        ({"max_train_epochs": 6, "max_train_steps": 8}, 8, 6),
        ({"max_train_steps": 16}, 8, 2),
        ({"max_train_steps": 17}, 8, 3),
        ({"max_train_steps": 17}, None, None),
        ({}, 8, DEFAULT_MAX_STEPS // 8),
        ({"max_train_epochs": 6}, None, 6),
    ],
)
def test_how_many_epochs_a_script_trains(
    flags: dict[str, object], steps_per_epoch: int | None, epochs: int | None
) -> None:
    assert last_epoch(script(**flags), steps_per_epoch) == epochs


@pytest.mark.parametrize(
    ("flags", "finished"),
    [
        ({"max_train_epochs": 3}, True),
        ({"max_train_epochs": 4}, False),
        ({"max_train_steps": 24}, True),
        ({"max_train_steps": 23}, True),
        ({"max_train_steps": 25}, False),
        ({"max_train_epochs": 4, "max_train_steps": 1}, False),
    ],
)
def test_when_nothing_is_left_to_train(flags: dict[str, object], finished: bool) -> None:
    assert is_finished(locate(state(), None, 8), script(**flags)) is finished


def test_without_a_script_nothing_is_finished() -> None:
    assert is_finished(locate(state(), None, 8), None) is False
    assert last_epoch(None, 8) is None
    assert why_undecided(None) is None


@pytest.mark.parametrize(
    ("unknown", "flags", "undecided"),
    [
        ("--initial_epoch", {}, True),
        ("--initial_step", {}, True),
        ("--initial_epoch", {"initial_step": 8}, False),
        ("--initial_step", {"initial_epoch": 2}, True),
        ("--max_train_epochs", {}, True),
        ("--max_train_steps", {}, True),
        ("--max_train_steps", {"max_train_epochs": 4}, False),
        ("--resume", {}, False),
    ],
)
def test_which_unknown_flags_leave_the_position_open(
    unknown: str, flags: dict[str, object], undecided: bool
) -> None:
    why = why_undecided(script(unknown=((unknown, "only the shell knows"),), **flags))
    assert why == ("only the shell knows" if undecided else None)


# The launch, with epochs of another length than those of the state


@pytest.mark.parametrize(
    ("flags", "steps_per_epoch", "done", "starts"),
    [
        ({}, None, 24, 4),
        ({}, 8, 24, 4),
        ({}, 12, 24, 3),  # more images: an epoch is trained again
        ({}, 7, 24, 4),
        ({}, 4, 24, 7),  # fewer: epochs are left out
        ({"initial_epoch": 4}, 12, 36, 4),
        ({"initial_epoch": 0}, None, 0, 1),
        ({"initial_step": 24}, 12, 24, 3),
        ({"initial_step": 0}, None, 0, 1),
        ({"skip_until_initial_step": True}, 12, 24, 3),
    ],
)
def test_the_launch_counts_with_the_epochs_of_now(
    flags: dict[str, object], steps_per_epoch: int | None, done: int, starts: int
) -> None:
    position, launched = locate(state(), None, 8), script(**flags)
    assert launch_step(position, launched, steps_per_epoch) == done
    assert launch_epoch(position, launched, steps_per_epoch) == starts


def test_a_launch_without_train_state_starts_from_nothing() -> None:
    position = locate(state(epoch=None, step=None), None, 8)
    assert (launch_step(position, None, 8), launch_epoch(position, None, 8)) == (0, 1)


def test_an_epoch_s_beginning_is_no_step_without_the_length_of_an_epoch() -> None:
    position = locate(state(lifetime=None), None, None)
    assert launch_step(position, script(initial_epoch=4)) is None
    assert launch_epoch(position, script(initial_epoch=4)) == 4


@pytest.mark.parametrize(
    ("accumulation", "flags", "starts"),
    [
        ("1", {}, 4),
        ("2", {}, 7),  # 24 updates are taken for 48
        ("2", {"initial_epoch": 2}, 3),
        ("2", {"initial_step": 3}, 1),
        (None, {}, None),
        ("some", {}, None),
    ],
)
def test_skipping_takes_updates_for_batches(
    accumulation: str | None, flags: dict[str, object], starts: int | None
) -> None:
    given = {"--gradient_accumulation_steps": (accumulation,)}
    skipping = script(skip_until_initial_step=True, flags=given, **flags)
    assert launch_epoch(locate(state(), None, 8), skipping, 8) == starts
    unskipped = script(flags=given, **flags)
    assert launch_epoch(locate(state(), None, 8), unskipped, 8) == (
        1 if "initial_step" in flags else flags.get("initial_epoch", 4)
    )


@pytest.mark.parametrize(
    ("flags", "hidden", "batches"),
    [
        ({}, None, 1),
        ({}, "$EXTRA may hold further flags", None),
        ({"--gradient_accumulation_steps": ("4",)}, "$EXTRA", 4),
    ],
)
def test_batches_of_an_update(flags: dict[str, object], hidden: str | None, batches: int | None) -> None:
    assert accumulation_steps(script(flags=flags, hidden=hidden)) == batches


@pytest.mark.parametrize(
    ("flags", "steps_per_epoch", "total"),
    [
        ({"max_train_epochs": 8}, 12, 96),
        ({"max_train_epochs": 8}, None, None),
        ({"max_train_epochs": 8, "max_train_steps": 20}, 12, 96),
        ({"max_train_steps": 20}, None, 20),
        ({}, None, DEFAULT_MAX_STEPS),
    ],
)
def test_the_steps_of_the_whole_training(
    flags: dict[str, object], steps_per_epoch: int | None, total: int | None
) -> None:
    assert total_steps(script(**flags), steps_per_epoch) == total
    assert total_steps(None, steps_per_epoch) is None


@pytest.mark.parametrize(
    ("steps_per_epoch", "epochs", "finished"), [(None, 4, False), (8, 4, False), (10, 3, True), (20, 2, True)]
)
def test_an_end_by_steps_moves_with_the_length_of_an_epoch(
    steps_per_epoch: int | None, epochs: int, finished: bool
) -> None:
    ending = script(max_train_steps=30)
    assert last_epoch(ending, steps_per_epoch or 8) == epochs
    assert is_finished(locate(state(), None, 8), ending, steps_per_epoch) is finished


NO_POSITION = Position(None, None, False, None, None, None, None, None, None, None)


def accumulating_script(**flags: object) -> ScriptFacts:
    """A script with these flags; None is a value that only the shell knows."""
    values = {f"--{name}": (None if value is None else str(value),) for name, value in flags.items()}
    return ScriptFacts("train.sh", "t.py", Layout.SD_SCRIPTS, flags=values)


@pytest.mark.parametrize(
    ("processes", "accumulation", "steps"),
    [(1, None, (10, 13)), (1, 4, (3, 4)), (2, None, (5, 7)), (2, 3, (2, 3)), (4, 4, (1, 1))],
)
def test_processes_and_accumulation_share_the_batches(
    processes: int, accumulation: int | None, steps: tuple[int, int]
) -> None:
    flags = {} if accumulation is None else {"gradient_accumulation_steps": accumulation}
    launched = replace(accumulating_script(**flags), num_processes=processes)
    dataset = DatasetFacts("dataset.toml", (10, 13))
    assert steps_per_epoch_now(dataset, launched) == steps


def test_what_is_not_known_makes_no_steps() -> None:
    dataset = DatasetFacts("dataset.toml", (10, 13))
    assert steps_per_epoch_now(None, accumulating_script()) is None
    assert steps_per_epoch_now(dataset, None) is None
    assert steps_per_epoch_now(replace(dataset, batches=None), accumulating_script()) is None
    assert steps_per_epoch_now(dataset, accumulating_script(gradient_accumulation_steps=None)) is None
    assert (
        steps_per_epoch_now(dataset, replace(accumulating_script(), hidden="$EXTRA may hold further flags"))
        is None
    )


@pytest.mark.parametrize(
    ("saved", "now", "length"),
    [
        (8, (8, 8), (8, 8)),
        (8, (6, 12), (8, 8)),
        (8, (9, 12), (9, 12)),
        (8, None, (8, 8)),
        (None, (9, 9), (9, 9)),
        (None, None, None),
    ],
)
def test_an_epoch_keeps_its_length_unless_the_dataset_says_otherwise(
    saved: int | None, now: tuple[int, int] | None, length: tuple[int, int] | None
) -> None:
    position = replace(NO_POSITION, steps_per_epoch=saved)
    dataset = DatasetFacts("dataset.toml", now)
    assert epoch_length(position, accumulating_script(), dataset) == length


def test_a_state_of_several_processes_is_not_compared_with_a_script_for_one() -> None:
    """accelerate takes all GPUs where the script does not say how many; the scheduler counted each of them."""
    position = replace(NO_POSITION, steps_per_epoch=4, lifetime_step=64, optimizer_step=32)
    dataset = DatasetFacts("dataset.toml", (8, 8))
    assert epoch_length(position, accumulating_script(), dataset) == (4, 4)
    assert epoch_length(replace(position, lifetime_step=32), accumulating_script(), dataset) == (8, 8)
