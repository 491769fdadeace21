"""A trained run that has a state of every kind, and the same run after a resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.demo.fluxgym_files import GymFolder, write_run_files
from checkpoint_core.demo.options import TrainOptions
from tests.world import SETTLED_SECONDS, age, once, run_small_trainer

RUN = "stepped"
STEPS_PER_EPOCH = 8
EPOCHS = 3


def stepped_options(run: Path) -> TrainOptions:
    """The flags with which the stepped run was trained in that folder."""
    return TrainOptions(
        output_dir=run,
        output_name=RUN,
        max_train_epochs=EPOCHS,
        steps_per_epoch=STEPS_PER_EPOCH,
        save_every_n_epochs=1,
        save_every_n_steps=4,
        save_state=True,
        lr_scheduler="cosine",
        save_precision="bf16",
    )


def make_stepped_run(root: Path) -> None:
    """Three epochs under a cosine schedule with a state every four steps, in `root`/outputs/stepped."""
    folder = GymFolder(root, RUN)
    options = stepped_options(root / "outputs" / RUN)
    write_run_files(folder, options)
    run_small_trainer(options)
    age(root, SETTLED_SECONDS)


def make_resumed_run(root: Path) -> None:
    """The same, killed in its third epoch and resumed from the end of the first: it trains the others again."""
    make_stepped_run(root)
    run = root / "outputs" / RUN
    state = run / f"{RUN}-000001-state"
    run_small_trainer(replace(stepped_options(run), lr_scheduler="constant", resume=str(state)))
    age(root, SETTLED_SECONDS)


@pytest.fixture(scope="session")
def stepped(shared_dir: Path) -> RunReport:
    """The run with states of every kind, judged once; rules are tried on its facts."""
    root = once(shared_dir, "stepped", make_stepped_run)
    return Auditor(root / "outputs").audit_run(RUN)


@pytest.fixture(scope="session")
def resumed(shared_dir: Path) -> RunReport:
    """The resumed run, judged once."""
    root = once(shared_dir, "resumed", make_resumed_run)
    return Auditor(root / "outputs").audit_run(RUN)
