"""Where a training stood when a state was saved, and where the trainer would go on; pure arithmetic.

sd-scripts ``train_network.py``: a resumed trainer starts at epoch ``current_step // steps_per_epoch`` (counted
from 0) and itself counts ``current_step`` from 0 again, so the states of a resumed launch hold relative steps,
while ``current_epoch`` stays true. ``--initial_step`` and ``--initial_epoch`` take the place of ``current_step``.
"""

from __future__ import annotations

from dataclasses import dataclass

from checkpoint_core.formats import TrainState
from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.states import Layout, LoraFacts, OptimizerFacts, SavePoint, SchedulerFacts, StateFacts
from checkpoint_core.trainer.dataset_config import DatasetFacts

#: sd-scripts ``train_util.py`` (``add_training_arguments``): the default of ``--max_train_steps``.
DEFAULT_MAX_STEPS = 1600


@dataclass(frozen=True)
class Position:
    """All that a state tells about where it stands. Epochs count from 1; steps are optimizer updates.

    ``epoch`` is the epoch that was finished (of a step's state: under way); ``step`` the updates from the start of
    the training to this point; ``mid_epoch`` whether the epoch was not finished. ``lifetime_step`` is what
    the scheduler counted, repeated epochs included. ``start_epoch`` is where the trainer would go on by the
    state alone, ``next_epoch`` where it should. ``None`` where it cannot be told.
    """

    epoch: int | None
    step: int | None
    mid_epoch: bool
    steps_per_epoch: int | None
    current_epoch: int | None
    current_step: int | None
    lifetime_step: int | None
    optimizer_step: int | None
    start_epoch: int | None
    next_epoch: int | None

    @property
    def is_relative(self) -> bool | None:
        """Whether the trainer would go on at a wrong epoch by this state's own numbers; ``None``: cannot tell."""
        if self.start_epoch is None or self.next_epoch is None:
            return None
        return self.start_epoch != self.next_epoch

    @property
    def repeated_steps(self) -> int:
        """Steps of the epoch under way that the trainer trains a second time."""
        if not self.mid_epoch or self.step is None or not self.steps_per_epoch:
            return 0
        return self.step % self.steps_per_epoch


def locate(facts: StateFacts, script: ScriptFacts | None, steps_per_epoch: int | None) -> Position:
    """Fold all sources of a state's position into one."""
    if facts.layout is Layout.ACCELERATE_OBJECTS:
        return _of_custom_object(facts)
    train_state = facts.train_state if isinstance(facts.train_state, TrainState) else None
    current_epoch = train_state.current_epoch if train_state else None
    current_step = train_state.current_step if train_state else None
    lifetime = _lifetime(facts, script)
    # The LoRA file of the same save knows the dataset as it was then; the run's other files are second best.
    if isinstance(facts.lora, LoraFacts) and facts.lora.steps_per_epoch:
        steps_per_epoch = facts.lora.steps_per_epoch
    steps_per_epoch = steps_per_epoch or implied_steps_per_epoch(facts, script)
    epoch = current_epoch if current_epoch is not None else _named_epoch(facts)
    step, mid_epoch = _true_step(facts, epoch, current_step, lifetime, steps_per_epoch)
    next_epoch = (epoch if mid_epoch else epoch + 1) if epoch is not None else None
    # Equal counts mean that no resume came before: the trainer's own arithmetic then holds, whatever the numbers.
    unresumed = current_step is not None and current_step == lifetime and not steps_per_epoch
    return Position(
        epoch=epoch,
        step=step,
        mid_epoch=mid_epoch,
        steps_per_epoch=steps_per_epoch,
        current_epoch=current_epoch,
        current_step=current_step,
        lifetime_step=lifetime,
        optimizer_step=_optimizer_step(facts),
        start_epoch=next_epoch if unresumed else _epoch_after(current_step, steps_per_epoch),
        next_epoch=next_epoch,
    )


def _of_custom_object(facts: StateFacts) -> Position:
    """accelerate's registered object keeps both numbers itself, and the trainer that wrote them reads them."""
    step = getattr(facts.custom_object, "step", None)
    epoch = getattr(facts.custom_object, "epoch", None)
    return Position(
        epoch, step, False, None, epoch, step, _lifetime(facts, None), _optimizer_step(facts), None, None
    )


def _optimizer_step(facts: StateFacts) -> int | None:
    return facts.optimizer.step if isinstance(facts.optimizer, OptimizerFacts) else None


def _lifetime(facts: StateFacts, script: ScriptFacts | None) -> int | None:
    """``scheduler.last_epoch`` counts each update once a process (accelerate ``scheduler.py``, ``step``)."""
    if not isinstance(facts.scheduler, SchedulerFacts) or facts.scheduler.last_epoch is None:
        return None
    return facts.scheduler.last_epoch // max(1, script.num_processes if script else 1)


def _named_epoch(facts: StateFacts) -> int | None:
    # The trainer names an epoch's state by the epoch that it has finished (``train_util.py``, ``EPOCH_STATE_NAME``).
    if facts.name.save_point is SavePoint.EPOCH:
        return facts.name.number
    # A step's name counts steps of its own launch; the LoRA file of the same save bears its epoch (``ss_epoch``).
    return facts.lora.epoch if isinstance(facts.lora, LoraFacts) else None


def implied_steps_per_epoch(facts: StateFacts, script: ScriptFacts | None) -> int | None:
    """From an epoch's own state, when its counts show that no resume came before it."""
    at_end = facts.name.save_point in (SavePoint.EPOCH, SavePoint.LAST)
    if not at_end or facts.layout is not Layout.SD_SCRIPTS or not isinstance(facts.train_state, TrainState):
        return None
    epoch, step = facts.train_state.current_epoch, facts.train_state.current_step
    if epoch and step and step == _lifetime(facts, script) and step % epoch == 0:
        return step // epoch
    return None


def _true_step(
    facts: StateFacts,
    epoch: int | None,
    current_step: int | None,
    lifetime: int | None,
    steps_per_epoch: int | None,
) -> tuple[int | None, bool]:
    """The step since the start of the training, and whether it lies inside an epoch."""
    counted = current_step if current_step is not None else lifetime
    # Nothing can be put inside an epoch: the scheduler is left, which accelerate restores and which counts on.
    if epoch is None or not steps_per_epoch:
        return lifetime if lifetime is not None else counted, facts.name.save_point is SavePoint.STEP
    # An epoch's state is saved behind its last step, however the launch has counted.
    if facts.name.save_point is SavePoint.EPOCH or not counted:
        return epoch * steps_per_epoch, False
    # A launch counts from 0 at the beginning of an epoch or, where it skips, from the steps that it skips inside one:
    # what its count leaves over when divided by the epoch's length is right even when the count itself is relative.
    inside = (counted - 1) % steps_per_epoch + 1
    return (epoch - 1) * steps_per_epoch + inside, inside != steps_per_epoch


def _epoch_after(step: int | None, steps_per_epoch: int | None) -> int | None:
    return step // steps_per_epoch + 1 if step is not None and steps_per_epoch else None


def why_undecided(script: ScriptFacts | None) -> str | None:
    """Why the script's own flags leave open where the training begins or ends; ``None`` when they are known.

    sd-scripts prefers ``--initial_step`` to ``--initial_epoch``, and ``--max_train_epochs`` to
    ``--max_train_steps``: of each pair only the first that is given counts.
    """
    if script is None:
        return None
    flags = ["--initial_step", "--max_train_epochs"]
    flags += ["--initial_epoch"] * (script.initial_step is None)
    flags += ["--max_train_steps"] * (script.max_train_epochs is None)
    return script.why_unknown(*flags)


def accumulation_steps(script: ScriptFacts) -> int | None:
    """``--gradient_accumulation_steps``: batches that make one update; ``None`` where it cannot be told."""
    if script.lacks("--gradient_accumulation_steps"):
        return 1
    number = script.number("--gradient_accumulation_steps")
    return int(number) if number is not None and number >= 1 else None


def launch_step(
    position: Position, script: ScriptFacts | None, steps_per_epoch: int | None = None
) -> int | None:
    """The updates that the trainer takes for done when it starts (``train_network.py``, ``initial_step``).

    ``steps_per_epoch`` are those of the launch, here and below; by default those of the saved state.
    """
    if script is not None and script.initial_step is not None:
        return script.initial_step
    if script is not None and script.initial_epoch is not None:
        steps = steps_per_epoch or position.steps_per_epoch
        return max(0, script.initial_epoch - 1) * steps if steps else None
    return position.current_step or 0


def launch_epoch(
    position: Position, script: ScriptFacts | None, steps_per_epoch: int | None = None
) -> int | None:
    """The epoch (from 1) at which the trainer will go on, the script's own flags considered."""
    steps = steps_per_epoch or position.steps_per_epoch
    done = launch_step(position, script, steps)
    # Skipping makes batches of the steps first; with one batch an update that changes nothing.
    if script is not None and script.skip_until_initial_step and done and accumulation_steps(script) != 1:
        return _epoch_after_skipping(script, done, steps)
    if script is not None and script.initial_step is None and script.initial_epoch is not None:
        return max(1, script.initial_epoch)  # made into steps of this epoch length, and divided by it again
    # Only a positive ``initial_step`` moves the first epoch.
    if done == 0:
        return 1
    # Without a length only the state's own numbers tell it, and they count only where ``--initial_step`` does not.
    by_state = script is None or script.initial_step is None
    return position.start_epoch if by_state and steps is None else _epoch_after(done, steps)


def _epoch_after_skipping(script: ScriptFacts, done: int, steps_per_epoch: int | None) -> int | None:
    """The trainer makes batches of the updates, and then divides them by the updates of an epoch all the same."""
    accumulation = accumulation_steps(script)
    return _epoch_after(done * accumulation, steps_per_epoch) if accumulation else None


def last_epoch(script: ScriptFacts | None, steps_per_epoch: int | None) -> int | None:
    """How many epochs the script trains; ``--max_train_epochs`` overrides ``--max_train_steps``."""
    if script is None:
        return None
    if script.max_train_epochs is not None:
        return script.max_train_epochs
    return -(-max_steps(script) // steps_per_epoch) if steps_per_epoch else None


def max_steps(script: ScriptFacts) -> int:
    """The steps at which a training without ``--max_train_epochs`` ends."""
    return DEFAULT_MAX_STEPS if script.max_train_steps is None else script.max_train_steps


def total_steps(script: ScriptFacts | None, steps_per_epoch: int | None) -> int | None:
    """The updates of the whole training, on which its schedule is laid out."""
    if script is None:
        return None
    if script.max_train_epochs is None:
        return max_steps(script)
    return script.max_train_epochs * steps_per_epoch if steps_per_epoch else None


def is_finished(position: Position, script: ScriptFacts | None, steps_per_epoch: int | None = None) -> bool:
    """Whether the state stands at the end of what the script trains."""
    epochs = last_epoch(script, steps_per_epoch or position.steps_per_epoch)
    if script is None or epochs is None:
        return False
    # No epoch is then left to loop over; by the steps the trainer refuses it (``max_train_steps`` must be greater).
    if position.next_epoch is not None and position.next_epoch > epochs:
        return True
    # The last epoch may be cut short by the steps: its state stands inside it, with nothing left to train.
    ends_by_steps = script.max_train_epochs is None and position.steps_per_epoch is not None
    return ends_by_steps and position.step is not None and position.step >= max_steps(script)


def steps_per_epoch_now(dataset: DatasetFacts | None, script: ScriptFacts | None) -> tuple[int, int] | None:
    """Optimizer updates in an epoch of the dataset as it is, least and most; ``None`` where it cannot be told.

    sd-scripts ``train_network.py``: ``ceil(len(train_dataloader) / gradient_accumulation_steps)``, after accelerate
    has divided the batches among the processes (``data_loader.py``, rounded up).
    """
    accumulation = accumulation_steps(script) if script else None
    if dataset is None or dataset.batches is None or script is None or accumulation is None:
        return None
    at_once = max(1, script.num_processes) * accumulation
    least, most = (-(-batches // at_once) for batches in dataset.batches)
    return least, most


def epoch_length(
    position: Position, script: ScriptFacts | None, dataset: DatasetFacts | None
) -> tuple[int, int] | None:
    """The updates an epoch of the resumed launch has, least and most; ``None`` where nothing tells.

    As they were when the state was saved, unless the present dataset certainly has others.
    """
    saved, now = position.steps_per_epoch, steps_per_epoch_now(dataset, script)
    if now is None or _had_more_processes(position) or (saved is not None and now[0] <= saved <= now[1]):
        return (saved, saved) if saved else None
    return now


def _had_more_processes(position: Position) -> bool:
    """Whether the state was saved by more processes than the script shows; accelerate then finds the GPUs by itself.

    The scheduler counts an update once a process, the optimizer once (accelerate ``scheduler.py``, ``step``).
    """
    lifetime, updates = position.lifetime_step, position.optimizer_step
    return bool(lifetime and updates) and (lifetime or 0) >= 2 * (updates or 0)
