"""The watcher of one run: the supervisor with real processes, a real clock and a real disk."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from checkpoint_core.atomic_write import WriteFailed
from checkpoint_core.audit import Auditor, Verdict
from checkpoint_core.recovery import disk_forecast, next_set_aside, set_aside_saves
from checkpoint_core.scripts import find_script
from checkpoint_core.states import LoraFacts, free_bytes
from checkpoint_core.text import human_bytes
from checkpoint_core.trainer import DiskRoom, disk_room
from checkpoint_core.training import processes
from checkpoint_core.training.interfaces import Running
from checkpoint_core.training.log.files import (
    JournalLine,
    LogFollower,
    keep_reserve,
    open_log,
    release_reserve,
    write_journal,
)
from checkpoint_core.training.log.progress import LossHistory
from checkpoint_core.training.log.reader import LogReader
from checkpoint_core.training.next_start import NextStart, NoStart, abandoned, choose_start, left_behind
from checkpoint_core.training.record import (
    ProcessId,
    Request,
    TrainingRecord,
    read_progress,
    read_record,
    take_requests,
    write_progress,
    write_record,
)
from checkpoint_core.training.restart_policy import Policy
from checkpoint_core.training.save_monitor import Checked, SaveMonitor, settled_auditor
from checkpoint_core.training.spawn import GpuMeter, start_training, training_environment
from checkpoint_core.training.supervisor import Supervisor
from checkpoint_core.training.training_process import TrainingProcess

TICK_SECONDS = 1.0
#: Between two looks it is asked so often whether a process has ended.
_GLANCE_SECONDS = 0.1
#: The progress is written no more often than that, and at least so often while it lives.
_PROGRESS_SECONDS, _LIFE_SECONDS = 2.0, 20.0
_OWNER_SECONDS = 10.0
#: Names of files that are not the last: ``{name}-000004.safetensors``, ``{name}-step00000250.safetensors``.
_NUMBERED = re.compile(r"-(?:\d{6}|step\d{8})\.\w+$")
#: Looks in a row that may fail, a second apart, before the watch is given up.
MOST_FAILURES = 600


@dataclass
class LiveRun:
    """What the supervisor of one run does to the world.

    :param on_line: called with each line of the journal.
    """

    auditor: Auditor
    name: str
    device: str = processes.ALL_DEVICES
    variables: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    on_line: Callable[[JournalLine], None] = lambda _: None

    def __post_init__(self) -> None:
        self.run = self.auditor.outputs.absolute() / self.name
        self._saves = SaveMonitor(self.auditor, self.name)
        self._earlier = LossHistory.from_json(read_progress(self.run).get("history"))
        self._process: TrainingProcess | None = None
        self._meter = GpuMeter()
        self._python = ""
        self._written_at = 0.0
        self._written: tuple[object, object] = (None, None)

    def start(self) -> TrainingProcess:
        """Set aside what the run's script would write over, and start it; raises OSError."""
        script = find_script(self.run)
        if script is None:
            raise FileNotFoundError(f"there is no train script in {self.run}")
        self._set_aside()
        self._remember_losses()
        environment = self.auditor.audit_run(self.name).environment
        # A Python that does not answer just now, as on a machine short of memory, is the one all the same.
        self._python = (environment.executable if environment else "") or self._python
        python = self._python or None
        keep_reserve(self.run)
        began = time.time_ns()
        with open_log(self.run) as log:
            process = start_training(script, log, training_environment(self.variables, python))
        # One that has ended already is known by its number alone, which is not used again while it is not buried.
        root = processes.identify(process.pid) or ProcessId(process.pid, -1.0)
        return self._keep(
            TrainingProcess(root, LogFollower(self.run), LogReader(), began, process, self._gpu)
        )

    def _set_aside(self) -> None:
        done = set_aside_saves(self.run, lambda: next_set_aside(self.auditor.audit_run(self.name)))
        if done is not None:
            told = f"Set aside before the start: {done.told}."
            self.log_event(JournalLine(time.time_ns(), "set-aside", told))
            self._saves.remember()  # an epoch's name for the last state is no save

    def adopt(self, root: ProcessId, prints_here: bool) -> TrainingProcess:
        """Watch a training that runs already.

        :param prints_here: its log is the run's own, written by an earlier watcher's start.
        """
        follower = LogFollower(self.run) if prints_here else None
        began = processes.began_ns(root)
        return self._keep(TrainingProcess(root, follower, LogReader(), began, gpu_percent=self._gpu))

    def _keep(self, attempt: TrainingProcess) -> TrainingProcess:
        self._process = attempt
        return attempt

    def _gpu(self) -> int | None:
        return self._meter.percent(self.device)

    def choose(
        self, record: TrainingRecord, refused: frozenset[str], cancelled: Callable[[], bool]
    ) -> NextStart | NoStart:
        """Choose from where to go on; nothing runs meanwhile, so nothing is being saved."""
        auditor = settled_auditor(self.auditor)
        left = abandoned(auditor.audit_run(self.name), record.behind, record.started_ns)
        chosen = choose_start(auditor, self.name, refused, left, cancelled)
        self._saves.remember()  # a repair is no save
        return chosen

    def check_saves(self, cancelled: Callable[[], bool], settled: bool) -> list[Checked]:
        """Check what was saved since the last time."""
        return self._saves.look(cancelled, settled)

    def disk_trouble(self) -> str:
        """Why the saves to come have no room; empty where they have, or where that is not known."""
        run = self.auditor.audit_run(self.name)
        # While it trains, what it has saved is behind it.
        last = run.checkpoints[0].name if self._process is not None and run.checkpoints else None
        forecast = disk_forecast(run, free_bytes(self.run), start=last)
        return forecast.sentence if forecast.is_enough is False else ""

    def no_room(self) -> str:
        """Why not even the next save has room; empty where it has, or where that is not known."""
        forecast = disk_forecast(self.auditor.audit_run(self.name), free_bytes(self.run))
        if forecast.free_bytes is None or forecast.next_save_bytes is None:
            return ""
        if disk_room(forecast.next_save_bytes, forecast.free_bytes) is not DiskRoom.TOO_LITTLE:
            return ""
        return (
            f"There is no room for the next save: it takes {human_bytes(forecast.next_save_bytes)}, and the disk has "
            f"{human_bytes(forecast.free_bytes)} left. Make room, then resume."
        )

    def left_running(self) -> int | None:
        """The number of a process that trains this run already, if there is one."""
        found = processes.of_run(self.run, processes.find_trainings(watchers=False))
        return found.root.pid if found is not None else None

    def left_behind(self, checkpoint: str) -> frozenset[str]:
        """The checkpoints that a training which begins at this one has rolled back past."""
        return left_behind(self.auditor.audit_run(self.name), checkpoint)

    def is_finished(self, running: Running) -> bool:
        """Whether the last LoRA file was written whole since the training began: the trainer's last act.

        Source: sd-scripts ``train_network.py``, the end of ``train`` (``save_model`` with the output name alone).
        """
        run = self.auditor.audit_run(self.name).facts
        script = run.script
        name = script.output_name if script is not None else None
        if script is not None and script.value("--save_model_as") in ("ckpt", "pt"):
            return _is_since(
                self.run / f"{name or 'last'}.{script.value('--save_model_as')}", running.began_ns
            )
        whole = (lora for lora in run.loras if isinstance(lora, LoraFacts))
        since = [lora.file for lora in whole if lora.modified_ns >= running.began_ns]
        if name is None and (script is None or not script.lacks("--output_name")):
            return any(not _NUMBERED.search(file) for file in since)
        return f"{name or 'last'}.safetensors" in since

    def save_goes_on(self, running: Running) -> bool:
        """Whether the training is writing a state: by its log, or by a state that is not whole yet."""
        if running.reader.progress.saving:
            return True
        # All of them: one whose position is not written yet does not stand among the newest.
        return any(item.verdict is Verdict.SAVING for item in self.auditor.audit_run(self.name).checkpoints)

    def asked(self) -> list[Request]:
        """What the user asked for since the last time, in that order."""
        return take_requests(self.run)

    def write(self, record: TrainingRecord, running: Running | None) -> None:
        """Write down how it stands, where that has changed; a full disk must not end the watch."""
        if running is not None:
            running.tidy(self.run)
        try:
            self._write(record)
        except WriteFailed:
            if self._makes_room():
                self.write(record, running)

    def _write(self, record: TrainingRecord) -> None:
        if record != self._written[0]:
            write_record(self.run, record)
            self._written = (record, self._written[1])
        since = abs(time.monotonic() - self._written_at)
        if record.status.is_live and since < _PROGRESS_SECONDS:
            return
        progress = self._progress()
        # While it lives the time of this file is a sign of life, for who sees it from another machine.
        if not record.status.is_live or progress != self._written[1] or since >= _LIFE_SECONDS:
            write_progress(self.run, progress)
            self._written, self._written_at = (record, progress), time.monotonic()

    def _progress(self) -> dict[str, object]:
        reader = self._process.reader if self._process else None
        progress = reader.progress.to_json() if reader else None
        return {"progress": progress, "history": self._losses().to_json()}

    def _losses(self) -> LossHistory:
        """The losses of all starts: what a start trains again takes the place of what was trained before."""
        whole = LossHistory.from_json(self._earlier.to_json())
        points = self._process.reader.history.points if self._process else ()
        if points:
            whole.cut(points[0][0] - 1)
        for step, loss in points:
            whole.add(step, loss)
        return whole

    def _remember_losses(self) -> None:
        self._earlier, self._process = self._losses(), None

    def log_event(self, line: JournalLine) -> None:
        """Add a line to the journal."""
        if not write_journal(self.run, line) and self._makes_room():
            write_journal(self.run, line)
        with contextlib.suppress(OSError, ValueError):  # a terminal that was closed, a full disk
            self.on_line(line)

    def _makes_room(self) -> bool:
        """Give the kept room back on a full disk, once the training that filled it has ended and cannot take it."""
        is_over = self._process is None or not self._process.is_running()
        return is_over and release_reserve(self.run)


def _is_since(path: Path, began_ns: int) -> bool:
    """Whether a file was written since then; a shutdown may have left it cut off, which no header tells here."""
    try:
        return path.stat().st_mtime_ns >= began_ns
    except OSError:
        return False


def _rest(supervisor: Supervisor, sleep: Callable[[float], None]) -> None:
    """Wait for the next look; a start that is due and a process that has ended are not waited with."""
    for _ in range(round(TICK_SECONDS / _GLANCE_SECONDS)):
        sleep(_GLANCE_SECONDS)
        if supervisor.is_due:
            return


def watch(
    io: LiveRun,
    record: TrainingRecord,
    policy: Policy,
    running: TrainingProcess | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> TrainingRecord:
    """Watch a run's training to its end and return how it stands then.

    :param record: the claim that was made for this process.
    :param running: a training that runs already; else the run's script is started.
    """
    facts = io.auditor.audit_run(io.name).facts
    script, target = facts.script, facts.resume_target.state_name or ""
    if script is not None and script.value("--mixed_precision") == "fp16":
        # The scaler passes a NaN over, and the average keeps it.
        policy = replace(policy, nan_steps=sys.maxsize)
    supervisor = Supervisor(io, record, policy, time.time)
    if running is not None:
        supervisor.adopt(running, target)
    else:
        supervisor.begin(target)
    failures, looked_at = 0, time.monotonic()
    while not supervisor.is_over:
        _rest(supervisor, sleep)
        if time.monotonic() - looked_at > _OWNER_SECONDS:
            looked_at, written = time.monotonic(), read_record(io.run)
            if written is not None and written.watcher != record.watcher:
                return supervisor.record  # another one watches it by now
        try:
            supervisor.tick()
            failures = 0
        except Exception as error:
            # A disk that is gone for a while, a defect of ours: the training is worth more.
            failures += 1
            logging.getLogger(__name__).exception("A look at %s failed.", io.run)
            if failures >= MOST_FAILURES:
                supervisor.fail(f"It could not be looked at for {failures} times in a row ({error}).")
    return supervisor.record
