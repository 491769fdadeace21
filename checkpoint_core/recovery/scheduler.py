"""``scheduler.bin`` made anew from its rates and its count of updates.

torch's ``LambdaLR.load_state_dict`` takes over whatever the file holds and keeps its own formula (``lr_scheduler.py``);
``lr_lambdas`` holds what a formula with attributes of its own had, and sd-scripts' have none.
"""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint_core.formats.torch_writer import write_torch
from checkpoint_core.states.layout import SCHEDULER


def rebuilt_scheduler(base_lrs: Sequence[float], last_lrs: Sequence[float], last_epoch: int) -> bytes:
    """The file as accelerate saves it.

    :param base_lrs: the rate that the schedule multiplies, of each parameter group.
    :param last_lrs: the present rate of each group.
    :param last_epoch: the updates so far, each counted once a process.
    """
    state = {
        "base_lrs": [float(rate) for rate in base_lrs],
        "last_epoch": last_epoch,
        "_step_count": last_epoch + 1,
        "_get_lr_called_within_step": False,
        "_last_lr": [float(rate) for rate in last_lrs],
        "lr_lambdas": [{} for _ in base_lrs],
    }
    return write_torch(state, {}, SCHEDULER.removesuffix(".bin"))
