"""How far a training is, as its log tells, and how its loss went; both go through JSON and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from checkpoint_core.formats import count_in, number_in, text_in

#: A loss above it is as good as infinite, and sums of what is below stay finite.
_LARGEST_LOSS = 1e100
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Progress:
    """One moment of a training; what the log has not told yet is None."""

    epoch: int | None = None
    epochs: int | None = None
    #: The trainer's bar counts from the launch, not from the beginning of the training (train_network.py, ``tqdm(``).
    bar_step: int | None = None
    bar_total: int | None = None
    #: The training's true step at which this launch began.
    first_step: int = 0
    steps_per_epoch: int | None = None
    seconds_per_step: float | None = None
    elapsed_seconds: float = 0.0
    seconds_left: float | None = None
    #: The average that the bar shows; may be NaN or infinite.
    loss: float | None = None
    #: For how many steps in a row, up to now, the loss has been NaN or infinite.
    nan_steps: int = 0
    #: What was saved last: "epoch 2", "step 250", "the end", or nothing.
    last_saved: str = ""
    #: A state is being saved right now.
    saving: bool = False
    finished: bool = False

    @property
    def step(self) -> int | None:
        """The training's true step."""
        return None if self.bar_step is None else self.first_step + self.bar_step

    @property
    def has_trained(self) -> bool:
        """Whether this launch has trained a step; where the bar goes elsewhere, what else was told decides."""
        return bool(self.bar_step) if self.bar_step is not None else bool(self.epoch or self.last_saved)

    def to_json(self) -> dict[str, object]:
        """For strict JSON: NaN and infinity become text."""
        return {field.name: _without_nan(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, value: object) -> Progress:
        """What `to_json` wrote; whatever does not fit becomes the default."""
        table = value if isinstance(value, dict) else {}
        kept = {name: fit(table.get(name)) for name, fit in _FITTING.items()}
        return cls(**{name: one for name, one in kept.items() if one is not None})


def _without_nan(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _seconds(value: object) -> float | None:
    number = number_in(value)
    return number if number is not None and math.isfinite(number) and number >= 0 else None


def _loss(value: object) -> float | None:
    if value in ("nan", "inf", "-inf"):
        return math.nan if value == "nan" else float(str(value))
    number = number_in(value)
    return math.nan if number is not None and math.isnan(number) else number


def _name(value: object) -> str | None:
    text = text_in(value)
    return None if text is None else text[:_LONGEST_NAME]


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


_FITTING: dict[str, Any] = {
    **dict.fromkeys(("epoch", "epochs", "bar_step", "bar_total", "first_step", "steps_per_epoch"), count_in),
    **dict.fromkeys(("seconds_per_step", "elapsed_seconds", "seconds_left"), _seconds),
    "loss": _loss, "nan_steps": count_in, "last_saved": _name, "saving": _flag, "finished": _flag,
}  # fmt: skip


class LossHistory:
    """The loss over the steps in at most `MAX_POINTS` points, however long the training is.

    Each point is the mean of as many steps as are needed for that, and stands at the last of them.
    """

    MAX_POINTS = 1000

    def __init__(self) -> None:
        self._points: list[tuple[int, float]] = []
        self._steps_a_point = 1
        #: The losses that are waiting for their point to be full.
        self._waiting: tuple[int, float, int] = (0, 0.0, 0)
        #: The newest, which the trainer may still correct: it shows each step twice, first with the old loss.
        self._newest: tuple[int, float] | None = None
        self._newest_step = -1

    @property
    def points(self) -> tuple[tuple[int, float], ...]:
        """Step and loss, oldest first."""
        step, total, count = self._with_newest()
        return (*self._points, (step, total / count)) if count else tuple(self._points)

    def add(self, step: int, loss: float) -> None:
        """Take in the loss of a step; the last word on a step counts, and a loss that is no number leaves a gap."""
        if step < self._newest_step:
            self.cut(step - 1)
        elif step > self._newest_step:
            self._settle()
        self._newest_step = step
        self._newest = (step, loss) if abs(loss) <= _LARGEST_LOSS else None

    def cut(self, step: int) -> None:
        """Forget what came after that step: a resumed training goes on from there."""
        self._points = [point for point in self._points if point[0] <= step]
        if self._waiting[0] > step:
            self._waiting = (0, 0.0, 0)
        if self._newest_step > step:
            self._newest = None
            self._newest_step = step

    def moved(self, steps: int) -> LossHistory:
        """The same losses, so many steps later."""
        copy = LossHistory()
        copy._points = [(step + steps, loss) for step, loss in self._points]
        copy._steps_a_point = self._steps_a_point
        step, total, count = self._waiting
        copy._waiting = (step + steps, total, count)
        copy._newest = None if self._newest is None else (self._newest[0] + steps, self._newest[1])
        copy._newest_step = self._newest_step + steps
        return copy

    def _with_newest(self) -> tuple[int, float, int]:
        if self._newest is None:
            return self._waiting
        return self._newest[0], self._waiting[1] + self._newest[1], self._waiting[2] + 1

    def _settle(self) -> None:
        step, total, count = self._waiting = self._with_newest()
        self._newest = None
        if count >= self._steps_a_point:
            self._points.append((step, total / count))
            self._waiting = (0, 0.0, 0)
            if len(self._points) >= self.MAX_POINTS - 2:  # room for the one that is waiting; an even number
                self._halve()

    def _halve(self) -> None:
        pairs = zip(self._points[::2], self._points[1::2], strict=False)
        alone = self._points[-1:] if len(self._points) % 2 else []
        self._points = [(later[0], (earlier[1] + later[1]) / 2) for earlier, later in pairs] + alone
        self._steps_a_point *= 2

    def to_json(self) -> dict[str, object]:
        """For strict JSON."""
        return {"steps_a_point": self._steps_a_point, "points": [list(point) for point in self.points]}

    @classmethod
    def from_json(cls, value: object) -> LossHistory:
        """What `to_json` wrote; whatever does not fit is left out."""
        history, table = cls(), value if isinstance(value, dict) else {}
        points = table.get("points")
        for point in points if isinstance(points, list) else []:
            history._add_saved(point)
        history._steps_a_point *= count_in(table.get("steps_a_point")) or 1
        return history

    def _add_saved(self, point: object) -> None:
        """One point of a saved history, if it is one and comes after the others."""
        if not isinstance(point, list | tuple) or len(point) != 2:
            return
        step, loss = count_in(point[0]), number_in(point[1])
        if step is None or loss is None or not abs(loss) <= _LARGEST_LOSS or step <= self._newest_step:
            return
        self._points.append((step, loss))
        self._newest_step = step
        if len(self._points) >= self.MAX_POINTS:
            self._halve()
