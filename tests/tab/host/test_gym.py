"""FluxGym's components, found on stand-ins."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint_core.scripts.tokens import Dialect
from checkpoint_core.tab.host.gym import Gym, box_value, find_gym, slug


def component(number: int, elem_id: str | None = None, label: str = "") -> SimpleNamespace:
    return SimpleNamespace(_id=number, elem_id=elem_id, label=label)


REFRESH = component(1, "refresh")
NAME = component(2, label="The name of your LoRA")
EPOCHS = component(3, label="Max Train Epochs")
RESUME = component(4, "--resume", "--resume")
SAVE_STATE = component(5, "--save_state", "--save_state")
SCRIPT, CONFIG = component(6, label="Train script"), component(7, label="Train config")
BLOCKS = (REFRESH, NAME, EPOCHS, RESUME, SAVE_STATE, SCRIPT, CONFIG)
INPUTS = [NAME, EPOCHS, RESUME, SAVE_STATE]
PATH = "'/x/outputs/my-lora/s'"


def generate(name: str, epochs: int, resume: str, save_state: bool) -> tuple[str, str]:
    return f"{name} {epochs} {resume} {save_state}", "config"


def event(function: Callable[..., Any] = generate, button: int = 1, kind: str = "click") -> SimpleNamespace:
    return SimpleNamespace(fn=function, inputs=INPUTS, outputs=[SCRIPT, CONFIG], targets=[(button, kind)])


def found(function: Callable[..., Any] = generate) -> Gym:
    return find_gym(BLOCKS, [event(function)])


def test_all_that_a_resume_needs_is_found() -> None:
    gym = found()

    assert gym.is_connected
    assert gym.missing == ()
    assert gym.lora_name is NAME
    assert gym.targets == [NAME, RESUME, SAVE_STATE, EPOCHS, SCRIPT, CONFIG]
    assert gym.describe().startswith("Connected to FluxGym's Gym tab")


def test_an_event_of_another_button_or_kind_is_not_taken() -> None:
    gym = find_gym(BLOCKS, [event(button=9), event(kind="change")])

    assert not gym.is_connected
    assert gym.missing == ("#refresh",)


@pytest.mark.parametrize("gone", [REFRESH, RESUME])
def test_without_them_it_is_not_connected_and_says_what_is_missing(gone: SimpleNamespace) -> None:
    gym = find_gym([block for block in BLOCKS if block is not gone], [event()])

    assert not gym.is_connected
    assert f"{'#' if gone is REFRESH else ''}{gone.elem_id} not found" in gym.describe()


def test_without_save_state_the_rest_is_carried_and_the_lack_is_told() -> None:
    gym = find_gym([block for block in BLOCKS if block is not SAVE_STATE], [event()])

    assert gym.is_connected
    assert gym.missing == ("--save_state",)
    assert gym.targets == [NAME, RESUME, EPOCHS, SCRIPT, CONFIG]


@pytest.mark.parametrize(
    ("name", "folder"),
    [("My LoRA", "my-lora"), ("  Été -- 2  ", "ete-2"), ("it's", "its"), ("a_b.c", "a-b-c"), ("猫", "")],
)
def test_slugs(name: str, folder: str) -> None:
    assert slug(name) == folder


@pytest.mark.parametrize("path", ["/x/my lora", "/x/it's $HOME `id`", '/x/say "x"', "/x/a\\b", "/x/!"])
def test_the_box_holds_what_the_shell_reads_as_the_path(path: str) -> None:
    assert shlex.split(box_value(Path(path), Dialect.SH)) == [path]


def test_in_a_batch_file_it_is_in_double_quotes() -> None:
    assert box_value(Path("/x/my lora"), Dialect.BAT) == '"/x/my lora"'


def test_an_empty_box_clears() -> None:
    assert box_value(None, Dialect.SH) == ""
