"""From the batches of a dataset to the updates of an epoch, and whether they are those of the saved state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from checkpoint_core.environment.facts import DatasetFacts
from checkpoint_core.states.facts import ScriptFacts
from checkpoint_core.states.layout import Layout
from checkpoint_core.trainer.epoch_length import epoch_length, steps_per_epoch_now
from checkpoint_core.trainer.position import Position

NO_POSITION = Position(None, None, False, None, None, None, None, None, None, None)


def script(**flags: object) -> ScriptFacts:
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
    launched = replace(script(**flags), num_processes=processes)
    dataset = DatasetFacts("dataset.toml", 5, (10, 13))
    assert steps_per_epoch_now(dataset, launched) == steps


def test_what_is_not_known_makes_no_steps() -> None:
    dataset = DatasetFacts("dataset.toml", 5, (10, 13))
    assert steps_per_epoch_now(None, script()) is None
    assert steps_per_epoch_now(dataset, None) is None
    assert steps_per_epoch_now(replace(dataset, batches=None), script()) is None
    assert steps_per_epoch_now(dataset, script(gradient_accumulation_steps=None)) is None
    assert steps_per_epoch_now(dataset, replace(script(), hidden="$EXTRA may hold further flags")) is None


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
    dataset = DatasetFacts("dataset.toml", 4, now)
    assert epoch_length(position, script(), dataset) == length


def test_a_state_of_several_processes_is_not_compared_with_a_script_for_one() -> None:
    """accelerate takes all GPUs where the script does not say how many; the scheduler counted each of them."""
    position = replace(NO_POSITION, steps_per_epoch=4, lifetime_step=64, optimizer_step=32)
    dataset = DatasetFacts("dataset.toml", 4, (8, 8))
    assert epoch_length(position, script(), dataset) == (4, 4)
    assert epoch_length(replace(position, lifetime_step=32), script(), dataset) == (8, 8)
