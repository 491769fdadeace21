"""The loss over the steps as a small drawing, with the checkpoints marked on it; it takes the page's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from checkpoint_core.tab.views.markup import text

_WIDTH, _HEIGHT = 640, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 10, 16, 24
#: A drawing of so few pixels shows no more points than that.
_MOST_POINTS = 400


@dataclass(frozen=True)
class Mark:
    """A checkpoint on the drawing: its step, what it is called, and its verdict's name."""

    step: int
    title: str
    verdict: str


def loss_plot(points: Sequence[tuple[int, float]], marks: Sequence[Mark]) -> str:
    """An SVG drawing; empty where there are fewer than two points."""
    if len(points) < 2:
        return ""
    shown = points[:: max(1, len(points) // _MOST_POINTS)]
    if shown[-1] != points[-1]:
        shown = [*shown, points[-1]]
    scale = _Scale(shown)
    line = " ".join(f"{scale.x(step):.1f},{scale.y(loss):.1f}" for step, loss in shown)
    return (
        f'<svg class="ck-plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_said(points)}">'
        f"{scale.axes()}{''.join(_mark(mark, scale) for mark in marks if scale.holds(mark.step))}"
        f'<polyline class="ck-loss" points="{line}"/></svg>'
    )


class _Scale:
    """Steps and losses to places on the drawing."""

    def __init__(self, points: Sequence[tuple[int, float]]) -> None:
        losses = [loss for _, loss in points]
        self.first, self.last = points[0][0], max(points[-1][0], points[0][0] + 1)
        self.low, self.high = min(losses), max(losses)
        if self.high - self.low < 1e-9:
            self.low, self.high = self.low - 0.5, self.high + 0.5

    def holds(self, step: int) -> bool:
        return self.first <= step <= self.last

    def x(self, step: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step - self.first) / (self.last - self.first)

    def y(self, loss: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (self.high - loss) / (self.high - self.low)

    def axes(self) -> str:
        floor = _HEIGHT - _BOTTOM
        return (
            f'<path class="ck-axis" d="M{_LEFT} {_TOP}V{floor}H{_WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{_TOP + 4}" text-anchor="end">{self.high:.4g}</text>'
            f'<text x="{_LEFT - 6}" y="{floor}" text-anchor="end">{self.low:.4g}</text>'
            f'<text x="{_LEFT}" y="{_HEIGHT - 6}">step {self.first:,}</text>'
            f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">step {self.last:,}</text>'
        )


def _mark(mark: Mark, scale: _Scale) -> str:
    x = scale.x(mark.step)
    return (
        f'<g class="ck-mark ck-{text(mark.verdict)}"><title>{text(mark.title)}</title>'
        f'<path d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/><circle cx="{x:.1f}" cy="{_TOP}" r="4"/></g>'
    )


def _said(points: Sequence[tuple[int, float]]) -> str:
    first, last = points[0], points[-1]
    return (
        f"Average loss from {first[1]:.4g} at step {first[0]:,} to {last[1]:.4g} at step {last[0]:,}, "
        "with the checkpoints marked"
    )
