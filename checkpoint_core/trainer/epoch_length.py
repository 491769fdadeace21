"""How many optimizer updates an epoch of the resumed launch has: as saved, or as the present dataset makes them; pure.

A range of two numbers, least and most, where buckets leave the batches of the dataset open.
"""

from __future__ import annotations

from checkpoint_core.environment.facts import DatasetFacts
from checkpoint_core.states.facts import ScriptFacts
from checkpoint_core.trainer.position import Position, accumulation_steps


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
