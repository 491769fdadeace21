"""What a launch saves and removes, by the trainer's rules; test_forecast.py holds them against real launches."""

from __future__ import annotations

import pytest

from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.states.layout import Layout
from checkpoint_core.trainer.save_plan import (
    Launch,
    SaveEvent,
    changes,
    most_room,
    overwritten_steps,
    removed_states,
    save_rules,
)


def script(**flags: object) -> ScriptFacts:
    """A script with these flags; True is a switch."""
    values = {f"--{name}": () if value is True else (str(value),) for name, value in flags.items()}
    return ScriptFacts("train.sh", "flux_train_network.py", Layout.SD_SCRIPTS, flags=values)


def told(launch: Launch, **flags: object) -> tuple[SaveEvent, ...]:
    rules = save_rules(script(output_name="cat", **flags), launch.last_epoch)
    assert rules is not None
    made = changes(rules, launch)
    assert made is not None
    return made


def saved(made: tuple[SaveEvent, ...]) -> list[str]:
    return [change.name for change in made if not change.is_removal]


def test_the_last_epoch_is_saved_under_the_last_name_alone() -> None:
    made = told(Launch(3, 4), save_every_n_epochs=1, save_state=True)
    assert saved(made) == ["cat-000003.safetensors", "cat-000003-state", "cat-state", "cat.safetensors"]
    assert [change.when for change in made] == ["epoch 3", "epoch 3", "epoch 4", "epoch 4"]


def test_without_a_name_the_trainer_has_its_own() -> None:
    rules = save_rules(script(save_every_n_epochs=1, save_every_n_steps=5), 2)
    assert rules is not None
    made = changes(rules, Launch(1, 2, 5, 0, 10))
    assert made is not None
    assert saved(made) == [
        "at-step00000005.safetensors",
        "epoch-000001.safetensors",
        "at-step00000010.safetensors",
        "last.safetensors",
    ]


@pytest.mark.parametrize(("ratio", "epochs", "every"), [(4, 16, 4), (5, 16, 3), (20, 16, 1)])
def test_a_ratio_takes_the_place_of_the_interval(ratio: int, epochs: int, every: int) -> None:
    rules = save_rules(script(save_every_n_epochs=7, save_n_epoch_ratio=ratio), epochs)
    assert rules is not None
    assert rules.every_epochs == every


def test_steps_are_counted_from_the_launch_on() -> None:
    made = told(Launch(3, 4, 8, 0, 16), save_every_n_steps=6, save_state=True)
    assert [change.when for change in made if change.is_state] == ["step 6", "step 12", "epoch 4"]
    skipping = told(Launch(3, 4, 8, 4, 16), save_every_n_steps=4)
    assert [change.when for change in skipping] == ["step 8", "step 12", "step 16", "epoch 4"]


def test_a_step_at_the_end_of_an_epoch_is_saved_before_the_epoch() -> None:
    made = told(Launch(1, 3, 8, 0, 24), save_every_n_steps=8, save_every_n_epochs=2)
    assert [change.when for change in made] == ["step 8", "step 16", "epoch 2", "step 24", "epoch 3"]


@pytest.mark.parametrize(
    ("flags", "removed"),
    [
        ({"save_last_n_epochs": 2}, ["cat-000001.safetensors", "cat-000001-state"]),
        ({"save_last_n_epochs_state": 2}, ["cat-000001-state"]),
        (
            {"save_last_n_epochs": 2, "save_last_n_epochs_state": 3},
            ["cat-000001.safetensors", "cat-000000-state"],
        ),
        # A 0 for the states counts as not given, for the LoRA files it removes what was just saved.
        (
            {"save_last_n_epochs": 2, "save_last_n_epochs_state": 0},
            ["cat-000001.safetensors", "cat-000001-state"],
        ),
        ({"save_last_n_epochs": 0}, ["cat-000003.safetensors", "cat-000003-state"]),
        ({}, []),
    ],
)
def test_retention_by_epochs(flags: dict[str, object], removed: list[str]) -> None:
    made = told(Launch(3, 4), save_every_n_epochs=1, save_state=True, **flags)
    assert [change.name for change in made if change.is_removal] == removed


def test_retention_by_steps_keeps_the_interval_it_says() -> None:
    """The trainer's own example: every 10 steps, 30 kept: at step 50 the save of step 10 goes."""
    made = told(Launch(1, 1, 60, 0, 60), save_every_n_steps=10, save_last_n_steps=30, save_state=True)
    gone = [(change.name, change.when) for change in made if change.is_removal and change.is_state]
    assert gone == [("cat-step00000010-state", "step 50"), ("cat-step00000020-state", "step 60")]
    loras = [change.when for change in made if change.is_removal and not change.is_state]
    assert loras == ["step 40", "step 50", "step 60"]  # step 0, which there is none of, too


@pytest.mark.parametrize(
    ("flags", "states"),
    [({}, 0), ({"save_state": True}, 2), ({"save_state_on_train_end": True}, 1)],
)
def test_which_switch_saves_which_states(flags: dict[str, object], states: int) -> None:
    made = told(Launch(1, 2), save_every_n_epochs=1, **flags)
    assert sum(change.is_state for change in made) == states


@pytest.mark.parametrize(
    "flags",
    [
        {"save_every_n_epochs": "some"},
        {"save_every_n_epochs": "-1"},
        {"save_every_n_steps": "2.5"},
        {"save_last_n_epochs": True},
    ],
)
def test_a_flag_that_is_no_count_leaves_the_saves_open(flags: dict[str, object]) -> None:
    assert save_rules(script(**flags), 4) is None


def test_hidden_flags_and_unknown_steps_leave_the_saves_open() -> None:
    hiding = ScriptFacts("train.sh", "t.py", Layout.SD_SCRIPTS, hidden="$EXTRA may hold further flags")
    assert save_rules(hiding, 4) is None
    assert save_rules(script(save_n_epoch_ratio=4), None) is None
    rules = save_rules(script(save_every_n_steps=4), 4)
    assert rules is not None
    assert changes(rules, Launch(1, 4)) is None


def test_a_script_that_saves_without_end_is_not_followed() -> None:
    rules = save_rules(script(save_every_n_epochs=1, save_every_n_steps=1), None)
    assert rules is not None
    assert changes(rules, Launch(1, 10**15, 8, 0, 8 * 10**15)) is None
    assert changes(rules, Launch(1, 10**15)) is None


# What the changes do to the folder


def test_old_names_are_overwritten_or_removed() -> None:
    names = frozenset(f"cat-step{step:08d}-state" for step in (4, 8, 24)) | {
        "cat-000001-state",
        "cat-000003-state",
    }
    made = told(
        Launch(3, 4, 8, 0, 16),
        save_every_n_steps=4,
        save_every_n_epochs=1,
        save_state=True,
        save_last_n_epochs_state=2,
    )
    assert overwritten_steps(made, names) == ("cat-step00000004-state", "cat-step00000008-state")
    assert list(removed_states(made, names)) == [("cat-000001-state", "epoch 3")]


def test_a_state_that_is_overwritten_first_is_not_removed_as_it_is() -> None:
    made = told(Launch(1, 4), save_every_n_epochs=1, save_state=True, save_last_n_epochs_state=1)
    names = frozenset({"cat-000001-state", "cat-000002-state"})
    assert list(removed_states(made, names)) == []


@pytest.mark.parametrize(
    ("flags", "names", "room"),
    [
        ({"save_state": True}, (), 4 * 110),
        ({"save_state": True}, ("cat-000001-state", "cat.safetensors"), 4 * 110 - 110),
        ({"save_state": True, "save_last_n_epochs_state": 1}, (), 240),  # two states and four LoRA files
        ({}, (), 40),
    ],
)
def test_the_room_at_the_fullest_moment(flags: dict[str, object], names: tuple[str, ...], room: int) -> None:
    made = told(Launch(1, 4), save_every_n_epochs=1, **flags)
    assert most_room(made, frozenset(names), 100, 10) == room
