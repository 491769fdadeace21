"""Make a sample FluxGym folder: real training runs, good and broken, with the scripts that FluxGym writes.

    python -m checkpoint_core.demo.make_outputs DIR

DIR becomes a FluxGym folder with `outputs/` and `datasets/`; runs.py lists the runs. Made again, it
removes exactly the files that it made before, and those only: a marker file in DIR lists them. A folder
with other things in it and no such marker is refused.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from checkpoint_core.demo.fluxgym_files import GymFolder, write_trainer
from checkpoint_core.demo.runs import SAMPLES, SampleRun

MARKER = ".sample-outputs.json"


class NotOurFolder(ValueError):
    """The folder holds something that this program did not make and would have to write over."""


@dataclass
class _Made:
    """What was made in a folder: files relative to it, and the run that is being made at this moment."""

    root: Path
    files: list[str] = field(default_factory=list)
    unfinished: str | None = None

    @classmethod
    def read(cls, root: Path) -> _Made:
        """Read the marker; raises NotOurFolder if there is none and the folder is not empty."""
        marker = root / MARKER
        if not marker.exists():
            if root.exists() and any(root.iterdir()):
                raise NotOurFolder(
                    f"{root} is not empty and was not made by this program; nothing was changed. "
                    "Name a new or an empty folder."
                )
            return cls(root)
        record = json.loads(marker.read_text(encoding="utf-8"))
        return cls(root, list(record["files"]), record["unfinished"])

    def write(self) -> None:
        record = {"files": self.files, "unfinished": self.unfinished}
        (self.root / MARKER).write_text(json.dumps(record, indent=1), encoding="utf-8")

    def clear(self) -> None:
        """Remove what the marker lists, and folders that are empty then."""
        if self.unfinished is not None:
            # It was begun only where nothing stood, so all of it is ours.
            for folder in _folders(self.root, self.unfinished):
                shutil.rmtree(folder, ignore_errors=True)
        inside = self.root.resolve()
        emptied: set[Path] = set()
        for name in self.files:
            path = self.root / name
            # A name that leads out, through ".." or a link, was not written by this program.
            if path.parent.resolve().is_relative_to(inside):
                path.unlink(missing_ok=True)
                emptied.update(parent for parent in path.parents if self.root in parent.parents)
        for folder in sorted(emptied, reverse=True):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        self.files, self.unfinished = [], None

    def add_trainer(self) -> None:
        """Write what the scripts start, unless it is there: half a second a step, so that one can watch."""
        if not (self.root / "sd-scripts").exists():
            trainer = write_trainer(self.root, ("--step_seconds", "0.5"))
            self.files.append(trainer.relative_to(self.root).as_posix())
            self.write()

    def make(self, run: SampleRun) -> None:
        """Make one run and note its files; raises NotOurFolder if somebody else's run has its name."""
        folders = _folders(self.root, run.name)
        if (folders[0] / "train.sh").exists():
            raise NotOurFolder(f"{folders[0]} was not made by this program; rename it first.")
        present = {path for folder in folders for path in folder.rglob("*")}
        self.unfinished = None if present else run.name
        self.write()
        run.make(self.root)
        made = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
        self.files += [path.relative_to(self.root).as_posix() for path in made if path not in present]
        self.unfinished = None
        self.write()


def _folders(root: Path, run_name: str) -> tuple[Path, Path]:
    folder = GymFolder(root, run_name)
    return folder.run_dir, folder.dataset_dir


def make_sample_outputs(root: Path) -> list[SampleRun]:
    """Make the sample folder and return the runs in it.

    A run whose name the file system refuses (Windows has no `<` in names) is left out. Raises NotOurFolder
    when something that was not made here is in the way; nothing of it is changed then.
    """
    root = root.absolute()
    made = _Made.read(root)
    root.mkdir(parents=True, exist_ok=True)
    made.clear()
    made.add_trainer()
    runs = []
    for run in SAMPLES:
        if _name_possible(root, run.name):
            made.make(run)
            runs.append(run)
    return runs


def _name_possible(root: Path, name: str) -> bool:
    folder = GymFolder(root, name).run_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return folder.is_dir()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as a program; a refusal ends it with status 1 and its reason on stderr."""
    parser = argparse.ArgumentParser(prog="sample_outputs", description="Make a sample FluxGym folder.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="new, empty, or a sample folder made before")
    try:
        make_sample_outputs(parser.parse_args(arguments).folder)
    except NotOurFolder as refusal:
        raise SystemExit(str(refusal)) from None


if __name__ == "__main__":
    main()
