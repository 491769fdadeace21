"""A rehearsal: the training interpreter runs the real ``Accelerator.load_state`` on a state, on the CPU alone.

:func:`plan_rehearsal` says whether it may be run, :func:`run_rehearsal` runs it: in a process of its own, watched for
time and memory, and ended with everything that it started. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import psutil

from checkpoint_core.environment.facts import Environment
from checkpoint_core.environment.rehearsal.outcome import (
    Refusal,
    Rehearsal,
    RehearsalOutcome,
    RehearsalStage,
    RehearsalStatus,
    read_account,
)
from checkpoint_core.environment.rehearsal.plan import plan_rehearsal
from checkpoint_core.environment.trainer_side.rehearse import state_stamp
from checkpoint_core.process_tree import tree_of
from checkpoint_core.states import StateFacts

__all__ = ["Limits", "child_environment", "plan_rehearsal", "rehearse_state", "run_rehearsal"]

_PROGRAM = Path(__file__).parents[1] / "trainer_side" / "rehearse.py"
POLL_SECONDS = 0.1
_MAX_LINE_BYTES = 1024 * 1024
_MAX_LINES = 100
_MAX_ERROR_BYTES = 16 * 1024
_CHUNK_BYTES = 4096
#: How long a process that has told its outcome may take to end, and its pipes to be read out.
_EXIT_SECONDS = 5.0

#: No GPU, no network, no second thread beside a training that may be running, nothing written beside the packages.
_SET = {
    "CUDA_VISIBLE_DEVICES": "",
    "ACCELERATE_USE_CPU": "true",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONIOENCODING": "utf-8:backslashreplace",
}
#: What would make accelerate prepare for several processes or another precision (accelerate ``state.py``).
_DROPPED_PREFIXES = ("ACCELERATE_", "FSDP_", "MEGATRON_", "OMPI_COMM_WORLD_", "PMI_", "MV2_COMM_WORLD_")
_DROPPED = frozenset({"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"})


@dataclass(frozen=True)
class Limits:
    """When a rehearsal is ended.

    :param seconds: in all.
    :param import_bytes: of memory while torch and accelerate are imported.
    :param load_bytes: of memory beyond what the import took.
    """

    seconds: float
    import_bytes: int
    load_bytes: int

    @classmethod
    def for_size(cls, size_bytes: int) -> Limits:
        """Ample ones for a state of that size: a cold import takes a minute, a network drive gives 10 MB a second,
        and a load takes up to 1.5 times the state's size in memory (measured), a hostile file any amount.
        """
        return cls(120 + size_bytes / 10_000_000, 4_000_000_000, 2 * size_bytes + 500_000_000)


def run_rehearsal(
    plan: Rehearsal,
    on_stage: Callable[[RehearsalStage], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    limits: Limits | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
    popen: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
) -> RehearsalOutcome:
    """Run a rehearsal; whatever happens to it is an outcome. The state is only read.

    :param on_stage: called with each stage as it begins.
    :param cancelled: asked ten times a second; once it says yes, everything is ended.
    :param clock: seconds.
    """
    limits = limits or Limits.for_size(plan.size_bytes)
    start = clock()
    on_stage(RehearsalStage.STARTING)
    # A folder of its own: whatever the libraries leave in the working directory goes with it.
    with tempfile.TemporaryDirectory(prefix="rehearsal-", ignore_cleanup_errors=True) as folder:
        try:
            process = popen(_command(plan, limits), **_options(folder))
        except OSError as error:
            outcome = RehearsalOutcome(
                RehearsalStatus.CRASHED, message=f"{plan.executable}: {error.strerror or error}"
            )
        else:
            try:
                outcome = _Watch(process, on_stage, limits).follow(cancelled, clock, start)
            finally:
                end_tree(process)
    if outcome.status in (RehearsalStatus.LOADED, RehearsalStatus.FAILED) and not _is_unchanged(plan):
        outcome = replace(outcome, status=RehearsalStatus.CHANGED)
    return replace(outcome, seconds=clock() - start)


def rehearse_state(
    facts: StateFacts,
    environment: Environment,
    on_stage: Callable[[RehearsalStage], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> RehearsalOutcome:
    """Plan a rehearsal and run it; a refusal is an outcome too."""
    plan = plan_rehearsal(facts, environment)
    if isinstance(plan, Refusal):
        return RehearsalOutcome.refused(plan)
    return run_rehearsal(plan, on_stage, cancelled)


def _command(plan: Rehearsal, limits: Limits) -> list[str]:
    request = {
        "state": str(plan.state),
        "layout": plan.layout.value,
        "stamp": plan.stamp,
        # Its own watch is for the case that nobody is left here to end it.
        "seconds": limits.seconds + _EXIT_SECONDS,
    }
    return [plan.executable, str(_PROGRAM), json.dumps(request)]


def _options(folder: str) -> dict[str, Any]:
    return {
        "cwd": folder,
        # torch leaves a folder for its compiler among the temporary ones.
        "env": {**child_environment(os.environ), **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder)},
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        # A Ctrl-C in the terminal is the parent's to answer.
        "start_new_session": True,
        "creationflags": getattr(subprocess, "CREATE_NO_WINDOW", 0),
    }


def child_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a rehearsal: this process's, without what would make it anything but one process on the CPU."""
    kept = {
        name: value
        for name, value in variables.items()
        if name not in _DROPPED and not name.startswith(_DROPPED_PREFIXES)
    }
    return {**kept, **_SET}


def _is_unchanged(plan: Rehearsal) -> bool:
    try:
        return state_stamp(plan.state) == plan.stamp
    except OSError:
        return False


class _Watch:
    """One running rehearsal: what it says, how much memory it has, and when it has to end."""

    def __init__(
        self, process: subprocess.Popen[bytes], on_stage: Callable[[RehearsalStage], None], limits: Limits
    ) -> None:
        self._process, self._on_stage, self._limits = process, on_stage, limits
        self._stage = RehearsalStage.STARTING
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._errors = _Tail()
        self._account: dict[str, Any] | None = None
        self._import_bytes: int | None = None
        self._peak_bytes = 0
        assert process.stdout is not None  # noqa: S101 - a pipe, as is the other
        assert process.stderr is not None  # noqa: S101
        self._readers = [
            threading.Thread(target=_read_lines, args=(process.stdout, self._lines), daemon=True),
            threading.Thread(target=self._errors.read, args=(process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def follow(
        self, cancelled: Callable[[], bool], clock: Callable[[], float], start: float
    ) -> RehearsalOutcome:
        """Watch it to its end, or until it has to be ended."""
        stopped = None
        while stopped is None and self._account is None and self._process.poll() is None:
            self._read_output(POLL_SECONDS)
            stopped = self._why_stop(cancelled, clock() - start)
        if self._account is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_EXIT_SECONDS)
        code = self._process.poll()
        end_tree(self._process)
        for reader in self._readers:
            reader.join(_EXIT_SECONDS)
        self._read_output(0)
        return self._outcome(stopped, code)

    def _read_output(self, seconds: float) -> None:
        """What it says within that time."""
        with contextlib.suppress(queue.Empty):
            self._take(self._lines.get(timeout=seconds))
            while True:
                self._take(self._lines.get_nowait())

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            account, stage = message.get("outcome"), message.get("stage")
        except (ValueError, AttributeError, RecursionError):
            return  # not one of its own
        if isinstance(account, dict):
            self._account = account
        elif stage in [each.value for each in RehearsalStage]:
            self._stage = RehearsalStage(stage)
            if self._stage is RehearsalStage.BUILDING:
                self._import_bytes = tree_bytes(self._process.pid)
            self._on_stage(self._stage)

    def _why_stop(self, cancelled: Callable[[], bool], seconds: float) -> RehearsalStatus | None:
        if cancelled():
            return RehearsalStatus.CANCELLED
        if seconds > self._limits.seconds:
            return RehearsalStatus.TIMED_OUT
        taken = tree_bytes(self._process.pid)
        if self._import_bytes is not None:
            self._peak_bytes = max(self._peak_bytes, taken - self._import_bytes)
        return RehearsalStatus.OUT_OF_MEMORY if taken > self._given_bytes() else None

    def _outcome(self, stopped: RehearsalStatus | None, code: int | None) -> RehearsalOutcome:
        polled = self._peak_bytes if self._import_bytes is not None else None
        if stopped is None and self._account is not None:
            outcome = read_account(self._account, self._stage)
        else:
            outcome = RehearsalOutcome(
                stopped or RehearsalStatus.CRASHED, self._stage, self._ending(stopped, code)
            )
        errors = self._errors.data.decode("utf-8", "replace")
        return replace(outcome, error_output=errors, peak_bytes=outcome.peak_bytes or polled)

    def _ending(self, stopped: RehearsalStatus | None, code: int | None) -> str:
        if stopped is RehearsalStatus.TIMED_OUT:
            return f"it took more than {self._limits.seconds:.0f} seconds"
        if stopped is RehearsalStatus.OUT_OF_MEMORY:
            return f"it took more memory than it was given ({self._given_bytes() / 1e6:,.0f} MB)"
        if stopped is None and code is not None:
            return f"its process ended by {f'signal {-code}' if code < 0 else f'itself, with status {code}'}"
        return ""

    def _given_bytes(self) -> int:
        if self._import_bytes is None:
            return self._limits.import_bytes
        return self._import_bytes + self._limits.load_bytes


class _Tail:
    """The last bytes of a stream."""

    def __init__(self) -> None:
        self.data = b""

    def read(self, stream: IO[bytes]) -> None:
        """Read a stream to its end."""
        for chunk in iter(lambda: os.read(stream.fileno(), _CHUNK_BYTES), b""):
            self.data = (self.data + chunk)[-_MAX_ERROR_BYTES:]
        stream.close()


def _read_lines(stream: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Keep the first lines, and read on so that the process is never held up."""
    for number, line in enumerate(iter(lambda: stream.readline(_MAX_LINE_BYTES), b"")):
        if number < _MAX_LINES:
            lines.put(line)
    stream.close()


def tree_bytes(pid: int) -> int:
    """Resident memory of a process and everything below it; 0 for one that has gone."""
    total = 0
    for process in tree_of(pid):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was started here, and everything below it; nothing happens where it has ended."""
    if process.poll() is None:
        for member in tree_of(process.pid):
            with contextlib.suppress(psutil.Error):
                member.kill()
    process.wait()
