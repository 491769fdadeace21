"""The trainer's optimizers: which one a script asks for, and what it does with another one's state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.states.layout import Layout
from checkpoint_core.trainer.optimizers import (
    StopPoint,
    optimizer_of,
    stop_with,
    trainer_optimizer,
    type_to_write,
)

BARE = ScriptFacts("train.sh", "sd-scripts/flux_train_network.py", Layout.SD_SCRIPTS)


def asked(**flags: tuple[str | None, ...]) -> tuple[str, str] | None:
    found = optimizer_of(replace(BARE, flags={f"--{name}": values for name, values in flags.items()}))
    return (found[0].family, found[1]) if found else None


@pytest.mark.parametrize(
    ("flags", "family", "words"),
    [
        ({}, "adamw", "no --optimizer_type, which means AdamW"),
        ({"optimizer_type": ("",)}, "adamw", "no --optimizer_type, which means AdamW"),
        ({"optimizer_type": ("ADAFACTOR",)}, "adafactor", "--optimizer_type ADAFACTOR"),
        ({"optimizer_type": ("PagedAdamW8bit",)}, "adamw8bit", "--optimizer_type PagedAdamW8bit"),
        ({"optimizer_type": ("torch.optim.AdamW",)}, "adamw", "--optimizer_type torch.optim.AdamW"),
        ({"use_8bit_adam": ()}, "adamw8bit", "--use_8bit_adam"),
        ({"use_lion_optimizer": ()}, "lion", "--use_lion_optimizer"),
    ],
)
def test_the_optimizer_is_found_as_the_trainer_finds_it(
    flags: dict[str, tuple[str, ...]], family: str, words: str
) -> None:
    assert asked(**flags) == (family, words)


@pytest.mark.parametrize("value", [("came_pytorch.CAME",), ("RAdam",), ("torch.optim.adamw",), (None,)])
def test_an_optimizer_that_is_not_known_is_not_guessed(value: tuple[str | None, ...]) -> None:
    assert asked(optimizer_type=value) is None


def test_a_flag_that_may_be_hidden_is_not_absent() -> None:
    assert optimizer_of(replace(BARE, hidden="--config_file more.toml is not read here")) is None


@pytest.mark.parametrize(
    ("family", "written"),
    [("adafactor", "adafactor"), ("sgd", "SGDNesterov"), ("dadaptation", "DAdaptation")],
)
def test_what_is_written_gives_the_family_back(family: str, written: str) -> None:
    assert type_to_write(family) == written
    found = trainer_optimizer(written)
    assert found is not None
    assert found.family == family


def stop(saved: str, given: str) -> tuple[StopPoint, str] | None:
    optimizer = trainer_optimizer(given)
    assert optimizer is not None
    found = stop_with(saved, optimizer)
    return (found.stage, found.error) if found else None


@pytest.mark.parametrize(
    ("saved", "given", "stage", "error"),
    [
        ("adamw8bit", "adafactor", StopPoint.FIRST_STEP, "KeyError: 'beta1'"),
        ("adafactor", "adamw8bit", StopPoint.FIRST_STEP, "KeyError: 'betas'"),
        ("adafactor", "PagedAdamW8bit", StopPoint.FIRST_STEP, "KeyError: 'state1'"),
        ("adamw8bit", "AdamW", StopPoint.FIRST_STEP, "KeyError: 'exp_avg'"),
        ("adamw", "AdamW8bit", StopPoint.FIRST_STEP, "KeyError: 'state1'"),
        ("lion8bit", "AdamW8bit", StopPoint.FIRST_STEP, "KeyError: 'state2'"),
        ("adamw", "AdamWScheduleFree", StopPoint.BEFORE_STEP, "KeyError: 'train_mode'"),
        ("radamschedulefree", "AdamWScheduleFree", StopPoint.FIRST_STEP, "KeyError: 'warmup_steps'"),
        ("adamwschedulefree", "AdamW", StopPoint.LOADING, "KeyError: 'step'"),
        ("dadaptadan", "AdamW", StopPoint.FIRST_STEP, "ValueError: too many values to unpack"),
    ],
)
def test_where_and_with_which_words_the_trainer_stops(
    saved: str, given: str, stage: StopPoint, error: str
) -> None:
    assert stop(saved, given) == (stage, error)


def test_a_schedule_free_state_has_no_scheduler_for_an_ordinary_optimizer() -> None:
    found = stop("adamwschedulefree", "adafactor")
    assert found is not None
    assert found[0] is StopPoint.LOADING
    assert "scheduler.bin" in found[1]


@pytest.mark.parametrize(
    ("saved", "given"),
    [("adamw", "Lion"), ("adamw8bit", "Lion8bit"), ("prodigy", "AdamW"), ("lion8bit", "SGDNesterov8bit")],
)
def test_some_pairs_train_on_without_a_message(saved: str, given: str) -> None:
    assert stop(saved, given) is None


def weights() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(4, 4))]


def step(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


REAL: dict[str, Any] = {
    "AdamW": lambda: torch.optim.AdamW(weights(), lr=1e-3),
    "SGDNesterov": lambda: torch.optim.SGD(weights(), lr=1e-3, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize(("saved", "given"), [("AdamW", "SGDNesterov"), ("SGDNesterov", "AdamW")])
def test_torchs_own_optimizers_stop_as_it_is_said(saved: str, given: str) -> None:
    source, target, family = REAL[saved](), REAL[given](), trainer_optimizer(saved)
    assert family is not None
    said = stop(family.family, given)
    assert said is not None
    step(source)
    stage = StopPoint.LOADING
    with pytest.raises(KeyError) as caught:  # noqa: PT012 - which of the two statements raises is what is asked
        target.load_state_dict(source.state_dict())
        stage = StopPoint.FIRST_STEP
        step(target)
    assert said == (stage, f"KeyError: {caught.value}")
