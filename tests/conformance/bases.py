"""The good runs that the cases are made from, trained by the small trainer with the real accelerate.

    python -m tests.conformance.bases FOLDER NAME...

makes those of BASES in FOLDER, each a FluxGym folder. A program of its own, so that another accelerate can be put
before the installed one: states of older versions are written by them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from checkpoint_core.demo.fluxgym_files import (
    SAVE_STATE_FLAGS,
    GymFolder,
    dataset_config,
    train_script,
    write_run_files,
)
from checkpoint_core.demo.options import TrainOptions
from tests.world import RUN_NAME, SETTLED_SECONDS, World, age, world_options

WRITERS = ("0.25.0", "0.31.0", "0.33.0", "1.6.0")
"""Releases of accelerate whose states are read too; the installed one writes the rest."""


@dataclass(frozen=True)
class Base:
    """One run: the flags that differ from the stock world's, and what each launch changes in turn.

    A launch's `resume` is the epoch whose state it resumes. `advanced` are the flags that the script ends in.
    `writer` is the accelerate that saves it, empty for the installed one.
    """

    name: str
    changes: Mapping[str, object] = field(default_factory=dict)
    launches: tuple[Mapping[str, object], ...] = ({},)
    advanced: tuple[str, ...] = ()
    writer: str = ""

    def options(self, root: Path) -> TrainOptions:
        """The flags of the run's script."""
        return replace(world_options(World(root)), quiet=True, **self.changes)  # type: ignore[arg-type]

    def make(self, root: Path) -> None:
        """Write the run's files and train it, in this process."""
        from checkpoint_core.demo.trainer import train

        options = self.options(root)
        write_run_files(GymFolder(root, RUN_NAME), options, (*SAVE_STATE_FLAGS, *self.advanced))
        for launch in self.launches:
            epoch = launch.get("resume")
            resume = {} if epoch is None else {"resume": str(World(root).state(int(str(epoch))))}
            weights = launch.get("network_weights")
            warm = {} if weights is None else {"network_weights": World(root).lora(int(str(weights)))}
            train(replace(options, **{**launch, **resume, **warm}))  # type: ignore[arg-type]
        age(root, SETTLED_SECONDS)

    def copy(self, bases: Path, root: Path) -> World:
        """Copy the run with its times; its script and configuration name the copy's own paths."""
        shutil.copytree(bases / self.name, root)
        folder = GymFolder(root, RUN_NAME)
        script = train_script(folder, self.options(root), (*SAVE_STATE_FLAGS, *self.advanced))
        for name, text in (("train.sh", script), ("dataset.toml", dataset_config(folder))):
            (folder.run_dir / name).write_text(text, encoding="utf-8", newline="\n")
        return World(root)


_TO_THE_END = {"max_train_epochs": 4, "stop_after_step": None}
_TWO_EPOCHS = {"stop_after_step": 18}

BASES: Mapping[str, Base] = {
    base.name: base
    for base in (
        Base("stock"),
        *(Base(f"written-by-{version}", writer=version) for version in WRITERS),
        Base("other-seed", {"seed": 7}),
        Base("adamw", {"optimizer_type": "adamw"}),
        Base("sgd", {"optimizer_type": "sgdnesterov"}),
        Base("cosine", {"lr_scheduler": "cosine"}),
        Base("rank-8", {"network_dim": 8}),
        Base(
            "single-blocks",
            {"network_args": ("train_blocks=single",)},
            advanced=('--network_args "train_blocks=single"',),
        ),
        Base("unet-only", {"network_train_unet_only": True}, advanced=("--network_train_unet_only",)),
        Base("finished", _TO_THE_END),
        Base("finished-linear", {**_TO_THE_END, "lr_scheduler": "linear"}),
        Base("finished-cosine", {**_TO_THE_END, "lr_scheduler": "cosine"}),
        Base("steps", {"save_every_n_steps": 5}, advanced=("--save_every_n_steps 5",)),
        Base("resumed", launches=(_TWO_EPOCHS, {"resume": 2, **_TWO_EPOCHS})),
        Base(
            "resumed-rightly",
            launches=(
                _TWO_EPOCHS,
                {"resume": 2, **_TWO_EPOCHS},
                {"resume": 4, "initial_epoch": 5, **_TWO_EPOCHS},
            ),
        ),
        Base(
            "resumed-silently",
            launches=(_TWO_EPOCHS, {"resume": 2, **_TWO_EPOCHS}, {"resume": 4, **_TWO_EPOCHS}),
        ),
        Base(
            "warm-start",
            launches=(_TWO_EPOCHS, {"network_weights": 2, "initial_epoch": 3, **_TWO_EPOCHS}),
        ),
    )
}


def main(folder: Path, names: list[str]) -> None:
    """Make the bases of these names in `folder`."""
    for name in names:
        BASES[name].make(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
