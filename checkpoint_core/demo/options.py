"""The flags of the small trainer and the arithmetic of steps and epochs that follows from them.

Apart from the trainer itself so that other programs can write down a run without importing torch.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainOptions:
    """The flags of one start of the trainer, named as sd-scripts names them.

    Steps and epochs are counted from 1 in names and flags. Not of sd-scripts: `steps_per_epoch` stands for
    the data set, whose size decides it upstream; `stop_after_step`, by the trainer's own count, which begins
    anew at every start, ends the training there as a kill would, without the last state and the last LoRA
    file; `loss_log` receives one JSON line a step; `quiet` silences the bar and the lines on stdout;
    `step_seconds` is a pause after each step, so that a training can be watched.
    """

    output_dir: Path
    output_name: str
    max_train_epochs: int | None = None
    max_train_steps: int = 1600
    steps_per_epoch: int = 8
    save_every_n_epochs: int | None = None
    save_every_n_steps: int | None = None
    save_last_n_epochs: int | None = None
    save_last_n_epochs_state: int | None = None
    save_last_n_steps: int | None = None
    save_last_n_steps_state: int | None = None
    save_state: bool = False
    save_state_on_train_end: bool = False
    save_precision: str = "float"
    mixed_precision: str = "no"
    resume: str | None = None
    initial_epoch: int | None = None
    initial_step: int | None = None
    skip_until_initial_step: bool = False
    network_dim: int = 4
    network_alpha: float = 1
    network_args: tuple[str, ...] = ()
    network_train_unet_only: bool = False
    network_weights: Path | None = None
    optimizer_type: str = "adafactor"
    optimizer_args: tuple[str, ...] = ()
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0
    learning_rate: float = 8e-4
    text_encoder_lr: float | None = None
    unet_lr: float | None = None
    seed: int = 42
    loss_log: Path | None = None
    stop_after_step: int | None = None
    quiet: bool = False
    step_seconds: float = 0.0

    @property
    def total_steps(self) -> int:
        """Steps of the whole training: `--max_train_epochs` overrides `--max_train_steps`, as upstream."""
        if self.max_train_epochs is None:
            return self.max_train_steps
        return self.max_train_epochs * self.steps_per_epoch

    @property
    def total_epochs(self) -> int:
        """Epochs of the whole training, the last one possibly cut short by `--max_train_steps`."""
        return math.ceil(self.total_steps / self.steps_per_epoch)


@dataclass(frozen=True)
class StartingPoint:
    """Where training begins: epochs already done, and batches of the next epoch to pass over untrained."""

    epochs_done: int
    batches_to_skip: int


def starting_point(options: TrainOptions, steps_from_state: int | None) -> StartingPoint:
    """Return where training begins; the arithmetic of train_network.py between load_state and the loop.

    `steps_from_state` is `current_step` of the state's `train_state.json`, or None without one. Raises
    AssertionError in upstream's words when no step would be left.
    """
    if options.initial_step is not None:
        initial_step = options.initial_step
    elif options.initial_epoch is not None:
        initial_step = (options.initial_epoch - 1) * options.steps_per_epoch
    else:
        initial_step = steps_from_state or 0
    if 0 < initial_step >= options.total_steps:
        raise AssertionError(
            f"max_train_steps should be greater than initial step: {options.total_steps} vs {initial_step}"
        )
    epochs_done, rest = divmod(max(initial_step, 0), options.steps_per_epoch)
    return StartingPoint(epochs_done, rest if options.skip_until_initial_step else 0)


def step_to_remove(options: TrainOptions, step: int, kept_steps: int | None) -> int:
    """Return the step whose save `--save_last_n_steps[_state]` drops now, or -1."""
    if kept_steps is None or options.save_every_n_steps is None:
        return -1
    old = step - kept_steps - 1
    return old - old % options.save_every_n_steps


_CONVERTERS = {
    "int": int,
    "int | None": int,
    "float": float,
    "float | None": float,
    "str": str,
    "str | None": str,
    "Path | None": Path,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="small_trainer", description="A small real trainer; see the module."
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--output_name", required=True)
    for field in fields(TrainOptions):
        flag = f"--{field.name}"
        if flag in ("--output_dir", "--output_name"):
            continue
        if field.type == "bool":
            parser.add_argument(flag, action="store_true")
        elif field.type == "tuple[str, ...]":
            parser.add_argument(flag, nargs="*", default=())
        else:
            parser.add_argument(flag, type=_CONVERTERS[str(field.type)], default=field.default)
    return parser


def parse_options(arguments: Sequence[str] | None) -> TrainOptions:
    """Read the trainer's flags, the command line's for None; unknown ones, sd-scripts has hundreds, are ignored.

    A wrong use of a known flag ends the program with status 2, as argparse does.
    """
    known, _ = _parser().parse_known_args(arguments)
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in vars(known).items()
    }
    return TrainOptions(**values)
