"""What a resume sets in FluxGym's boxes, what it leaves there, and what leaves them again."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.scripts.reading import script_facts
from checkpoint_core.scripts.script import TrainScript
from checkpoint_core.scripts.tokens import Dialect
from checkpoint_core.tab.host.carrying import Carried, Carrying, carry, follow_name
from checkpoint_core.tab.host.gym import Gym, find_gym
from tests.tab.host.test_gym import BLOCKS, EPOCHS, NAME, PATH, RESUME, SAVE_STATE, component, event, found

RUN = Path("/x/outputs/my-lora")


def values_of(*arguments: Any, **more: Any) -> tuple[list[Any] | None, str]:
    done = carry(*arguments, **more)
    return done.values, done.told


def test_a_resume_sets_both_flags_and_the_script_anew() -> None:
    values, told = values_of(found(), ["my-lora", 16, "", False], RUN, PATH)

    assert values == ["my-lora", PATH, True, 16, f"my-lora 16 {PATH} True", "config"]
    assert "--resume and --save_state are set" in told


def test_clearing_leaves_save_state_as_it_is() -> None:
    values, told = values_of(found(), ["my-lora", 16, PATH, False], RUN, "")

    assert values == ["my-lora", "", False, 16, "my-lora 16  False", "config"]
    assert "its --resume is empty" in told


@pytest.mark.parametrize("name", ["My LoRA", "my-lora", " my lora "])
def test_a_name_that_means_the_same_run_is_kept_as_typed(name: str) -> None:
    values, _ = values_of(found(), [name, 16, "", False], RUN, PATH)

    assert values is not None
    assert values[0] == name


def test_an_empty_name_is_filled_in_and_told() -> None:
    values, told = values_of(found(), ["", 16, "", False], RUN, PATH)

    assert values is not None
    assert values[0] == "my-lora"
    assert "was empty and is now “my-lora”" in told


def test_another_lora_is_left_alone() -> None:
    values, told = values_of(found(), ["Another", 16, "", False], RUN, PATH)

    assert values is None
    assert "“Another”, another LoRA; it was left alone" in told


def test_a_failure_in_fluxgyms_own_code_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no base model")

    values, told = values_of(found(fails), ["my-lora", 16, "", False], RUN, PATH)

    assert values is None
    assert "could not generate its script" in told
    assert "no base model" in caplog.text


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
    values, told = values_of(wide(), ["my-lora", "", "", True, ""], RUN, PATH, script_of(RUN_SCRIPT))

    assert values is not None
    name, resume, initial, weights, skip = values[:5]
    assert (name, resume, initial, skip) == ("my-lora", PATH, "5", False)
    assert shlex.split(weights) == ["/x/my lora.safetensors"]
    assert "would still" not in told


def test_a_flag_that_is_gone_is_cleared_there() -> None:
    without = RUN_SCRIPT.replace(" \\\n  --initial_epoch 5", "")
    values, _ = values_of(wide(), ["my-lora", "", "5", True, ""], RUN, "", script_of(without))

    assert values is not None
    assert values[2] == ""


def test_what_cannot_be_carried_is_named() -> None:
    _, told = values_of(wide(epochs=4), ["my-lora", "", "", False, ""], RUN, PATH, script_of(RUN_SCRIPT))

    assert "would still write --max_train_epochs 4 (the run's script: 12)" in told


def test_a_generated_script_that_is_none_is_not_compared() -> None:
    _, told = values_of(found(), ["my-lora", 16, "", False], RUN, PATH, script_of(RUN_SCRIPT))
    assert "The Gym tab was updated too" in told
    assert "would still" not in told


# FluxGym's own function returns updates, and its boxes hold texts, numbers and ticks

DIM = component(11, label="--network_dim")
DIM.minimum, DIM.maximum = 4, 128
REAL_INPUTS = [NAME, EPOCHS, DIM, RESUME, SAVE_STATE, INITIAL]
SCRIPT_NOW = (
    "accelerate launch sd-scripts/flux_train_network.py --max_train_epochs 24 --network_dim 16 --learning_rate 8e-4"
    " --save_state --initial_epoch 13 --resume '/x/outputs/my-lora/s'"
)


def update(name: str, epochs: float, dim: float, resume: str, save: bool, initial: str) -> tuple[Any, Any]:
    """As FluxGym's: ``gr.update(value=…)``, a dict."""
    flags = [f"--max_train_epochs {epochs}", f"--network_dim {dim}", "--learning_rate 4e-4"]
    flags += ["--save_state"] * save + [f"--initial_epoch {initial}"] * bool(initial)
    flags += [f"--resume {resume}"] * bool(resume)
    text = "accelerate launch sd-scripts/flux_train_network.py " + " ".join(flags)
    return {"__type__": "update", "value": text}, {"__type__": "update", "value": "config"}


def real(generate: Callable[..., Any] = update) -> Gym:
    click = event(generate)
    click.inputs = REAL_INPUTS
    return find_gym((*BLOCKS, DIM, INITIAL), [click])


STOCK = ["my-lora", 16, 4, "", False, ""]


def resumed(values: list[Any] = STOCK, **more: Any) -> Carrying:
    return carry(real(), values, RUN, PATH, script_of(SCRIPT_NOW), **more)


def boxes(gym: Gym, done: Carrying | None, values: list[Any]) -> list[Any]:
    """What the page's boxes hold after new values for them came."""
    assert done is not None
    assert done.values is not None
    new = dict(zip(map(id, gym.targets), done.values, strict=False))
    return [new.get(id(box), value) for box, value in zip(gym.inputs, values, strict=True)]


def test_what_fluxgym_would_write_otherwise_is_shown_with_both_values() -> None:
    assert "would still write --learning_rate 4e-4 (the run's script: 8e-4). Change" in resumed().told


def test_numbers_of_the_script_are_set_as_numbers() -> None:
    now = boxes(real(), resumed(), STOCK)

    assert now == ["my-lora", 24, 16, PATH, True, "13"]
    assert (type(now[1]), type(now[2])) == (int, int)


def test_a_number_that_the_box_cannot_hold_is_shown_instead() -> None:
    script = script_of(SCRIPT_NOW.replace("--network_dim 16", "--network_dim 2"))
    done = carry(real(), STOCK, RUN, PATH, script)

    assert boxes(real(), done, STOCK)[2] == 4
    assert "--network_dim 4 (the run's script: 2)" in done.told


def test_the_same_folder_as_another_machine_names_it_is_no_difference(tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "my-lora"
    run.mkdir(parents=True)
    theirs = SCRIPT_NOW.replace("/x/", "/workspace/fluxgym/").replace("8e-4", "4e-4")
    theirs += " --output_dir /workspace/fluxgym/outputs/my-lora --lr_warmup_steps 5.0"

    def generate(*values: Any) -> tuple[Any, Any]:
        script, config = update(*values)
        script["value"] += f" --output_dir {run} --lr_warmup_steps 5"
        return script, config

    done = carry(real(generate), STOCK, run, f"{run}/s", script_of(theirs))
    assert "would still" not in done.told


def test_another_name_takes_out_what_was_carried_and_the_same_name_brings_it_back() -> None:
    gym, carried = real(), resumed().carried
    now = boxes(gym, resumed(), STOCK)
    renamed = ["another", *now[1:]]

    out = follow_name(gym, renamed, carried)

    assert out is not None
    assert boxes(gym, out, renamed) == ["another", *STOCK[1:]]
    assert "no longer set in the Gym tab (--resume, --save_state, --initial_epoch" in out.told
    assert out.values is not None
    assert "--resume" not in out.values[-2]["value"]
    assert follow_name(gym, ["a third", *STOCK[1:]], out.carried) is None
    back = follow_name(gym, ["My LoRA", *STOCK[1:]], out.carried)
    assert boxes(gym, back, ["My LoRA", *STOCK[1:]]) == ["My LoRA", *now[1:]]
    assert back is not None
    assert back.carried == carried


@pytest.mark.parametrize("name", ["My LoRA", "my-lora", " my lora "])
def test_a_name_of_the_same_run_leaves_it_in(name: str) -> None:
    now = boxes(real(), resumed(), STOCK)
    assert follow_name(real(), [name, *now[1:]], resumed().carried) is None


@pytest.mark.parametrize("name", ["", "my-lora-2", "my-lor"])
def test_every_other_name_takes_it_out(name: str) -> None:
    now = boxes(real(), resumed(), STOCK)
    assert follow_name(real(), [name, *now[1:]], resumed().carried) is not None


def test_what_somebody_typed_since_is_left() -> None:
    renamed = ["another", 99, 16, "'/mine'", True, "13"]
    out = follow_name(real(), renamed, resumed().carried)

    assert boxes(real(), out, renamed) == ["another", 99, 4, "'/mine'", False, ""]


def test_what_was_typed_before_is_there_again() -> None:
    typed = ["my-lora", 20, 8, "'/mine'", True, "3"]
    first = resumed(typed)
    now = boxes(real(), first, typed)
    # A second resume remembers what was there before the first.
    second = carry(real(), now, RUN, "'/other'", script_of(SCRIPT_NOW), first.carried)
    renamed = ["another", *boxes(real(), second, now)[1:]]

    assert boxes(real(), follow_name(real(), renamed, second.carried), renamed) == ["another", *typed[1:]]


def test_an_undo_brings_back_what_was_there_before_and_nothing_is_carried() -> None:
    typed = ["my-lora", 20, 8, "'/mine'", True, "3"]
    first = resumed(typed)
    before = script_of(SCRIPT_NOW.replace(" --resume '/x/outputs/my-lora/s'", ""))

    undone = carry(real(), boxes(real(), first, typed), RUN, "", before, first.carried, is_undo=True)

    assert boxes(real(), undone, typed) == typed
    assert undone.carried is None
    assert "holds again what it held before" in undone.told


def test_an_undo_that_leads_to_an_earlier_resume_carries_that() -> None:
    first = resumed()
    now = boxes(real(), first, STOCK)
    earlier = script_of(SCRIPT_NOW.replace("my-lora/s", "my-lora/r").replace("13", "9"))
    undone = carry(real(), now, RUN, "'/x/outputs/my-lora/r'", earlier, first.carried, is_undo=True)

    assert boxes(real(), undone, now) == ["my-lora", 24, 16, "'/x/outputs/my-lora/r'", True, "9"]
    assert undone.carried is not None
    assert set(undone.carried.before.values()) == {16, 4, "", False}


def test_what_another_run_carried_stays_remembered() -> None:
    carried = Carried("first", {id(RESUME): ""}, {id(RESUME): "'/first'"})
    done = carry(real(), ["first", 16, 4, "'/first'", False, ""], RUN, PATH, None, carried)

    assert done.values is None
    assert done.carried == carried


def test_where_fluxgym_cannot_generate_the_boxes_are_emptied_all_the_same() -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no base model")

    now = boxes(real(), resumed(), STOCK)
    out = follow_name(real(fails), ["another", *now[1:]], resumed().carried)

    assert boxes(real(), out, now) == ["another", *STOCK[1:]]
