"""What a launch of the train script makes of a state: where it goes on and where it ends; one value for a judgement."""

from __future__ import annotations

from dataclasses import dataclass, replace

from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.trainer.dataset_config import DatasetFacts
from checkpoint_core.trainer.position import (
    Position,
    epoch_length,
    is_finished,
    last_epoch,
    launch_epoch,
    launch_step,
    total_steps,
    why_undecided,
)


@dataclass(frozen=True)
class LaunchPoint:
    """A state's position and the launch that goes on from it, worked out once and handed on.

    Epochs count from 1, steps are optimizer updates; ``None`` where it cannot be told.
    ``epoch_lengths`` are the fewest and the most steps that an epoch of the launch has, with the dataset as it is;
    ``start_epochs`` the epochs at which the trainer may go on: one, unless those lengths leave it open.
    ``undecided`` says why the script's own flags leave open where it begins or ends. ``done_steps`` are those that the
    trainer takes for done. ``last_epoch`` is where the launch ends, ``end_epoch`` where it ends at the latest.
    ``total_steps`` are those of the whole training as it is launched, ``saved_total_steps`` as it was saved.
    ``is_finished``: the state stands at the end already.
    """

    position: Position
    script: ScriptFacts | None
    epoch_lengths: tuple[int, int] | None = None
    start_epochs: frozenset[int | None] = frozenset({None})
    undecided: str | None = None
    done_steps: int | None = None
    last_epoch: int | None = None
    end_epoch: int | None = None
    total_steps: int | None = None
    saved_total_steps: int | None = None
    is_finished: bool = False

    @property
    def steps_per_epoch(self) -> int | None:
        """The steps of an epoch of the launch, where the dataset leaves no choice."""
        return _only(self.epoch_lengths)

    @property
    def start_epoch(self) -> int | None:
        """The epoch at which the trainer will go on."""
        known = tuple(self.start_epochs)
        return known[0] if len(known) == 1 and not self.undecided else None

    def without_skipping(self) -> LaunchPoint:
        """The same launch without ``--skip_until_initial_step``."""
        if self.script is None:
            return self
        script = replace(self.script, skip_until_initial_step=False)
        return _launch(self.position, script, self.epoch_lengths)


def launch_from(
    position: Position, script: ScriptFacts | None, dataset: DatasetFacts | None = None
) -> LaunchPoint:
    """The launch of a script from a state, over the dataset as it is now where that is known."""
    return _launch(position, script, epoch_length(position, script, dataset))


def _launch(position: Position, script: ScriptFacts | None, lengths: tuple[int, int] | None) -> LaunchPoint:
    steps, fewest = _only(lengths), lengths[0] if lengths else None
    undecided = why_undecided(script)
    return LaunchPoint(
        position,
        script,
        epoch_lengths=lengths,
        start_epochs=frozenset(launch_epoch(position, script, length) for length in lengths or (None,)),
        undecided=undecided,
        done_steps=launch_step(position, script, steps),
        last_epoch=last_epoch(script, steps),
        end_epoch=last_epoch(script, fewest),
        total_steps=total_steps(script, steps),
        saved_total_steps=total_steps(script, position.steps_per_epoch),
        # The fewest steps make the most epochs: only where nothing is left even then is nothing left to train.
        is_finished=not undecided and is_finished(position, script, fewest),
    )


def _only(lengths: tuple[int, int] | None) -> int | None:
    return lengths[0] if lengths and lengths[0] == lengths[1] else None
