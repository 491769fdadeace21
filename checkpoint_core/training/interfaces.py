"""What a supervisor does to the world, and what it sees of a training; the real ones are in ``watcher.py``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from checkpoint_core.training.log.files import JournalLine
from checkpoint_core.training.log.reader import LogReader
from checkpoint_core.training.next_start import NextStart, NoStart
from checkpoint_core.training.record import ProcessId, Request, TrainingRecord
from checkpoint_core.training.save_monitor import Checked


class Running(Protocol):
    """A training that runs; see :class:`checkpoint_core.training.training_process.TrainingProcess`."""

    root: ProcessId
    reader: LogReader
    began_ns: int

    @property
    def prints_here(self) -> bool:
        """Whether its log can be read here."""
        ...

    @property
    def exit_status(self) -> int | None:
        """What it ended with, ``None`` where that is not known."""
        ...

    def read_output(self) -> bool:
        """Read what it printed since the last time; whether there was anything."""
        ...

    def is_running(self) -> bool:
        """Whether any of its processes is left."""
        ...

    def has_lost(self) -> bool:
        """Whether a process of it has ended since it was last looked at."""
        ...

    def is_idle(self) -> bool:
        """Whether it has computed nothing since the last time."""
        ...

    def end(self) -> bool:
        """End all of it; whether nothing is left."""
        ...

    def tidy(self, run: Path) -> None:
        """Keep its log in the run's folder small."""
        ...


class SupervisorIO(Protocol):
    """What a supervisor does to the world; see :class:`checkpoint_core.training.watcher.LiveRun`."""

    def start(self) -> Running:
        """Start the run's script; raises OSError."""
        ...

    def choose(
        self, record: TrainingRecord, refused: frozenset[str], cancelled: Callable[[], bool]
    ) -> NextStart | NoStart:
        """Choose from where to go on, and write it into the script; nothing runs meanwhile."""
        ...

    def check_saves(self, cancelled: Callable[[], bool], settled: bool) -> list[Checked]:
        """Check what was saved since the last time."""
        ...

    def disk_trouble(self) -> str:
        """Why the saves to come have no room, in the user's words; empty where they have."""
        ...

    def no_room(self) -> str:
        """Why not even the next save has room; empty where it has, or where that is not known."""
        ...

    def left_running(self) -> int | None:
        """The number of a process that trains this run already, if there is one."""
        ...

    def left_behind(self, checkpoint: str) -> frozenset[str]:
        """The checkpoints that a training which begins at this one has rolled back past."""
        ...

    def is_finished(self, running: Running) -> bool:
        """Whether a training that ended has reached its last epoch, by what it left on the disk."""
        ...

    def save_goes_on(self, running: Running) -> bool:
        """Whether the training is writing a state at this moment."""
        ...

    def asked(self) -> list[Request]:
        """What the user asked for since the last time, in that order."""
        ...

    def write(self, record: TrainingRecord, running: Running | None) -> None:
        """Write down how it stands."""
        ...

    def log_event(self, line: JournalLine) -> None:
        """Add a line to the journal."""
        ...
