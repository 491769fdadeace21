"""Progress and losses go through JSON and back, and no JSON is too odd for them."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint_core.training.log.progress import LossHistory, Progress

FULL = Progress(
    epoch=2, epochs=3, bar_step=5, bar_total=24, first_step=8, steps_per_epoch=8, seconds_per_step=0.5,
    elapsed_seconds=12.0, seconds_left=5.5, loss=1.25, nan_steps=0, last_saved="epoch 1", saving=True, finished=False,
)  # fmt: skip

ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
NAMES = [field.name for field in fields(Progress)]


def strict(value: object) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


def test_the_true_step_counts_from_where_the_launch_began() -> None:
    assert FULL.step == 13
    assert Progress(first_step=8).step is None


@pytest.mark.parametrize("loss", [None, 1.5, math.nan, math.inf, -math.inf])
def test_progress_through_json(loss: float | None) -> None:
    progress = Progress(epoch=1, loss=loss, nan_steps=3)
    again = Progress.from_json(strict(progress.to_json()))
    assert again == progress
    assert Progress.from_json(strict(FULL.to_json())) == FULL


@given(ODD, st.dictionaries(st.sampled_from(NAMES), ODD))
def test_odd_progress_becomes_something_that_can_be_saved(value: object, table: dict[str, object]) -> None:
    assert Progress.from_json(value) == Progress() or isinstance(value, dict)
    strict(Progress.from_json(table).to_json())


def test_what_does_not_fit_becomes_the_default() -> None:
    odd = {"epoch": -1, "epochs": True, "bar_step": 1.5, "first_step": None, "loss": "x",
           "seconds_left": math.nan, "elapsed_seconds": 10**400,
           "saving": 1, "last_saved": 5, "finished": 1}  # fmt: skip
    assert Progress.from_json(odd) == Progress()
    assert Progress.from_json({**odd, "epoch": 4}) == Progress(epoch=4)


def history(*points: tuple[int, float]) -> LossHistory:
    made = LossHistory()
    for step, loss in points:
        made.add(step, loss)
    return made


def test_few_losses_are_kept_as_they_are() -> None:
    assert history((1, 3.0), (2, 2.0)).points == ((1, 3.0), (2, 2.0))
    assert LossHistory().points == ()


def test_the_last_word_on_a_step_counts() -> None:
    assert history((1, 3.0), (2, 3.0), (2, 1.0)).points == ((1, 3.0), (2, 1.0))
    assert history((1, 3.0), (2, 3.0), (2, math.nan)).points == ((1, 3.0),)


def test_what_is_no_number_leaves_a_gap() -> None:
    losses = history((1, 3.0), (2, math.nan), (3, math.inf), (4, -math.inf), (5, 1e300), (6, 2.0))
    assert losses.points == ((1, 3.0), (6, 2.0))


def test_a_resume_replaces_what_came_after_it() -> None:
    losses = history((1, 3.0), (2, 2.0), (3, 1.0))
    losses.cut(2)
    assert losses.points == ((1, 3.0), (2, 2.0))
    losses.add(2, 5.0)
    assert losses.points[0] == (1, 3.0)
    again = history((1, 3.0), (2, 2.0), (3, 1.0), (2, 9.0))
    assert again.points == ((1, 3.0), (2, 9.0))


def test_a_million_losses_stay_few_and_true() -> None:
    losses = LossHistory()
    for step in range(1, 1_000_001):
        losses.add(step, float(step))
    points = losses.points
    assert 400 < len(points) <= LossHistory.MAX_POINTS
    assert points[-1][0] == 1_000_000
    steps = [step for step, _ in points]
    assert steps == sorted(set(steps))
    assert all(abs(loss - step) <= 2048 for step, loss in points)


@given(st.lists(st.tuples(st.integers(0, 50), st.floats()), max_size=60), st.integers(-5, 60))
@settings(max_examples=100)
def test_points_are_in_order_whatever_comes(added: list[tuple[int, float]], cut: int) -> None:
    losses = history(*added)
    losses.cut(cut)
    steps = [step for step, _ in losses.points]
    assert steps == sorted(set(steps))
    assert all(step <= cut for step in steps)
    assert all(math.isfinite(loss) for _, loss in losses.points)


def test_history_through_json() -> None:
    losses = history(*((step, step / 7) for step in range(2500)))
    again = LossHistory.from_json(strict(losses.to_json()))
    assert again.points == losses.points
    for step in range(2500, 9000):
        again.add(step, 1.0)
    assert len(again.points) <= LossHistory.MAX_POINTS
    assert again.points[-1] == (8999, 1.0)


def test_a_saved_history_may_be_too_long() -> None:
    long = LossHistory.from_json({"points": [[step, 1.0] for step in range(10_000)]})
    assert len(long.points) <= LossHistory.MAX_POINTS


@given(ODD, st.lists(ODD | st.tuples(ODD, ODD), max_size=8), ODD)
def test_odd_histories_become_something_that_can_be_saved(
    value: object, points: list[object], width: object
) -> None:
    strict(LossHistory.from_json(value).to_json())
    losses = LossHistory.from_json({"points": points, "steps_a_point": width})
    losses.add(3, 1.0)
    strict(losses.to_json())


def test_moved_is_a_copy_at_later_steps() -> None:
    losses = history((1, 3.0), (2, 2.0))
    moved = losses.moved(8)
    losses.add(3, 1.0)
    assert moved.points == ((9, 3.0), (10, 2.0))
    moved.add(11, 1.0)
    assert moved.points[-1] == (11, 1.0)
