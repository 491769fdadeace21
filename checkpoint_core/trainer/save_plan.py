"""What a launch of the trainer will save, overwrite and remove, in its own order; pure.

sd-scripts ``train_network.py`` (the end of a step, of an epoch and of the training) and ``library/train_util.py``
(``save_and_remove_state_on_epoch_end``, ``save_and_remove_state_stepwise``, ``get_remove_epoch_no``,
``get_remove_step_no``, ``get_epoch_ckpt_name`` and its siblings). Epochs count from 1, steps from the launch on.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.trainer.given import Undetermined, given, given_count, is_given

#: A script that makes more changes than that is none that anyone waits for.
MAX_CHANGES = 20_000


@dataclass(frozen=True)
class SaveRules:
    """The flags that decide what is saved and kept; 0 stands for a flag that is not given.

    ``every_epochs`` and ``every_steps`` are the intervals, the ``kept_…`` the retention: LoRA files and states, in
    saves for epochs and in steps for steps; ``None`` keeps everything.
    """

    name: str | None
    suffix: str
    every_epochs: int
    every_steps: int
    saves_states: bool
    saves_last_state: bool
    kept_epochs: int | None
    kept_epoch_states: int | None
    kept_steps: int | None
    kept_step_states: int | None

    def epoch_name(self, epoch: int) -> str:
        """The common part of the names of an epoch's save."""
        return f"{self.name or 'epoch'}-{epoch:06d}"

    def step_name(self, step: int) -> str:
        """The common part of the names of a step's save."""
        return f"{self.name or 'at'}-step{step:08d}"

    @property
    def last_name(self) -> str:
        """The common part of the names of the last save."""
        return self.name or "last"


@dataclass(frozen=True)
class Launch:
    """The epochs that one start trains, and how it counts its steps.

    It begins with ``first_count`` (steps of the first epoch that it passes over) and ends with ``last_count``.
    ``steps_per_epoch`` is ``None`` where it is not known; then only epochs are counted.
    """

    first_epoch: int
    last_epoch: int
    steps_per_epoch: int | None = None
    first_count: int = 0
    last_count: int = 0


class SaveEvent(NamedTuple):
    """One name in the run's folder that the trainer writes or removes.

    ``when`` is for people, ``epoch 5`` or ``step 250``; ``at_step`` says for programs which of the two it is.
    """

    name: str
    when: str
    is_state: bool
    is_removal: bool = False
    at_step: bool = False


def overwritten_steps(told: Iterable[SaveEvent], names: frozenset[str]) -> tuple[str, ...]:
    """Of the names in the run's folder those with a step number that are written anew."""
    return tuple(
        change.name for change in told if change.at_step and not change.is_removal and change.name in names
    )


def removed_states(told: Iterable[SaveEvent], names: frozenset[str]) -> Iterator[tuple[str, str]]:
    """The states in the run's folder that are deleted as they are now, each with the moment."""
    written: set[str] = set()
    for change in told:
        if not change.is_removal:
            written.add(change.name)
        elif change.is_state and change.name in names - written:
            yield change.name, change.when


def most_room(told: Iterable[SaveEvent], names: frozenset[str], state_bytes: int, lora_bytes: int) -> int:
    """The most bytes by which the folder outgrows its present size at any moment; what is overwritten takes none."""
    # A save opens the files that it writes over for writing, which empties them first (``torch.save``, ``save_file``).
    present, room, most = set(names), 0, 0
    for change in told:
        size = state_bytes if change.is_state else lora_bytes
        if change.is_removal and change.name in present:
            present.remove(change.name)
            room -= size
        elif not change.is_removal and change.name not in present:
            present.add(change.name)
            room += size
            most = max(most, room)
    return most


def save_rules(script: ScriptFacts, epochs: int | None) -> SaveRules | None:
    """The rules that the script's flags make; ``None`` where one of them cannot be told.

    :param epochs: all epochs of the training, by which ``--save_n_epoch_ratio`` divides.
    """
    try:
        every_epochs = given_count(script, "--save_every_n_epochs") or 0
        ratio = given_count(script, "--save_n_epoch_ratio") or 0
        if ratio:  # train_network.py: math.floor(num_train_epochs / args.save_n_epoch_ratio) or 1
            every_epochs = (_known(epochs) // ratio) or 1
        kept_epochs, kept_steps = (
            given_count(script, "--save_last_n_epochs"),
            given_count(script, "--save_last_n_steps"),
        )
        return SaveRules(
            name=given(script, "--output_name"),
            suffix="." + (given(script, "--save_model_as") or "safetensors"),
            every_epochs=every_epochs,
            every_steps=given_count(script, "--save_every_n_steps") or 0,
            saves_states=is_given(script, "--save_state"),
            saves_last_state=is_given(script, "--save_state")
            or is_given(script, "--save_state_on_train_end"),
            kept_epochs=kept_epochs,
            # A 0 counts as not given (train_util.py: "if args.save_last_n_epochs_state else").
            kept_epoch_states=given_count(script, "--save_last_n_epochs_state") or kept_epochs,
            kept_steps=kept_steps,
            kept_step_states=given_count(script, "--save_last_n_steps_state") or kept_steps,
        )
    except Undetermined:
        return None


def changes(rules: SaveRules, launch: Launch) -> tuple[SaveEvent, ...] | None:
    """Everything that the launch writes and removes, in order; ``None`` where it cannot be told.

    A removal stands here whether or not there is something to remove.
    """
    if rules.every_steps and launch.steps_per_epoch is None:
        return None
    told = tuple(islice(_changes(rules, launch), MAX_CHANGES + 1))
    return told if len(told) <= MAX_CHANGES else None


def _changes(rules: SaveRules, launch: Launch) -> Iterator[SaveEvent]:
    # An epoch's last step is saved before the epoch is: train_network.py looks at the epoch after its loop of steps.
    for _, by_epoch, number in heapq.merge(_steps(rules, launch), _epochs(rules, launch)):
        yield from _at_epoch(rules, number) if by_epoch else _at_step(rules, number)
    when = f"epoch {launch.last_epoch}"
    # save_state_on_train_end comes before the last save_model: the LoRA file is the trainer's last act.
    if rules.saves_last_state:
        yield SaveEvent(f"{rules.last_name}-state", when, is_state=True)
    yield SaveEvent(f"{rules.last_name}{rules.suffix}", when, is_state=False)


def _steps(rules: SaveRules, launch: Launch) -> Iterator[tuple[int, bool, int]]:
    """The steps that are saved, each with its place in time."""
    every = rules.every_steps
    if every:
        # global_step is 0 at each launch, or what is skipped of its first epoch; it is never the lifetime's count.
        first = launch.first_count // every * every + every
        yield from ((step, False, step) for step in range(first, launch.last_count + 1, every))


def _epochs(rules: SaveRules, launch: Launch) -> Iterator[tuple[int, bool, int]]:
    """The epochs that are saved: all of the interval but the last, which is saved under the last name."""
    every, steps = rules.every_epochs, launch.steps_per_epoch or 0
    if every:
        # "(epoch + 1) < num_train_epochs"; epochs, unlike steps, go on counting over a resume.
        first = -(-launch.first_epoch // every) * every
        yield from (
            ((epoch - launch.first_epoch + 1) * steps, True, epoch)
            for epoch in range(first, launch.last_epoch, every)
        )


def _at_step(rules: SaveRules, step: int) -> Iterator[SaveEvent]:
    when = f"step {step}"
    yield SaveEvent(rules.step_name(step) + rules.suffix, when, is_state=False, at_step=True)
    if rules.saves_states:
        yield SaveEvent(f"{rules.step_name(step)}-state", when, is_state=True, at_step=True)
        old = _old_step(step, rules.kept_step_states, rules.every_steps)
        # save_and_remove_state_stepwise spares step 0; get_remove_step_no, for LoRA files, does not.
        if old > 0:
            yield SaveEvent(
                f"{rules.step_name(old)}-state", when, is_state=True, is_removal=True, at_step=True
            )
    old = _old_step(step, rules.kept_steps, rules.every_steps)
    if old >= 0:
        yield SaveEvent(
            rules.step_name(old) + rules.suffix, when, is_state=False, is_removal=True, at_step=True
        )


def _old_step(step: int, kept: int | None, every: int) -> int:
    # Kept are the saves of the last so many steps: with 30 kept of every 10, step 50 removes 10 (get_remove_step_no).
    return -1 if kept is None else (step - kept - 1) // every * every


def _at_epoch(rules: SaveRules, epoch: int) -> Iterator[SaveEvent]:
    when = f"epoch {epoch}"
    yield SaveEvent(rules.epoch_name(epoch) + rules.suffix, when, is_state=False)
    old = -1 if rules.kept_epochs is None else epoch - rules.every_epochs * rules.kept_epochs
    if old >= 0:
        yield SaveEvent(rules.epoch_name(old) + rules.suffix, when, is_state=False, is_removal=True)
    if rules.saves_states:
        yield SaveEvent(f"{rules.epoch_name(epoch)}-state", when, is_state=True)
        kept = rules.kept_epoch_states
        if kept is not None:
            # save_and_remove_state_on_epoch_end asks for no sign; no folder has the name of a negative epoch.
            name = f"{rules.epoch_name(epoch - rules.every_epochs * kept)}-state"
            yield SaveEvent(name, when, is_state=True, is_removal=True)


def _known(value: int | None) -> int:
    if value is None:
        raise Undetermined("the epochs of the training")
    return value
