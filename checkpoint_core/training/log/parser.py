"""What the trainer's lines say about its progress. The sentences are those of kohya-ss/sd-scripts.

They are in ``train_network.py`` and ``library/train_util.py``. What is printed (``epoch k/N``, the counts before the
training) comes through stdout, late where that is buffered; log records and the bar come through stderr, on time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import ClassVar

from checkpoint_core.training.log.lines import BAR, HEAD, MESSAGE_COLUMN, goes_on, squeezed, without_rank
from checkpoint_core.training.log.progress import LossHistory, Progress

_LONGEST_RECORD = 2_000
_AVERAGE = re.compile(r"(?:^|[\s,])(?:avr_)?loss=\s*([^,\s]{1,30})")
_CLOCK = re.compile(r"(?:(\d{1,9}):)?(\d{1,3}):(\d\d)")
_SAVED_FILE = re.compile(r"-(?P<step>step)?(?P<number>\d{6,8})\.[a-z]+$")

_Act = Callable[["LogParser", re.Match[str]], None]


class LogParser:
    """Takes in bars and lines, one after the other, and knows what they tell together."""

    def __init__(self, first_step: int | None = None) -> None:
        #: Losses by the bar's step: where the launch began may be told later than they are.
        self.losses = LossHistory()
        self._given_first = first_step
        self._record = ""
        self._told: dict[str, int] = {}
        self._bar: tuple[int, int] | None = None
        self._times = ("", "?", "it/s")  # elapsed, rate and its unit, as the bar says them
        self._loss: float | None = None
        self._nan: tuple[int, int] = (0, -1)  # how many steps, and the last of them
        self._epoch_told: int | None = None
        self._start_epoch: int | None = None
        self._state_ignored = False
        self._last_saved = ""
        self._states = False
        self._saving: tuple[str, int, int] | None = (
            None  # what, and at which bar step and in which epoch it began
        )
        self._finished = False
        #: The bar's step at which a LoRA file was begun; until something follows it is being written.
        self._lora_at: int | None = None

    def read(self, text: str) -> None:
        """Take in one line: a bar, a line of a log record, or anything else."""
        bar = BAR.match(text)
        if bar:
            self._read_bar(bar)
        elif text.strip():
            self._read_record(text)

    def _read_bar(self, bar: re.Match[str]) -> None:
        step = int(bar["step"])
        self._bar = step, int(bar["total"])
        self._times = bar["elapsed"], bar["rate"], bar["unit"]
        if found := _AVERAGE.search(bar["postfix"]):
            self._read_loss(step, found[1])
        # The same step once more says nothing: tqdm repeats it by itself, also while a state is being saved.
        if self._saving and step > self._saving[1]:
            self._save_is_over()
        if self._lora_at is not None and step > self._lora_at:
            self._lora_at = None

    def _read_loss(self, step: int, text: str) -> None:
        try:
            loss = float(text)
        except ValueError:
            return
        self._loss = math.nan if math.isnan(loss) else loss
        self.losses.add(step, loss)
        if math.isfinite(loss):
            self._nan = (0, -1)
        elif step != self._nan[1]:
            self._nan = (self._nan[0] + 1, step)

    def _read_record(self, text: str) -> None:
        """A record is read anew with every line of it: its end shows only in what follows."""
        if goes_on(text):
            if len(self._record) >= _LONGEST_RECORD:
                return
            self._record += squeezed(text[MESSAGE_COLUMN:])
        else:
            head = HEAD.fullmatch(text)
            self._record = squeezed(without_rank(head["message"] if head else text.strip()))
        if self._record.startswith(_BEGINNINGS):
            for pattern, act in self._SENTENCES:
                if found := pattern.match(self._record):
                    act(self, found)

    def _count(self, found: re.Match[str]) -> None:
        self._told.update({name: int(number) for name, number in found.groupdict().items() if number})

    def _epoch(self, found: re.Match[str]) -> None:
        epoch = int(found["epoch"])
        if "epochs" in found.groupdict():
            self._told["epochs"] = int(found["epochs"])
        if self._start_epoch is None:
            self._start_epoch = max(epoch, 1)
        if self._saving and epoch > self._saving[2]:  # a smaller one was printed before, and comes late
            self._save_is_over()
        self._lora_at = None
        self._epoch_told = max(epoch, self._epoch_told or 0)

    def _state_is_ignored(self, _: re.Match[str]) -> None:
        self._state_ignored = True

    def _state_save(self, found: re.Match[str]) -> None:
        what = f"{found['kind']} {int(found['number'])}" if found.re.groups else "the end"
        self._saving = what, self._bar[0] if self._bar else 0, self._epoch_now() or 0

    def _save_is_over(self, _: re.Match[str] | None = None) -> None:
        if self._saving:
            self._last_saved, self._states = self._saving[0], True
        self._saving = self._lora_at = None

    def _lora_save(self, found: re.Match[str]) -> None:
        """The LoRA files tell what was saved only where no states are: these are told on time, the files may not be."""
        self._lora_at = None if self._finished else (self._bar[0] if self._bar else 0)
        if self._states or self._saving or self._finished:
            return
        number = _SAVED_FILE.search(found["file"])
        if number and number["step"]:
            self._last_saved = f"step {int(number['number'])}"
        elif number and int(number["number"]) <= self._told.get("epochs", 999_999):
            self._last_saved = f"epoch {int(number['number'])}"
        else:
            self._last_saved = "the end"

    def _end(self, _: re.Match[str]) -> None:
        self._save_is_over()
        self._lora_at = None
        self._last_saved, self._finished = "the end", True

    def progress(self) -> Progress:
        """How far the training is."""
        bar_step, bar_total = self._bar or (None, None)
        return Progress(
            epoch=self._epoch_now(),
            epochs=self._told.get("epochs"),
            bar_step=bar_step,
            bar_total=bar_total,
            first_step=self.first_step(),
            steps_per_epoch=self._steps_per_epoch(),
            seconds_per_step=self._pace(),
            elapsed_seconds=_seconds(self._times[0]),
            seconds_left=self._seconds_left(),
            loss=self._loss,
            nan_steps=self._nan[0],
            last_saved=self._last_saved,
            saving=self._saving is not None or self._lora_at is not None,
            finished=self._finished,
        )

    def _steps_per_epoch(self) -> int | None:
        """As the trainer counts (``num_update_steps_per_epoch``); --max_train_steps may end in mid-epoch."""
        batches, accumulated = self._told.get("batches"), self._told.get("accumulated")
        if batches and accumulated:
            return math.ceil(batches / accumulated)
        epochs, total = self._told.get("epochs"), self._told.get("total")
        if not total and self._bar and "skipped" not in self._told:
            total = self._bar[1]
        if epochs and total and total % epochs == 0:
            return total // epochs
        return batches or None

    def first_step(self) -> int:
        """The true step at which this launch began: the trainer goes back to the beginning of an epoch, or skips."""
        if self._given_first is not None:
            return self._given_first
        per_epoch, start, skipped = self._steps_per_epoch(), self._start_epoch, self._told.get("skipped")
        if skipped and (not per_epoch or start is None or skipped // per_epoch == start - 1):
            return skipped
        if not per_epoch:
            return 0
        if start is None:
            start = 1 if self._state_ignored else self._told.get("state_step", 0) // per_epoch + 1
        return (start - 1) * per_epoch

    def _epoch_now(self) -> int | None:
        """The latest that lines and steps tell: a line may be late, but it is never early."""
        known, per_epoch = [self._epoch_told or 0], self._steps_per_epoch()
        if self._bar and per_epoch:
            step = self.first_step() + max(self._bar[0], 1)
            known.append((step - 1) // per_epoch + 1)
        return min(max(known), self._told.get("epochs") or max(known)) or None

    def _seconds_left(self) -> float | None:
        """By the steps that are really left: after a resume the bar's total is too large, and it ends before."""
        if self._finished:
            return 0.0
        pace = self._pace()
        if self._bar is None or pace is None:
            return None
        left = self._bar[1] - self._bar[0]
        epochs, per_epoch = self._told.get("epochs"), self._steps_per_epoch()
        if epochs and per_epoch:
            left = min(left, epochs * per_epoch - self.first_step() - self._bar[0])
        return max(left, 0) * pace

    def _pace(self) -> float | None:
        """Seconds a step, as an average over the launch (``smoothing=0``)."""
        _, rate, unit = self._times
        try:
            value = float(rate)
        except ValueError:
            return None  # "?" before the first step
        return (value if unit == "s/it" else 1 / value) if value > 0 else None

    #: Without spaces, for rich may put a break anywhere.
    _SENTENCES: ClassVar[tuple[tuple[re.Pattern[str], _Act], ...]] = tuple(
        (re.compile(pattern), act)
        for pattern, act in (
            (r"epoch(?P<epoch>\d{1,9})/(?P<epochs>\d{1,9})$", _epoch),
            (r"epochisincremented\.current_epoch:\d+,epoch:(?P<epoch>\d{1,9})$", _epoch),
            (r"numbatchesperepoch.*:(?P<batches>\d{1,15})$", _count),
            (r"numepochs.*:(?P<epochs>\d{1,9})$", _count),
            (r"gradientaccumulationsteps.*=(?P<accumulated>\d{1,9})$", _count),
            (r"totaloptimizationsteps.*:(?P<total>\d{1,15})$", _count),
            (r"overridesteps\.stepsfor(?P<epochs>\d{1,9})epochsis.*:(?P<total>\d{1,15})$", _count),
            (r"loadtrainstatefrom.*'current_step':(?P<state_step>\d{1,15})\}", _count),
            (r"stepsfromthestateisignored", _state_is_ignored),
            (r"skipping(?P<skipped>\d{1,15})steps/", _count),
            (r"savingstateat(?P<kind>epoch|step)(?P<number>\d{1,15})$", _state_save),
            (r"savinglaststate", _state_save),
            (r"Randomstatessavedin", _save_is_over),
            (r"savingcheckpoint:(?P<file>.*\.(?:safetensors|ckpt|pt))$", _lora_save),
            (r"modelsaved\.$", _end),
        )
    )


def _seconds(clock: str) -> float:
    found = _CLOCK.fullmatch(clock.strip())
    return 3600.0 * int(found[1] or 0) + 60 * int(found[2]) + int(found[3]) if found else 0.0


_BEGINNINGS = (
    "epoch", "num", "gradientacc", "totalopt", "overridesteps", "loadtrain", "stepsfrom", "skipping", "saving",
    "Randomstates", "modelsaved",
)  # fmt: skip
