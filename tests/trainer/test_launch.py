"""The launch from a state as one value: it says what each rule of the position says, over whichever dataset."""

from __future__ import annotations

from dataclasses import replace

import pytest

from checkpoint_core.trainer import position as rules
from checkpoint_core.trainer.dataset_config import DatasetFacts
from checkpoint_core.trainer.launch import launch_from
from tests.trainer.test_position import script, state

SAVED = rules.locate(state(), None, 8)
SAME, LONGER, OPEN = (DatasetFacts("d", batches) for batches in ((8, 8), (12, 12), (7, 9)))
OTHER = DatasetFacts("d", (10, 12))


@pytest.mark.parametrize("dataset", [None, SAME, LONGER, OPEN, OTHER])
@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"max_train_epochs": 4},
        {"max_train_epochs": None, "max_train_steps": 32},
        {"max_train_epochs": None, "max_train_steps": 41},
        {"initial_epoch": 5},
        {"initial_step": 30},
        {"initial_step": 30, "skip_until_initial_step": True},
    ],
)
def test_it_says_what_the_rules_say(dataset: DatasetFacts | None, flags: dict[str, object]) -> None:
    launched = script(**flags)
    launch, lengths = launch_from(SAVED, launched, dataset), rules.epoch_length(SAVED, launched, dataset)
    assert lengths is not None
    exact = lengths[0] if lengths[0] == lengths[1] else None

    assert launch.position is SAVED
    assert launch.epoch_lengths == lengths
    assert launch.steps_per_epoch == exact
    assert launch.start_epochs == {rules.launch_epoch(SAVED, launched, length) for length in lengths}
    assert launch.done_steps == rules.launch_step(SAVED, launched, exact)
    assert launch.last_epoch == rules.last_epoch(launched, exact)
    assert launch.end_epoch == rules.last_epoch(launched, lengths[0])
    assert launch.total_steps == rules.total_steps(launched, exact)
    assert launch.saved_total_steps == rules.total_steps(launched, 8)
    assert launch.is_finished == rules.is_finished(SAVED, launched, lengths[0])


def test_a_start_that_the_dataset_leaves_open_is_none() -> None:
    far = replace(SAVED, current_step=44, steps_per_epoch=None)
    launch = launch_from(far, script(), DatasetFacts("d", (10, 12)))
    assert launch.start_epochs == {4, 5}
    assert launch.start_epoch is None
    assert launch_from(far, script(), DatasetFacts("d", (10, 10))).start_epoch == 5


def test_what_the_script_leaves_open_is_not_decided() -> None:
    launch = launch_from(
        SAVED, script(unknown=(("--initial_step", "only the shell knows"),), max_train_epochs=4)
    )
    assert launch.undecided is not None
    assert (launch.start_epoch, launch.is_finished) == (None, False)


def test_the_same_launch_without_skipping() -> None:
    twice = {"--gradient_accumulation_steps": ("2",)}
    launch = launch_from(SAVED, script(skip_until_initial_step=True, flags=twice), LONGER)
    unskipped = launch.without_skipping()
    assert unskipped.script is not None
    assert not unskipped.script.skip_until_initial_step
    assert (launch.start_epochs, unskipped.start_epochs) == ({9}, {5})
    assert unskipped.epoch_lengths == launch.epoch_lengths
    bare = launch_from(SAVED, None)
    assert bare.without_skipping() is bare
