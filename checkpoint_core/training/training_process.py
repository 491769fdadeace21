"""One start of a training, or one that was found running: what it prints, how busy it is, how it ended, its end."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from checkpoint_core.training import processes
from checkpoint_core.training.log.files import LogFollower, trim_log
from checkpoint_core.training.log.reader import LogReader
from checkpoint_core.training.record import ProcessId

#: Below this share of one processor a training does nothing: one that computes keeps at least one busy.
_IDLE_CPU_SHARE = 0.02
_IDLE_GPU_PERCENT = 3
_MAX_READS = 64


class TrainingProcess:
    """A training that runs in processes of its own.

    :param root: its first process.
    :param began_ns: when it began, nanoseconds since 1970.
    :param process: where this process started it itself: only then is its exit status known.
    :param follower: reads its log; ``None`` where it prints elsewhere.
    :param gpu_percent: how busy its GPUs are, ``None`` where that cannot be told.
    """

    def __init__(
        self,
        root: ProcessId,
        follower: LogFollower | None,
        reader: LogReader,
        began_ns: int,
        process: subprocess.Popen[bytes] | None = None,
        gpu_percent: Callable[[], int | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root, self.reader, self.began_ns = root, reader, began_ns
        self._follower, self._process = follower, process
        self._gpu_percent, self._clock = gpu_percent, clock
        self._cpu: tuple[float, float] | None = None
        self._seen: dict[int, ProcessId] = {}

    @property
    def prints_here(self) -> bool:
        """Whether its log can be read here."""
        return self._follower is not None

    def read_output(self) -> bool:
        """Read what it printed since the last time; returns whether there was anything."""
        heard = False
        for _ in range(_MAX_READS if self._follower else 0):
            data = self._follower.read() if self._follower else b""
            if not data:
                break
            self.reader.feed(data)
            heard = True
        return heard

    def members(self) -> list[psutil.Process]:
        """Its processes that are left."""
        if self._process is not None:
            self._process.poll()  # buries it, so that it no longer counts
        found = processes.members(self.root, self._seen.values())
        # Those that a launcher leaves behind belong to it still, where no session says so.
        known = (processes.identify(each.pid) for each in found)
        self._seen = {each.pid: each for each in known if each is not None}
        return found

    def is_running(self) -> bool:
        """Whether any of its processes is left: a launcher that was killed leaves its trainer training."""
        return bool(self.members())

    def has_lost(self) -> bool:
        """Whether a process of it has ended since it was last looked at; cheap, to be asked often."""
        if self._process is not None:
            self._process.poll()
        return any(not processes.is_alive(each) for each in self._seen.values())

    @property
    def exit_status(self) -> int | None:
        """What its first process ended with, as the shell gives it; ``None`` where it is not known."""
        return self._process.poll() if self._process is not None else None

    def is_idle(self) -> bool:
        """Whether it neither computes on a GPU nor, where that cannot be told, on a processor since the last time."""
        percent = self._gpu_percent()
        now, used = self._clock(), processes.cpu_seconds(self.members())
        before, self._cpu = self._cpu, (now, used)
        if percent is not None:
            return percent <= _IDLE_GPU_PERCENT
        if before is None or now <= before[0]:
            return False
        return (used - before[1]) / (now - before[0]) < _IDLE_CPU_SHARE

    def end(self, gentle_seconds: float = processes.GENTLE_SECONDS) -> bool:
        """End all of it; returns whether nothing of it is left."""
        gone = processes.end_all(self.members, gentle_seconds=gentle_seconds)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
        return gone

    def tidy(self, run: Path) -> None:
        """Keep its log small."""
        if self._follower is not None:
            trim_log(run)
