"""Short ways to ask for a judgement, for the tests of checks."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.findings import Finding, Severity
from checkpoint_core.audit.reports import CheckpointReport, RunReport
from checkpoint_core.recovery.planning import plan_recovery
from checkpoint_core.report.json_schema import scan_json
from checkpoint_core.states.layout import Layout
from tests.damage import times_kept
from tests.world import World


def audit_world(
    world: World, layout: Layout | None = None, clock: Callable[[], int] | None = None
) -> RunReport:
    """The world's run, judged anew."""
    auditor = Auditor(world.outputs, layout, clock) if clock else Auditor(world.outputs, layout)
    return auditor.audit_run(world.run_name)


def scanned(auditor: Auditor) -> dict[str, Any]:
    """What ``scan --json`` says of the outputs folder."""
    report = auditor.audit()
    return scan_json(report, {run.name: plan_recovery(auditor, run) for run in report.runs})


def judge_state(world: World, epoch: int = 4, layout: Layout | None = None) -> CheckpointReport:
    """One state of the world's run, judged anew."""
    return audit_world(world, layout).checkpoint(world.state(epoch).name)


def judge_copy(state: Path, folder: Path, layout: Layout | None = None) -> CheckpointReport:
    """A copy of a state, the only one of a run without a script in `folder`."""
    copy = folder / "outputs" / "lone-run" / state.name
    if not copy.exists():
        shutil.copytree(state, copy)
    return Auditor(folder / "outputs", layout).audit_run("lone-run").checkpoint(state.name)


def codes(report: CheckpointReport | RunReport) -> list[str]:
    """The codes of what was found, information left out."""
    return [found.code for found in report.findings if found.severity is not Severity.INFO]


def found(report: CheckpointReport | RunReport, code: str) -> Finding:
    """The one finding of that code; fails where there is none or more."""
    (only,) = (each for each in report.findings if each.code == code)
    return only


def outcome(report: CheckpointReport) -> tuple[str, list[str]]:
    """The verdict with the codes that led to it."""
    return report.verdict.value, codes(report)


def make_directory_of(path: Path) -> None:
    """Put a directory in a file's place: like a file that may not be read, for root too."""
    with times_kept(path.parent):
        path.unlink()
        path.mkdir()


def make_dangling(path: Path) -> None:
    """Put a link that leads nowhere in a file's place."""
    with times_kept(path.parent):
        path.unlink()
        path.symlink_to(path.parent / "nowhere")


def make_outside_link(path: Path) -> None:
    """Put a link to a good copy of a file, out of the outputs folder, in the file's place."""
    outside = path.parents[3] / f"outside-{path.name}"
    with times_kept(path.parent):
        shutil.move(path, outside)
        path.symlink_to(outside)


def compress(path: Path) -> None:
    """Compress a torch zip's members; no torch does that, and the bytes cannot be read by offset."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with times_kept(path), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def set_age(path: Path, seconds: float, now_ns: int) -> None:
    """Let a file look as if it had been written so many seconds before `now_ns`."""
    os.utime(path, ns=(now_ns - round(seconds * 1e9),) * 2)
