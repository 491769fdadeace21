"""The schedules against torch's own, and against numbers that transformers 4.49 gave once."""

from __future__ import annotations

import pytest
import torch

from checkpoint_core.demo.network import make_schedule
from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.states.facts import SchedulerFacts
from checkpoint_core.states.layout import Layout
from checkpoint_core.trainer.learning_rate import (
    differs,
    highest_rate,
    learning_rate_at,
    rate_text,
    saved_rates,
)
from tests.trainer.test_position import state

RATE, TOTAL = 8e-4, 32
#: The steps for which transformers' schedules were asked: a warm-up's, two on the way, the end, and past it.
STEPS = (1, 12, 28, 32, 36)


def script(processes: int = 1, **flags: object) -> ScriptFacts:
    """A script with these flags, of which a tuple gives several values."""
    values = {
        f"--{name}": value if isinstance(value, tuple) else (str(value),) for name, value in flags.items()
    }
    return ScriptFacts(
        "train.sh", "flux_train_network.py", Layout.SD_SCRIPTS, num_processes=processes, flags=values
    )


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        ({"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 4}, (2e-4, 8e-4, 8e-4, 8e-4, 8e-4)),
        ({"lr_scheduler": "linear", "lr_warmup_steps": 4}, (2e-4, 0.0005714285714, 0.0001142857143, 0, 0)),
        (
            {"lr_scheduler": "cosine", "lr_warmup_steps": "0.1"},
            (0.0002666666667, 0.0006244748261, 3.696983213e-05, 0, 3.696983213e-05),
        ),
        (
            {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 3},
            (0.0007827761343, 0.000769551813, 0.0002469266271, 0, 0),
        ),
        (
            {"lr_scheduler": "polynomial", "lr_scheduler_power": 2, "learning_rate": RATE},
            (0.0007507874023, 0.0003125609375, 1.25984375e-05, 1e-07, 1e-07),
        ),
        (
            {"lr_scheduler": "inverse_sqrt", "lr_warmup_steps": 4},
            (0.0002, 0.0004618802154, 0.0003023715784, 0.0002828427125, 0.0002666666667),
        ),
        (
            {"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_min_lr_ratio": 0.1},
            (0.0007982665016, 0.0005777660357, 0.0001074033683, 8e-05, 0.0001074033683),
        ),
        (
            {"lr_scheduler": "warmup_stable_decay", "lr_warmup_steps": 4, "lr_decay_steps": "25%"},
            (2e-4, 8e-4, 4e-4, 0, 0),
        ),
    ],
)
def test_the_rates_are_those_of_transformers(flags: dict[str, object], rates: tuple[float, ...]) -> None:
    told = [learning_rate_at(script(**flags), RATE, step, TOTAL) for step in STEPS]
    assert told == pytest.approx(rates, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 5])
def test_every_step_is_the_small_trainer_s(name: str, warmup: int) -> None:
    if name == "constant" and warmup:
        return
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    schedule = make_schedule(name, optimizer, warmup, TOTAL)
    flags = script(lr_scheduler=name, lr_warmup_steps=warmup)
    for step in range(TOTAL + 1):
        assert learning_rate_at(flags, RATE, step, TOTAL) == pytest.approx(
            schedule.get_last_lr()[0], rel=1e-9, abs=1e-15
        )
        optimizer.step()
        schedule.step()


def test_without_a_flag_the_rate_is_constant() -> None:
    assert learning_rate_at(script(), RATE, 20, TOTAL) == RATE


def test_several_processes_go_through_the_schedule_together() -> None:
    """The scheduler counts each update once a process, and so does its total; a warm-up in steps is over sooner."""
    assert learning_rate_at(script(2, lr_scheduler="linear"), RATE, 8, TOTAL) == pytest.approx(0.75 * RATE)
    warming = script(2, lr_scheduler="constant_with_warmup", lr_warmup_steps=8)
    assert learning_rate_at(warming, RATE, 2, TOTAL) == pytest.approx(RATE / 2)


ADAFACTOR = {"optimizer_type": "Adafactor", "lr_scheduler": "constant_with_warmup"}


@pytest.mark.parametrize(
    ("flags", "known"),
    [
        ({**ADAFACTOR, "optimizer_args": ("relative_step=False", "warmup_init=False")}, True),
        ({**ADAFACTOR, "optimizer_args": ("relative_step=False",)}, True),
        ({**ADAFACTOR, "optimizer_args": ("relative_step=False", "warmup_init=True")}, False),
        ({**ADAFACTOR, "optimizer_args": ("relative_step=True",)}, False),
        ({**ADAFACTOR, "optimizer_args": (None,)}, False),
        (ADAFACTOR, False),
        ({"optimizer_type": "adamw8bit"}, True),
        ({"optimizer_type": "AdamWScheduleFree"}, False),
        ({"optimizer_type": (None,)}, False),
        ({"lr_scheduler": "adafactor"}, False),
        ({"lr_scheduler": "piecewise_constant"}, False),
        ({"lr_scheduler": (None,)}, False),
        ({"lr_scheduler_type": "CosineAnnealingLR"}, False),
        ({"lr_scheduler": "cosine", "lr_scheduler_args": ("num_cycles=2",)}, False),
        ({"lr_scheduler": "constant", "lr_warmup_steps": 10}, False),  # the trainer raises ValueError
        ({"lr_scheduler": "cosine_with_min_lr"}, False),  # and here
        ({"lr_scheduler": "polynomial", "learning_rate": 1e-8}, False),  # and here
        ({"lr_scheduler": "polynomial", "lr_warmup_steps": TOTAL}, False),  # ZeroDivisionError
        ({"lr_scheduler": "linear", "lr_warmup_steps": "some"}, False),
        ({"lr_scheduler": "linear", "lr_warmup_steps": "1.5"}, False),  # argparse refuses it
        ({"lr_scheduler": "linear", "lr_warmup_steps": "10%"}, True),
    ],
)
def test_what_cannot_be_told_is_not_guessed(flags: dict[str, object], known: bool) -> None:
    assert (learning_rate_at(script(**flags), RATE, TOTAL, TOTAL) is not None) is known


def test_a_flag_that_may_be_hidden_leaves_the_schedule_open() -> None:
    hiding = ScriptFacts("train.sh", "t.py", Layout.SD_SCRIPTS, hidden="$EXTRA may hold further flags")
    assert learning_rate_at(hiding, RATE, 1, TOTAL) is None
    assert highest_rate(hiding, RATE, 1, 8, TOTAL) is None


def test_the_highest_rate_of_a_stretch() -> None:
    linear = script(lr_scheduler="linear")
    assert highest_rate(linear, RATE, 16, 24, TOTAL) == pytest.approx(RATE / 2)
    assert highest_rate(linear, RATE, 24, 24, TOTAL) == pytest.approx(RATE / 4)
    assert highest_rate(linear, RATE, TOTAL, 10_000, TOTAL) == 0


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (8e-4, "8e-4"),
        (0.0001464, "1.46e-4"),
        (0.01, "0.01"),
        (1.0, "1"),
        (0.0, "0"),
        (1e-7, "1e-7"),
        (9.999e-4, "1e-3"),
    ],
)
def test_a_rate_is_written_as_people_write_it(rate: float, text: str) -> None:
    assert rate_text(rate) == text


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (SchedulerFacts(24, (1e-4, 4e-4), (2e-4, 8e-4)), (8e-4, 4e-4, 24)),
        (SchedulerFacts(None, (1e-4,), (2e-4,)), None),
        (SchedulerFacts(24, (1e-4,), (2e-4, 8e-4)), None),
        (SchedulerFacts(24, (), ()), None),
        (None, None),
    ],
)
def test_the_group_with_the_highest_rate_speaks_for_all(
    scheduler: SchedulerFacts | None, expected: object
) -> None:
    assert saved_rates(state(scheduler=scheduler)) == expected


def test_a_twentieth_is_no_difference() -> None:
    assert not differs(1e-4, 0.96e-4)
    assert differs(1e-4, 0.94e-4)
    assert differs(0.0, 1e-9)
    assert not differs(0.0, 0.0)
