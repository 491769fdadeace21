"""An outputs folder with runs of the real trainer, for the page's own tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.tab.presenter import TabPresenter

GOOD, DAMAGED, RESUMED = "accelerate-1.6.0-adafactor", "killed-while-overwriting", "resumed-once"
EPOCH_1, EPOCH_2, EPOCH_3 = (f"tiny-lora-{epoch:06d}-state" for epoch in (1, 2, 3))


@pytest.fixture
def outputs(real_runs: Path, tmp_path: Path) -> Path:
    """Copies of three real runs, to be broken."""
    for name in (GOOD, DAMAGED, RESUMED):
        shutil.copytree(real_runs / name, tmp_path / "outputs" / name)
    return tmp_path / "outputs"


@pytest.fixture
def presenter(outputs: Path) -> TabPresenter:
    return TabPresenter(outputs)


def audited(outputs: Path, name: str) -> RunReport:
    """One run of the outputs folder as it is now."""
    return Auditor(outputs).audit_run(name)
