"""FluxGym's components, found on stand-ins, and what a resume sets in them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.scripts.reading import script_facts
from checkpoint_core.scripts.script import TrainScript
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
    assert gym.targets == [NAME, RESUME, SAVE_STATE, SCRIPT, CONFIG]
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
    assert gym.targets == [NAME, RESUME, SCRIPT, CONFIG]


def test_a_resume_sets_both_flags_and_the_script_anew() -> None:
    values, told = found().carry(["my-lora", 16, "", False], "my-lora", PATH)

    assert values == ["my-lora", PATH, True, f"my-lora 16 {PATH} True", "config"]
    assert "--resume and --save_state are set" in told


def test_clearing_leaves_save_state_as_it_is() -> None:
    values, told = found().carry(["my-lora", 16, PATH, False], "my-lora", "")

    assert values == ["my-lora", "", False, "my-lora 16  False", "config"]
    assert "its --resume is empty" in told


@pytest.mark.parametrize("name", ["My LoRA", "my-lora", " my lora "])
def test_a_name_that_means_the_same_run_is_kept_as_typed(name: str) -> None:
    values, _ = found().carry([name, 16, "", False], "my-lora", PATH)

    assert values is not None
    assert values[0] == name


def test_an_empty_name_is_filled_in_and_told() -> None:
    values, told = found().carry(["", 16, "", False], "my-lora", PATH)

    assert values is not None
    assert values[0] == "my-lora"
    assert "was empty and is now “my-lora”" in told


def test_another_lora_is_left_alone() -> None:
    values, told = found().carry(["Another", 16, "", False], "my-lora", PATH)

    assert values is None
    assert "“Another”, another LoRA; it was left alone" in told


def test_a_failure_in_fluxgyms_own_code_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no base model")

    values, told = found(fails).carry(["my-lora", 16, "", False], "my-lora", PATH)

    assert values is None
    assert "could not generate its script" in told
    assert "no base model" in caplog.text


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


# What a repair changes besides

INITIAL, SKIP = component(8, "--initial_epoch"), component(9, "--skip_until_initial_step")
RUN_SCRIPT = (
    "accelerate launch \\\n  sd-scripts/flux_train_network.py \\\n  --max_train_epochs 12 \\\n  --initial_epoch 5"
    " \\\n  --network_weights '/x/my lora.safetensors'\n"
)
WEIGHTS = component(10, "--network_weights")


def wide(epochs: int = 12) -> Gym:
    """A Gym tab with the boxes that say where a training begins; it always writes the same epochs."""

    def write(name: str, resume: str, initial: str, skip: bool, weights: str) -> tuple[str, str]:
        flags = [f"--max_train_epochs {epochs}"]
        flags += [f"--initial_epoch {initial}"] if initial else []
        flags += [f"--network_weights {weights}"] if weights else []
        flags += ["--skip_until_initial_step"] if skip else []
        return "accelerate launch sd-scripts/flux_train_network.py " + " ".join(flags), "config"

    blocks = (*BLOCKS, INITIAL, SKIP, WEIGHTS)
    click = event(write)
    click.inputs = [NAME, RESUME, INITIAL, SKIP, WEIGHTS]
    return find_gym(blocks, [click])


def script_of(text: str) -> ScriptFacts:
    return script_facts(TrainScript.parse(text.encode(), Dialect.SH), "train.sh")


def test_where_a_training_begins_is_carried_too() -> None:
    values, told = wide().carry(["my-lora", "", "", True, ""], "my-lora", PATH, script_of(RUN_SCRIPT))

    assert values is not None
    name, resume, initial, weights, skip = values[:5]
    assert (name, resume, initial, skip) == ("my-lora", PATH, "5", False)
    assert shlex.split(weights) == ["/x/my lora.safetensors"]
    assert "differently from the run's script" not in told


def test_a_flag_that_is_gone_is_cleared_there() -> None:
    without = RUN_SCRIPT.replace(" \\\n  --initial_epoch 5", "")
    values, _ = wide().carry(["my-lora", "", "5", True, ""], "my-lora", "", script_of(without))

    assert values is not None
    assert values[2] == ""


def test_what_cannot_be_carried_is_named() -> None:
    _, told = wide(epochs=4).carry(["my-lora", "", "", False, ""], "my-lora", PATH, script_of(RUN_SCRIPT))

    assert "would still set --max_train_epochs differently from the run's script" in told


def test_a_generated_script_that_is_none_is_not_compared() -> None:
    _, told = found().carry(["my-lora", 16, "", False], "my-lora", PATH, script_of(RUN_SCRIPT))
    assert "The Gym tab was updated too" in told
    assert "otherwise" not in told
