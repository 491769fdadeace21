"""The watcher of one run: the supervisor with real processes, a real clock and a real disk."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from checkpoint_core.audit import Auditor
from checkpoint_core.findings import Verdict
from checkpoint_core.retention import disk_outlook
from checkpoint_core.safe_write import WriteFailed
from checkpoint_core.surroundings import EnvironmentFacts
from checkpoint_core.train_script import find_script
from checkpoint_core.training import processes
from checkpoint_core.training.attempt import Attempt
from checkpoint_core.training.choosing import NextStart, NoStart, abandoned, choose_start
from checkpoint_core.training.decisions import Policy
from checkpoint_core.training.log_files import (
    JournalLine,
    LogFollower,
    keep_reserve,
    open_log,
    release_reserve,
    write_journal,
)
from checkpoint_core.training.log_reader import LogReader
from checkpoint_core.training.progress import LossHistory
from checkpoint_core.training.records import (
    Ask,
    ProcessId,
    TrainingRecord,
    read_progress,
    take_request,
    write_progress,
    write_record,
)
from checkpoint_core.training.save_watch import Checked, SaveWatch, settled_auditor
from checkpoint_core.training.spawning import gpu_percent, start_training, training_environment
from checkpoint_core.training.supervisor import Running, Supervisor

TICK_SECONDS = 1.0
#: Looks in a row that may fail, a second apart, before the watch is given up.
MOST_FAILURES = 600
_WEIGHTS_SUFFIXES = (".safetensors", ".ckpt", ".pt")


@dataclass
class RunWorld:
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
        self._saves = SaveWatch(self.auditor, self.name)
        self._earlier = LossHistory.from_json(read_progress(self.run).get("history"))
        self._attempt: Attempt | None = None
        self._written: tuple[object, object] = (None, None)

    def start(self, checkpoint: str) -> Attempt:
        """Start the run's script; raises OSError."""
        script = find_script(self.run)
        if script is None:
            raise FileNotFoundError(f"there is no train script in {self.run}")
        self._remember_losses()
        environment = self.auditor.audit_run(self.name).environment
        python = environment.executable if isinstance(environment, EnvironmentFacts) else None
        keep_reserve(self.run)
        began = time.time_ns()
        with open_log(self.run) as log:
            process = start_training(script, log, training_environment(self.variables, python))
        # One that has ended already is known by its number alone, which is not used again while it is not buried.
        root = processes.identify(process.pid) or ProcessId(process.pid, -1.0)
        return self._keep(Attempt(root, LogFollower(self.run), LogReader(), began, process, self._gpu))

    def adopt(self, root: ProcessId, prints_here: bool) -> Attempt:
        """Watch a training that runs already.

        :param prints_here: its log is the run's own, written by an earlier watcher's start.
        """
        follower = LogFollower(self.run) if prints_here else None
        began = processes.began_ns(root)
        return self._keep(Attempt(root, follower, LogReader(), began, gpu_percent=self._gpu))

    def _keep(self, attempt: Attempt) -> Attempt:
        self._attempt = attempt
        return attempt

    def _gpu(self) -> int | None:
        return gpu_percent(self.device)

    def choose(
        self, record: TrainingRecord, refused: frozenset[str], cancelled: Callable[[], bool]
    ) -> NextStart | NoStart:
        """Choose from where to go on; nothing runs meanwhile, so nothing is being saved."""
        auditor = settled_auditor(self.auditor)
        left = abandoned(auditor.audit_run(self.name), record.resumed_from, record.started_ns)
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
        last = run.checkpoints[0].name if self._attempt is not None and run.checkpoints else None
        outlook = disk_outlook(run, start=last)
        return outlook.sentence if outlook.is_enough is False else ""

    def is_finished(self, running: Running) -> bool:
        """Whether the last LoRA file was written since the training began: the trainer's last act.

        Source: sd-scripts ``train_network.py``, the end of ``train`` (``save_model`` with the output name alone).
        """
        script = self.auditor.audit_run(self.name).facts.script
        name = (script.output_name if script else None) or "last"
        for suffix in _WEIGHTS_SUFFIXES:
            try:
                if (self.run / f"{name}{suffix}").stat().st_mtime_ns >= running.began_ns:
                    return True
            except (OSError, ValueError):
                continue
        return False

    def save_goes_on(self, running: Running) -> bool:
        """Whether the training is writing a state: by its log, or by a state that is not whole yet."""
        if running.reader.progress.saving:
            return True
        return any(
            item.verdict is Verdict.SAVING for item in self.auditor.audit_run(self.name).checkpoints[:2]
        )

    def asked(self) -> Ask | None:
        """What the user asked for since the last time."""
        try:
            return take_request(self.run)
        except WriteFailed:  # a full disk: it is taken again, which does no harm
            return None

    def write(self, record: TrainingRecord, running: Running | None) -> None:
        """Write down how it stands, where that has changed; a full disk must not end the watch."""
        if running is not None and hasattr(running, "tidy"):
            running.tidy(self.run)
        progress = self._progress()
        try:
            self._write(record, progress)
        except WriteFailed:
            if self._makes_room():
                self.write(record, running)

    def _write(self, record: TrainingRecord, progress: dict[str, object]) -> None:
        if record != self._written[0]:
            write_record(self.run, record)
            self._written = (record, self._written[1])
        # While it lives the time of this file is a sign of life, for who sees it from another machine.
        if progress != self._written[1] or record.status.is_live:
            write_progress(self.run, progress)
            self._written = (record, progress)

    def _progress(self) -> dict[str, object]:
        reader = self._attempt.reader if self._attempt else None
        progress = reader.progress.to_json() if reader else None
        return {"progress": progress, "history": self._losses().to_json()}

    def _losses(self) -> LossHistory:
        """The losses of all starts: what a start trains again takes the place of what was trained before."""
        whole = LossHistory.from_json(self._earlier.to_json())
        points = self._attempt.reader.history.points if self._attempt else ()
        if points:
            whole.cut(points[0][0] - 1)
        for step, loss in points:
            whole.add(step, loss)
        return whole

    def _remember_losses(self) -> None:
        self._earlier, self._attempt = self._losses(), None

    def tell(self, line: JournalLine) -> None:
        """Add a line to the journal."""
        if not write_journal(self.run, line) and self._makes_room():
            write_journal(self.run, line)
        self.on_line(line)

    def _makes_room(self) -> bool:
        """Give the kept room back on a full disk, once the training that filled it has ended and cannot take it."""
        is_over = self._attempt is None or not self._attempt.is_running()
        return is_over and release_reserve(self.run)


def watch(
    world: RunWorld,
    record: TrainingRecord,
    policy: Policy,
    running: Attempt | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> TrainingRecord:
    """Watch a run's training to its end and return how it stands then.

    :param record: the claim that was made for this process.
    :param running: a training that runs already; else the run's script is started.
    """
    supervisor = Supervisor(world, record, policy, time.time)
    target = world.auditor.audit_run(world.name).facts.resume_target.state_name or ""
    if running is not None:
        supervisor.adopt(running, target)
    else:
        supervisor.begin(target)
    failures = 0
    while not supervisor.is_over:
        sleep(TICK_SECONDS)
        try:
            supervisor.tick()
            failures = 0
        except (
            Exception
        ) as error:  # a disk that is gone for a while, a defect of ours: the training is worth more
            failures += 1
            logging.getLogger(__name__).exception("A look at %s failed.", world.run)
            if failures >= MOST_FAILURES:
                supervisor.fail(f"It could not be looked at for {failures} times in a row ({error}).")
    return supervisor.record
