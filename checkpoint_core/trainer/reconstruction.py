"""What a state's other files tell of one that is lost: the schedule, and where the training stood; pure arithmetic.

torch's ``LambdaLR`` (all of sd-scripts' ``--lr_scheduler`` names, ``train_util.py`` ``get_scheduler_fix``) keeps
nothing but the rates that it multiplies and its count of updates: the first it also wrote into the optimizer's groups
(``initial_lr``, torch ``lr_scheduler.py``), the second is the optimizer's own, once a process (accelerate
``scheduler.py``, ``step``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from checkpoint_core.formats import TrainState
from checkpoint_core.states import Layout, OptimizerFacts, SavePoint, SchedulerFacts, StateFacts, layout
from checkpoint_core.trainer.launch import LaunchPoint
from checkpoint_core.trainer.learning_rate import learning_rate_at
from checkpoint_core.trainer.position import Position

#: A save takes milliseconds a file; a copy without times keeps files that lie side by side within a second or two.
TOLERANCE_NS = 2 * 1_000_000_000


@dataclass(frozen=True)
class SchedulerValues:
    """What ``scheduler.bin`` held: one rate for each parameter group, and the updates counted once a process."""

    base_lrs: tuple[float, ...]
    last_lrs: tuple[float, ...]
    last_epoch: int


def lost_scheduler(facts: StateFacts, launch: LaunchPoint) -> SchedulerValues | None:
    """The schedule of a state whose ``scheduler.bin`` is lost; ``None`` where the other files do not tell it.

    Only where the script's schedule, at the optimizer's count, gives the very rates that the optimizer holds: a changed
    script, or a schedule that is not known here, would go on at another rate.
    """
    optimizer, script = facts.optimizer, launch.script
    if facts.layout is not Layout.SD_SCRIPTS or script is None or not isinstance(optimizer, OptimizerFacts):
        return None
    base, last, step = optimizer.initial_rates, optimizer.learning_rates, optimizer.step
    if optimizer.schedule_free or not step or not base or len(base) != len(last):
        return None
    if len(base) != len(optimizer.group_sizes):
        return None
    total = launch.saved_total_steps or step + 1
    expected = [learning_rate_at(script, rate, step, total) for rate in base]
    if any(rate is None or not _close(rate, held) for rate, held in zip(expected, last, strict=True)):
        return None
    return SchedulerValues(base, last, step * max(1, script.num_processes))


def _close(rate: float, held: float) -> bool:
    return math.isclose(rate, held, rel_tol=1e-6, abs_tol=1e-15)


def lost_train_state(facts: StateFacts, position: Position) -> TrainState | None:
    """Where a state stands whose ``train_state.json`` alone is of a later save that was killed after that file.

    Optimizer and scheduler must agree on the earlier count, and the file must be newer than all the others. ``None``
    where that is not so, or where an epoch's own name tells the epoch.
    """
    optimizer, scheduler, steps = facts.optimizer, facts.scheduler, position.steps_per_epoch
    if not isinstance(optimizer, OptimizerFacts) or not isinstance(scheduler, SchedulerFacts) or not steps:
        return None
    count = position.lifetime_step
    if not count or optimizer.step != count or facts.name.save_point is SavePoint.EPOCH:
        return None
    first = facts.file(layout.TRAIN_STATE)
    rest = [entry.modified_ns for entry in facts.files if entry.name in layout.WRITE_ORDER[1:]]
    if first is None or not rest or first.modified_ns <= max(rest) + TOLERANCE_NS:
        return None
    return TrainState(current_epoch=-(-count // steps), current_step=count)
