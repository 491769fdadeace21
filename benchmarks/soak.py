"""A training that is killed again and again, and must reach its end all the same.

    python -m benchmarks.soak [--kills 50] [--seed N] [--folder DIR]

The small real trainer runs under ``accelerate launch`` from the script that FluxGym writes, watched by ``watch``. It is
ended by SIGKILL at random moments, every second time while it saves (its saves are slowed down and written in pieces,
so that every file of a state is hit): sometimes the whole tree, sometimes the trainer, sometimes only the launcher.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.demo.fluxgym_files import GymFolder, write_run_files
from checkpoint_core.demo.options import TrainOptions
from checkpoint_core.states.facts import OptimizerFacts
from checkpoint_core.training.log.files import JournalLine, read_journal
from checkpoint_core.training.processes import members
from checkpoint_core.training.record import ProcessState, TrainingRecord, read_record

PROJECT = Path(__file__).resolve().parents[1]
RUN, STEPS_PER_EPOCH = "soaked-cat", 8
#: Longer than any start on a busy machine.
_PATIENCE_SECONDS = 180.0

#: The small trainer, with saves that last a quarter of a second and are written in pieces as on a slow disk.
_TRAINER = f"""
import io, sys, time
sys.path.insert(0, {str(PROJECT)!r})
import torch
from checkpoint_core.demo.trainer import main

real_save = torch.save

def slow_save(value, target, *more, **named):
    if hasattr(target, "write"):
        return real_save(value, target, *more, **named)
    buffer = io.BytesIO()
    real_save(value, buffer, *more, **named)
    data = buffer.getvalue()
    with open(target, "wb") as file:
        for start in range(0, len(data), len(data) // 4 + 1):
            file.write(data[start : start + len(data) // 4 + 1])
            file.flush()
            time.sleep(0.02)

torch.save = slow_save
if __name__ == "__main__":
    main([*sys.argv[1:], "--step_seconds", "0.05"])
"""


@dataclass
class Soaked:
    """How it went: what was killed, what the journal says, how the training stands at the end."""

    run: Path
    record: TrainingRecord | None
    journal: tuple[JournalLine, ...]
    killed: Counter[str] = field(default_factory=Counter)
    resumed: list[str] = field(default_factory=list)
    #: Seconds from each kill to the first process of the next start.
    waits: list[float] = field(default_factory=list)
    #: The optimizer's own count of updates in the last state, over all resumes.
    updates: int | None = None
    expected: int = 0

    @property
    def failures(self) -> list[str]:
        """What is not as it must be; empty where all is well."""
        kinds = Counter(line.kind for line in self.journal)
        told = []
        if self.record is None or self.record.status is not ProcessState.EXITED:
            told.append(f"it did not reach its end: {self.record}")
        if self.updates != self.expected:
            told.append(f"{self.updates} updates instead of {self.expected}")
        if kinds["crashed"] != sum(self.killed.values()):
            told.append(f"{kinds['crashed']} crashes in the journal for {self.killed.total()} kills")
        if kinds["chosen"] != kinds["crashed"]:
            told.append(f"{kinds['chosen']} restarts explained for {kinds['crashed']} crashes")
        return told


def soak(folder: Path, kills: int, seed: int = 0, say: Callable[[str], None] = lambda _: None) -> Soaked:
    """Train in a folder and kill it so many times; returns once the watcher has ended."""
    chance = random.Random(seed)
    epochs = 4 + 3 * kills
    run = make_run(folder, epochs)
    command = [sys.executable, "-m", "checkpoint_core", "watch", str(run), "--wait", "0", "--force"]
    command += ["--restarts", "100000", "--fruitless", "1000"]
    log = folder / "watch.log"
    with log.open("wb") as output:
        watcher = subprocess.Popen(command, cwd=PROJECT, env=_environment(), stdout=output, stderr=output)
    soaked = Soaked(run, None, (), expected=epochs * STEPS_PER_EPOCH)
    try:
        for number in range(kills):
            said, waited = _kill_once(run, watcher, chance, in_a_save=number % 2 == 1)
            soaked.waits.append(waited)
            soaked.killed[said.partition(" of ")[0]] += 1
            say(f"{number + 1}/{kills}: killed {said}; the next start after {waited:.2f} s")
        watcher.wait(_PATIENCE_SECONDS + epochs * 2)
    finally:
        if watcher.poll() is None:
            watcher.kill()
    soaked.record, soaked.journal = read_record(run), read_journal(run, 100_000)
    soaked.resumed = [line.text for line in soaked.journal if line.kind == "chosen"]
    last = Auditor(run.parent).audit_run(RUN).checkpoint(f"{RUN}-state").facts.optimizer
    soaked.updates = last.step if isinstance(last, OptimizerFacts) else None
    return soaked


def make_run(folder: Path, epochs: int) -> Path:
    """A FluxGym folder with one run that saves every epoch, and its slow trainer."""
    gym = GymFolder(folder, RUN)
    options = TrainOptions(
        output_dir=gym.run_dir,
        output_name=RUN,
        max_train_epochs=epochs,
        steps_per_epoch=STEPS_PER_EPOCH,
        save_every_n_epochs=1,
        save_state=True,
    )
    write_run_files(gym, options, ("--save_state", "--save_last_n_epochs_state 3"))
    trainer = folder / "sd-scripts" / "flux_train_network.py"
    trainer.parent.mkdir(parents=True)
    trainer.write_text(_TRAINER, encoding="utf-8")
    return gym.run_dir


def _environment() -> dict[str, str]:
    """The training is on the processor, and this Python trains."""
    return {
        **os.environ,
        "FLUXGYM_PYTHON": sys.executable,
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
    }


def _kill_once(
    run: Path, watcher: subprocess.Popen[bytes], chance: random.Random, in_a_save: bool
) -> tuple[str, float]:
    """Wait for a training, then for the moment, and kill.

    Returns what was killed, and when, in words, and the seconds until the next start's first process.
    """
    before = _states(run)
    trainer = _trainer(run, watcher)
    if in_a_save:
        _until(lambda: _states(run) != before, watcher)
        time.sleep(chance.uniform(0, 0.3))
    else:
        time.sleep(chance.uniform(0, 1.5))
    record = read_record(run)
    everything = members(record.training) if record is not None and record.training is not None else []
    what = chance.choice(("everything", "the trainer", "the launcher first"))
    order = [trainer] if what == "the trainer" else everything
    if what == "the launcher first":
        # The launcher's death alone leaves the trainer running: both have to go for a crash.
        order = sorted(everything, key=lambda each: each.pid)
    for process in order:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue
    killed_at = time.time()
    _until(lambda: _attempt(run) > (record.attempt if record else 0), watcher)
    waited = _began(run) - killed_at
    return f"{what} of start {record.attempt if record else '?'}{' in a save' if in_a_save else ''}", waited


def _began(run: Path) -> float:
    """When the start that runs began, seconds since 1970; now where its first process has ended already."""
    record = read_record(run)
    try:
        return (
            psutil.Process(record.training.pid).create_time() if record and record.training else time.time()
        )
    except psutil.Error:
        return time.time()


def _attempt(run: Path) -> int:
    """The start that runs, 0 while none does."""
    record = read_record(run)
    return record.attempt if record is not None and record.status is ProcessState.RUNNING else 0


def _trainer(run: Path, watcher: subprocess.Popen[bytes]) -> psutil.Process:
    """The process that trains, once it has taken its first step."""
    found: list[psutil.Process] = []

    def is_training() -> bool:
        record = read_record(run)
        if record is None or record.training is None or record.status is not ProcessState.RUNNING:
            return False
        found[:] = [each for each in members(record.training) if _is_trainer(each)]
        return bool(found) and b"avr_loss" in _log(run)

    _until(is_training, watcher)
    return found[-1]


def _is_trainer(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return "flux_train_network.py" in " ".join(words) and not any("accelerate" in word for word in words[:3])


def _log(run: Path) -> bytes:
    try:
        return (run / ".training" / "train.log").read_bytes()
    except OSError:
        return b""


def _states(run: Path) -> frozenset[tuple[str, int]]:
    return frozenset(
        (path.parent.name, path.stat().st_mtime_ns) for path in run.glob("*-state/train_state.json")
    )


def _until(condition: Callable[[], bool], watcher: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while not _holds(condition):
        if watcher.poll() is not None:
            raise RuntimeError(f"the watcher ended with status {watcher.returncode}")
        if time.monotonic() > until:
            raise RuntimeError("the training did not get on")
        time.sleep(0.005)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except FileNotFoundError:  # the trainer has just removed an old state
        return False


def main() -> int:
    """Run as a program: 0 where all is as it must be."""
    parser = argparse.ArgumentParser(prog="benchmarks.soak", description="Kill a training again and again.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"seed {options.seed}, {options.kills} kills, in {folder}", flush=True)
    begun = time.monotonic()
    soaked = soak(folder, options.kills, options.seed, lambda line: print(line, flush=True))
    print(f"\n{time.monotonic() - begun:.0f} s; killed: {dict(soaked.killed)}; updates {soaked.updates}")
    if soaked.waits:
        waits = sorted(soaked.waits)
        print(
            f"from a kill to the next start: median {waits[len(waits) // 2]:.2f} s, longest {waits[-1]:.2f} s"
        )
    for line, count in Counter(text.partition(" ")[0] for text in soaked.resumed).items():
        print(f"  {line}: {count}")
    for failure in soaked.failures:
        print(f"FAILED: {failure}")
    return 1 if soaked.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
