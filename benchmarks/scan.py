"""Scan 1,000 states: the first time, and again when nothing has changed."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from pathlib import Path

from benchmarks.measure import measure

_REAL_RUNS = Path(__file__).resolve().parents[1] / "tests" / "data" / "real_runs.tar.xz"
STATES = 1_000


def make_outputs(folder: Path) -> None:
    """Copies of real runs, times kept, until there are :data:`STATES` states."""
    with tarfile.open(_REAL_RUNS) as archive:
        archive.extractall(folder / "source", filter="data")
    runs = sorted((folder / "source" / "real_runs").iterdir())
    outputs, made = folder / "outputs", 0
    while made < STATES:
        for run in runs:
            shutil.copytree(run, outputs / f"{run.name}-{made:04d}")
            made += sum(1 for entry in run.iterdir() if entry.is_dir())


def main() -> None:
    """Print the figures beside their targets: 3 s, and 0.3 s."""
    with tempfile.TemporaryDirectory() as name:
        make_outputs(Path(name))
        setup = f"from checkpoint_core.audit.auditor import Auditor\nauditor = Auditor({str(Path(name, 'outputs'))!r})"
        count = "assert sum(len(run.checkpoints) for run in report.runs) >= 1000"
        cold = measure(setup, f"report = auditor.audit()\n{count}")
        warm = measure(f"{setup}\nauditor.audit()", f"report = auditor.audit()\n{count}")
    print(f"{STATES:,} states, first scan:        {cold}   (target: under 3 s)")
    print(f"{STATES:,} states, nothing changed:   {warm}   (target: under 0.3 s)")
