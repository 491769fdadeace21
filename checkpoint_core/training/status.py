"""How a run's training stands, read from the disk and held against the processes that there really are."""

from __future__ import annotations

import enum
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from checkpoint_core.training.log.files import JournalLine, log_end, read_journal
from checkpoint_core.training.log.progress import LossHistory, Progress
from checkpoint_core.training.log.reader import LogReader
from checkpoint_core.training.processes import Found, find_trainings, is_alive
from checkpoint_core.training.record import (
    ProcessId,
    TrainingRecord,
    progress_time_ns,
    read_progress,
    read_record,
)

#: A watcher on another machine that wrote nothing for so long is taken for gone.
_ELSEWHERE_SECONDS = 120.0
#: The processes of the machine are asked for no more often than that.
_FRESH_SECONDS = 2.0
_SHOWN_LINES, _SHOWN_JOURNAL = 200, 60


class Life(enum.Enum):
    """What of a training is alive."""

    #: There was none here, or it is over.
    NONE = "none"
    #: Watched, and started again where that was asked for.
    WATCHED = "watched"
    #: It runs, and nobody watches it: its watcher was killed, or it was started elsewhere.
    UNWATCHED = "unwatched"
    #: By its record it runs, but neither it nor its watcher is there: the machine went down, or both were killed.
    LOST = "lost"


@dataclass(frozen=True)
class TrainingStatus:
    """Everything there is to show of a run's training."""

    life: Life
    record: TrainingRecord | None
    progress: Progress
    history: LossHistory
    journal: tuple[JournalLine, ...]
    log: tuple[str, ...]
    #: Where it was started by others than us: its first process.
    found: ProcessId | None = None

    @property
    def is_running(self) -> bool:
        """Whether a training of this run runs, or is about to."""
        return self.life in (Life.WATCHED, Life.UNWATCHED)

    @property
    def is_watched(self) -> bool:
        """Whether somebody watches it."""
        return self.life is Life.WATCHED


def life_of(run: Path, record: TrainingRecord | None, found: Found | None) -> Life:
    """What of a run's training is alive.

    :param found: the training that the processes show for this run.
    """
    if record is not None and record.status.is_live:
        if record.host != socket.gethostname():
            age = time.time() - progress_time_ns(run) / 1e9
            return Life.WATCHED if age < _ELSEWHERE_SECONDS else Life.LOST
        if is_alive(record.watcher):
            return Life.WATCHED
        if is_alive(record.training) or (found is not None and not found.is_watcher):
            return Life.UNWATCHED
        return Life.LOST
    return Life.UNWATCHED if found is not None and not found.is_watcher else Life.NONE


class Processes:
    """The trainings that run on this machine, asked for anew every two seconds at most."""

    def __init__(self) -> None:
        self._probed, self._found = 0.0, dict[Path, Found]()

    def of(self, run: Path) -> Found | None:
        """The training of a run, if one runs."""
        if time.monotonic() - self._probed > _FRESH_SECONDS:
            self._found = {each.run: each for each in find_trainings()}
            self._probed = time.monotonic()
        return self._found.get(run.resolve())


def training_status(run: Path, processes: Processes) -> TrainingStatus:
    """How a run's training stands now; reads a few kilobytes, however long its log is."""
    record, found = read_record(run), processes.of(run)
    told = read_progress(run)
    reader = LogReader(keep_lines=_SHOWN_LINES)
    reader.feed(log_end(run))
    life = life_of(run, record, found)
    return TrainingStatus(
        life,
        record,
        Progress.from_json(told.get("progress")),
        LossHistory.from_json(told.get("history")),
        read_journal(run, _SHOWN_JOURNAL),
        tuple(reader.tail),
        found.root if found is not None and life is Life.UNWATCHED else None,
    )


def has_trace(status: TrainingStatus) -> bool:
    """Whether there is anything to show: a run that was never started here has none."""
    return status.record is not None or status.found is not None


def in_use(run: Path, machine: Processes | None = None) -> frozenset[str]:
    """The checkpoints of a run that a training went on from which is running now: their names."""
    record = read_record(run)
    status_of = life_of(run, record, (machine or Processes()).of(run))
    running = status_of in (Life.WATCHED, Life.UNWATCHED)
    return frozenset({record.resumed_from} if running and record and record.resumed_from else ())
