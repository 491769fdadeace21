"""The drawing of the loss: bounded, with the checkpoints on it, and harmless whatever it is given."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from checkpoint_core.tab.views.loss_plot import Mark, loss_plot


def test_less_than_two_points_are_no_drawing() -> None:
    assert loss_plot([], []) == ""
    assert loss_plot([(1, 0.5)], []) == ""


def test_a_million_points_are_drawn_by_a_few_hundred_with_the_last() -> None:
    drawn = loss_plot([(step, 1.0 / (step + 1)) for step in range(100_000)], [])
    (line,) = re.findall(r'polyline class="ck-loss" points="([^"]+)"', drawn)
    assert len(line.split()) <= 502
    assert "to 1e-05 at step 99,999" in drawn
    assert line.split()[-1].startswith("630.0,")


def test_checkpoints_on_it_are_marked_with_their_verdict_and_names_are_text() -> None:
    marks = [Mark(5, '<b>"Epoch 1"</b>', "ready"), Mark(50, "Epoch 9", "damaged")]
    drawn = loss_plot([(1, 0.9), (10, 0.4)], marks)
    (mark,) = ElementTree.fromstring(drawn).findall("g")
    assert mark.get("class") == "ck-mark ck-ready"
    assert mark.findtext("title") == '<b>"Epoch 1"</b>'


@pytest.mark.parametrize("points", [[(1, 0.5), (2, 0.5)], [(3, 0.5), (3, 0.4)], [(0, -1e90), (1, 1e90)]])
def test_a_flat_or_a_steep_line_is_drawn(points: list[tuple[int, float]]) -> None:
    drawn = loss_plot(points, [])
    assert "nan" not in drawn
    ElementTree.fromstring(drawn)
