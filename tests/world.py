"""One valid world: a FluxGym folder whose one run was trained for real and will resume from every state.

    outputs/persian-cat/            the run, stopped in its fifth epoch of eight (8 steps an epoch)
        train.sh  dataset.toml  sample_prompts.txt
        persian-cat-000001.safetensors … -000004.safetensors
        persian-cat-000001-state/ … -000004-state/
    datasets/persian-cat/           its four captioned images

The world is trained once per test session, in a subprocess, so that importing this module costs nothing; a
test gets a copy of its own, with times kept and the paths in its scripts rewritten, and breaks one thing in
it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from checkpoint_core.demo.fluxgym_files import (
    SAVE_STATE_FLAGS,
    GymFolder,
    dataset_config,
    train_script,
    write_run_files,
)
from checkpoint_core.demo.options import TrainOptions

PROJECT = Path(__file__).resolve().parent.parent
REAL_RUNS_ARCHIVE = Path(__file__).resolve().parent / "data" / "real_runs.tar.xz"

RUN_NAME = "persian-cat"
STEPS_PER_EPOCH = 8
EPOCHS = 8
SAVED_EPOCHS = (1, 2, 3, 4)
STATE_FILES = (
    "train_state.json",
    "model.safetensors",
    "optimizer.bin",
    "scheduler.bin",
    "random_states_0.pkl",
)
"""The files of a state in the order in which they are written."""

SETTLED_SECONDS = 86_400
"""The world's saves are a day old, so that nothing in it looks as if it were still being written."""


@dataclass(frozen=True)
class World:
    """Paths of one copy of the world."""

    root: Path
    run_name: str = RUN_NAME

    @property
    def outputs(self) -> Path:
        """FluxGym's outputs folder."""
        return self.root / "outputs"

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.outputs / self.run_name

    @property
    def script(self) -> Path:
        """The run's train script."""
        return self.run / "train.sh"

    @property
    def latest(self) -> Path:
        """The state directory of the last saved epoch."""
        return self.state(SAVED_EPOCHS[-1])

    def state(self, epoch: int) -> Path:
        """Return the state directory of an epoch, counted from 1."""
        return self.run / f"{self.run_name}-{epoch:06d}-state"

    def lora(self, epoch: int) -> Path:
        """Return the LoRA file of an epoch, counted from 1."""
        return self.run / f"{self.run_name}-{epoch:06d}.safetensors"

    def edit_script(self, edit: Callable[[str], str]) -> None:
        """Replace the script's text by `edit(text)`; an edit that changes nothing is an error in the test."""
        before = self.script.read_text(encoding="utf-8")
        after = edit(before)
        assert after != before, "the edit found nothing to change in the script"
        self.script.write_text(after, encoding="utf-8", newline="\n")


def world_options(world: World) -> TrainOptions:
    """Return the flags with which the world's run is trained."""
    return TrainOptions(
        output_dir=world.run,
        output_name=world.run_name,
        max_train_epochs=EPOCHS,
        steps_per_epoch=STEPS_PER_EPOCH,
        save_every_n_epochs=1,
        save_state=True,
        save_precision="bf16",
        mixed_precision="bf16",
        lr_scheduler="constant_with_warmup",
        stop_after_step=SAVED_EPOCHS[-1] * STEPS_PER_EPOCH + 3,
    )


def make_world(root: Path) -> World:
    """Train the world in `root`, in a subprocess of this interpreter."""
    world = World(root)
    options = world_options(world)
    write_run_files(GymFolder(root, RUN_NAME), options)
    run_small_trainer(options)
    age(root, SETTLED_SECONDS)
    return world


def copy_world(template: Path, root: Path) -> World:
    """Copy a world with its times and let its script and configuration name the copy's own paths."""
    shutil.copytree(template, root)
    world = World(root)
    folder = GymFolder(root, world.run_name)
    _rewrite(world.script, train_script(folder, world_options(world), SAVE_STATE_FLAGS))
    _rewrite(world.run / "dataset.toml", dataset_config(folder))
    return world


def _rewrite(path: Path, text: str) -> None:
    times = path.stat()
    path.write_text(text, encoding="utf-8", newline="\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def resume_options(world: World, epoch: int, **changes: object) -> TrainOptions:
    """Return the flags that resume the world's run from an epoch's state and train it to its end."""
    options = replace(world_options(world), resume=str(world.state(epoch)), stop_after_step=None)
    return replace(options, **changes)  # type: ignore[arg-type]


def command_line(options: TrainOptions) -> list[str]:
    """Return the small trainer's arguments that mean `options`."""
    defaults = TrainOptions(options.output_dir, options.output_name)
    arguments = ["--output_dir", str(options.output_dir), "--output_name", options.output_name]
    for name, value in vars(options).items():
        if value == getattr(defaults, name):
            continue
        arguments.append(f"--{name}")
        if isinstance(value, tuple):
            arguments.extend(value)
        elif value is not True:
            arguments.append(str(value))
    return arguments


def run_small_trainer(options: TrainOptions) -> subprocess.CompletedProcess[str]:
    """Run the small trainer as a program; raises RuntimeError with its output when it fails."""
    done = try_small_trainer(options)
    if done.returncode != 0:
        raise RuntimeError(f"the small trainer failed:\n{done.stdout}\n{done.stderr}")
    return done


def try_small_trainer(options: TrainOptions) -> subprocess.CompletedProcess[str]:
    """Run the small trainer as a program and return how it ended, whatever that is."""
    module = "checkpoint_core.demo.trainer"
    return subprocess.run(
        [sys.executable, "-m", module, *command_line(options)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def age(path: Path, seconds: float) -> None:
    """Move the times of a file, or of a whole tree, into the past, keeping all distances between them."""
    shift = round(seconds * 1e9)
    # Children first: nothing done to them may touch a folder's time after it was set.
    found = sorted(path.rglob("*"), reverse=True) if path.is_dir() else []
    for entry in [*found, path]:
        times = entry.lstat()
        os.utime(entry, ns=(times.st_atime_ns - shift, times.st_mtime_ns - shift), follow_symlinks=False)


def unpack_real_runs(into: Path) -> Path:
    """Unpack the runs that the real trainer wrote, times kept, and return the folder that holds them."""
    with tarfile.open(REAL_RUNS_ARCHIVE) as archive:
        archive.extractall(into, filter="data")
    return into / "real_runs"


def make_samples(folder: Path) -> None:
    """Make the sample FluxGym folder in `folder/gym`, by its program."""
    program = "checkpoint_core.demo.make_outputs"
    subprocess.run([sys.executable, "-m", program, str(folder / "gym")], cwd=PROJECT, check=True)


def once(shared: Path, name: str, make: Callable[[Path], object]) -> Path:
    """Return `shared/name`, made by the first process that asks; others wait for it.

    pytest-xdist runs every worker in a process of its own, and making the world costs seconds.
    """
    made = shared / name
    with FileLock(shared / f"{name}.lock"):
        if not made.exists():
            unfinished = shared / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            make(unfinished)
            unfinished.rename(made)
    return made
