"""Start, watch, stop and restart a training process."""

from __future__ import annotations

from checkpoint_core.training import launcher, processes
from checkpoint_core.training.launcher import CannotStart, DeviceBusy, NothingRuns, Start
from checkpoint_core.training.log.files import JournalLine, log_end
from checkpoint_core.training.log.progress import Progress
from checkpoint_core.training.processes import members
from checkpoint_core.training.record import (
    ProcessState,
    Request,
    TrainingRecord,
    read_record,
    send_request,
    write_record,
)
from checkpoint_core.training.restart_policy import Policy
from checkpoint_core.training.status import (
    Life,
    Processes,
    TrainingStatus,
    has_trace,
    in_use,
    training_status,
)
from checkpoint_core.training.tensorboard import EventLosses
from checkpoint_core.training.training_process import TrainingProcess
from checkpoint_core.training.watcher import LiveRun, watch

__all__ = [
    "CannotStart",
    "DeviceBusy",
    "EventLosses",
    "JournalLine",
    "Life",
    "LiveRun",
    "NothingRuns",
    "Policy",
    "ProcessState",
    "Processes",
    "Progress",
    "Request",
    "Start",
    "TrainingProcess",
    "TrainingRecord",
    "TrainingStatus",
    "has_trace",
    "in_use",
    "launcher",
    "log_end",
    "members",
    "processes",
    "read_record",
    "send_request",
    "training_status",
    "watch",
    "write_record",
]
