"""The sample runs: what each shows, the verdict each of its states deserves, and how it is made.

The states come from the small trainer and the real accelerate. Damage is done to them as real accidents do
it. Saves get plausible dates in January 2026, and within a save the files keep the milliseconds between
them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from checkpoint_core.demo.fluxgym_files import GymFolder, quoted, write_image, write_run_files
from checkpoint_core.demo.options import TrainOptions

READY, WARNINGS, NEEDS_FIX, DAMAGED = "ready", "ready-with-warnings", "needs-fix", "damaged"

_STEPS_PER_EPOCH = 8
_EPOCH_TIME = timedelta(minutes=3)
_BY_EPOCH = ("--save_state", "--sample_every_n_epochs {every}")


@dataclass(frozen=True)
class SampleRun:
    """One sample run.

    `name` is its folder in `outputs/`, `shows` a sentence for people, `verdicts` the verdict of each state
    directory by its name, oldest first. `epochs` is the script's `--max_train_epochs`; the training was
    stopped in the epoch after `trained` (both counted from 1), or ran to its end if they are equal.
    """

    name: str
    shows: str
    started: datetime
    epochs: int
    every: int
    trained: int
    verdicts: Mapping[str, str]
    finish: Callable[[SampleRun, GymFolder], None]
    output_name: str = ""
    advanced: tuple[str, ...] = _BY_EPOCH

    @property
    def lora_name(self) -> str:
        """`--output_name` of the run: FluxGym makes it from the folder's name."""
        return self.output_name or self.name

    def make(self, root: Path) -> None:
        """Make the run in the FluxGym folder `root`."""
        folder = GymFolder(root, self.name)
        options = self.options(folder)
        self.write_files(folder, options, self.started)
        self.train(folder, options, self.started)
        self.finish(self, folder)
        self._write_samples(folder)
        latest = max(path.stat().st_mtime for path in _files_of(folder.run_dir))
        os.utime(folder.run_dir, (latest, latest))

    def write_files(self, folder: GymFolder, options: TrainOptions, started: datetime) -> None:
        """Write what FluxGym writes when "Start training" is pressed, with the times of that moment."""
        write_run_files(folder, options, self.advanced_flags(folder))
        named = ("train.sh", "dataset.toml", "sample_prompts.txt")
        written = [*(folder.run_dir / name for name in named), *_files_of(folder.dataset_dir)]
        _set_time(written, started - timedelta(minutes=5))

    def options(self, folder: GymFolder) -> TrainOptions:
        """The flags of the run's first start."""
        stop = None if self.trained == self.epochs else self.trained * _STEPS_PER_EPOCH + 3
        return TrainOptions(
            output_dir=folder.run_dir,
            output_name=self.lora_name,
            max_train_epochs=self.epochs,
            steps_per_epoch=_STEPS_PER_EPOCH,
            save_every_n_epochs=self.every,
            save_state="--save_state" in self.advanced,
            save_precision="bf16",
            mixed_precision="bf16",
            lr_scheduler="constant_with_warmup",
            stop_after_step=stop,
            quiet=True,
        )

    def advanced_flags(self, folder: GymFolder) -> tuple[str, ...]:
        """The flags of FluxGym's "Advanced options" in the run's script."""
        after_2 = quoted(self.state_dir(folder, 2))
        return tuple(flag.format(every=self.every, after_2=after_2) for flag in self.advanced)

    def train(self, folder: GymFolder, options: TrainOptions, started: datetime) -> None:
        """Train for real and date what was saved: an epoch after `started` for every epoch trained."""
        from checkpoint_core.demo.trainer import train

        before = {path: path.lstat().st_mtime_ns for path in folder.run_dir.rglob("*")}
        train(options)
        resumed_after = int(options.resume.split("-")[-2]) if options.resume else 0
        for epoch in range(1, self.epochs + 1):
            written = [
                path for path in self._saved_at(folder, epoch) if path.lstat().st_mtime_ns != before.get(path)
            ]
            _shift_time(written, started + (epoch - resumed_after) * _EPOCH_TIME)

    def _saved_at(self, folder: GymFolder, epoch: int) -> list[Path]:
        ending = "" if epoch == self.epochs else f"-{epoch:06d}"
        lora = folder.run_dir / f"{self.lora_name}{ending}.safetensors"
        state = self.state_dir(folder, epoch)
        return [path for path in (lora, *_files_of(state), state) if path.exists()]

    def state_dir(self, folder: GymFolder, epoch: int) -> Path:
        """The state directory of an epoch; that of the last epoch is the run's last state."""
        ending = "" if epoch == self.epochs else f"-{epoch:06d}"
        return folder.run_dir / f"{self.lora_name}{ending}-state"

    def _write_samples(self, folder: GymFolder) -> None:
        by_epoch = any("sample_every_n_epochs" in flag for flag in self.advanced)
        hue = sum(self.name.encode()) % 97 / 97
        for epoch in range(self.every, self.trained + 1, self.every):
            drawn = self.started + epoch * _EPOCH_TIME + timedelta(seconds=20)
            position = f"e{epoch:06d}" if by_epoch else f"{epoch * _STEPS_PER_EPOCH:06d}"
            name = f"{self.lora_name}_{position}_00_{drawn:%Y%m%d%H%M%S}.png"
            image = folder.run_dir / "sample" / name
            write_image(image, hue=hue + epoch / 60, size=192)
            _set_time([image, image.parent], drawn)


def _files_of(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def _set_time(paths: Iterable[Path], when: datetime) -> None:
    for path in paths:
        os.utime(path, (when.timestamp(), when.timestamp()))


def _shift_time(paths: list[Path], latest: datetime) -> None:
    """Move the times of `paths`, folders last, so that the latest of them becomes `latest`."""
    times = {path: path.lstat().st_mtime_ns for path in paths}
    shift = round(latest.timestamp() * 1e9) - max(times.values(), default=0)
    for path, modified in times.items():
        os.utime(path, ns=(modified + shift, modified + shift))


def _leave(run: SampleRun, folder: GymFolder) -> None:
    """Leave the run as the trainer left it."""


def _cut_optimizer(run: SampleRun, folder: GymFolder) -> None:
    """Cut the latest optimizer.bin short, as a full disk does."""
    _cut(run.state_dir(folder, run.trained) / "optimizer.bin")


def _cut_random_states(run: SampleRun, folder: GymFolder) -> None:
    """Cut the latest random states short, as a power cut in the last file of a save does."""
    _cut(run.state_dir(folder, run.trained) / "random_states_0.pkl")


def _cut_scheduler(run: SampleRun, folder: GymFolder) -> None:
    """Cut the latest schedule short: a file that the optimizer's count and rates can make good."""
    _cut(run.state_dir(folder, run.trained) / "scheduler.bin")


def _cut(path: Path) -> None:
    times = path.stat()
    path.write_bytes(path.read_bytes()[: times.st_size * 2 // 5])
    os.utime(path, ns=(times.st_mtime_ns, times.st_mtime_ns))


def _resume_once(run: SampleRun, folder: GymFolder) -> None:
    """Resume the next morning and train two epochs: their states count steps from the resume."""
    state = run.state_dir(folder, run.trained)
    resumed = replace(run.options(folder), resume=str(state), stop_after_step=2 * _STEPS_PER_EPOCH + 3)
    run.train(folder, resumed, run.started + timedelta(hours=10))


def _die_overwriting(run: SampleRun, folder: GymFolder) -> None:
    """Start over with another learning rate; be killed when the weights of the latest state are replaced."""
    state = run.state_dir(folder, run.trained)
    old = state.with_name(f"{state.name}.old")
    shutil.copytree(state, old)
    again, restarted = replace(run.options(folder), learning_rate=4e-4), run.started + timedelta(hours=10)
    run.write_files(folder, again, restarted)
    run.train(folder, again, restarted)
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl"):
        shutil.copy2(old / name, state / name)
    shutil.rmtree(old)


def _january(day: int, hour: int, minute: int) -> datetime:
    return datetime(2026, 1, day, hour, minute, tzinfo=timezone.utc)


def _verdicts(name: str, by_epoch: Mapping[int, str], last: str | None = None) -> dict[str, str]:
    verdicts = {f"{name}-{epoch:06d}-state": verdict for epoch, verdict in by_epoch.items()}
    return verdicts if last is None else {**verdicts, f"{name}-state": last}


SAMPLES: tuple[SampleRun, ...] = (
    SampleRun(
        name="persian-miniature",
        shows="A long training that was stopped; every checkpoint will resume.",
        started=_january(17, 9, 12),
        epochs=16,
        every=4,
        trained=12,
        verdicts=_verdicts("persian-miniature", dict.fromkeys((4, 8, 12), READY)),
        finish=_leave,
    ),
    SampleRun(
        name="cat-toy",
        shows="The disk was full: the latest optimizer.bin is truncated, the state before it will resume.",
        started=_january(16, 20, 31),
        epochs=10,
        every=2,
        trained=8,
        verdicts=_verdicts("cat-toy", {2: READY, 4: READY, 6: READY, 8: DAMAGED}),
        finish=_cut_optimizer,
        advanced=("--save_state",),
    ),
    SampleRun(
        name="night-city",
        shows="Resumed once: epochs 3 and 4 would be trained again, silently, unless a flag is added.",
        started=_january(15, 21, 4),
        epochs=8,
        every=1,
        trained=2,
        verdicts=_verdicts("night-city", {1: READY, 2: READY, 3: NEEDS_FIX, 4: NEEDS_FIX}),
        finish=_resume_once,
        advanced=(*_BY_EPOCH, "--resume {after_2}"),
    ),
    SampleRun(
        name="watercolor-fox",
        shows="Started over, and killed while a state was being replaced: the latest mixes two trainings.",
        started=_january(14, 19, 47),
        epochs=6,
        every=1,
        trained=3,
        verdicts=_verdicts("watercolor-fox", {1: READY, 2: READY, 3: DAMAGED}),
        finish=_die_overwriting,
    ),
    SampleRun(
        name="old-lighthouse",
        shows="A power cut in the last file of a save: the random states are lost, nothing else.",
        started=_january(12, 8, 15),
        epochs=6,
        every=1,
        trained=3,
        verdicts=_verdicts("old-lighthouse", {1: READY, 2: READY, 3: WARNINGS}),
        finish=_cut_random_states,
    ),
    SampleRun(
        name="amber-dunes",
        shows="The latest scheduler.bin is truncated: it can be repaired, and nothing is lost.",
        started=_january(11, 9, 33),
        epochs=6,
        every=1,
        trained=3,
        verdicts=_verdicts("amber-dunes", {1: READY, 2: READY, 3: NEEDS_FIX}),
        finish=_cut_scheduler,
    ),
    SampleRun(
        name="paper-crane",
        shows="A finished training: to go on from its last state, the script needs more epochs.",
        started=_january(10, 14, 22),
        epochs=4,
        every=1,
        trained=4,
        verdicts=_verdicts("paper-crane", dict.fromkeys((1, 2, 3), READY), last=NEEDS_FIX),
        finish=_leave,
    ),
    SampleRun(
        name="no-states-yet",
        shows="FluxGym's stock script: without --save_state there are LoRA files and nothing to resume.",
        started=_january(9, 11, 0),
        epochs=4,
        every=1,
        trained=4,
        verdicts={},
        finish=_leave,
        advanced=(),
    ),
    SampleRun(
        name='<b>bold<b> & "quotes"',
        shows="A folder whose name looks like markup: names are shown as text.",
        started=_january(8, 16, 40),
        epochs=4,
        every=2,
        trained=2,
        verdicts=_verdicts("bold-quotes", {2: READY}),
        finish=_leave,
        output_name="bold-quotes",
    ),
)
"""The sample runs, the most recently trained first."""
