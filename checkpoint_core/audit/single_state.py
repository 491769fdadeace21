"""One state directory by its path, wherever it lies, with the run's own script or another; wrong paths are told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.catalogue.states import finding
from checkpoint_core.audit.findings import Finding, Verdict
from checkpoint_core.audit.reports import CheckpointReport, state_name
from checkpoint_core.environment import Environment, RehearsalOutcome
from checkpoint_core.scripts import ScriptFacts, find_script, read_script
from checkpoint_core.states import (
    AUTOMATIC_FOLDER,
    Layout,
    Progress,
    SavePoint,
    StateFacts,
    discovery,
    list_directory,
    looks_like_state,
    parse_state_name,
)
from checkpoint_core.trainer import LaunchPoint, Position


class ScriptUnusable(ValueError):
    """The script that was given to judge by cannot be used; the text says why."""


def audit_state(
    path: Path | str,
    script_path: Path | str | None = None,
    layout: Layout | None = None,
    deep: bool = False,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    clock: Callable[[], int] = time.time_ns,
    environment: Environment = None,
    rehearse: Callable[[StateFacts, Environment], RehearsalOutcome] | None = None,
) -> CheckpointReport:
    """Judge one state directory.

    A path that is no state directory gives a report all the same, with the finding that tells what it is and which
    state directory was probably meant.

    :param script_path: judge with this train script instead of the run's own.
    :param layout: judge by this layout instead of by the trainer that the script names.
    :param deep: read every byte; ``progress`` is called with the bytes done and the bytes in all.
    :param clock: nanoseconds since the epoch.
    :param environment: the training interpreter; ``None`` judges nothing about it.
    :param rehearse: test-loads the state, and its outcome is judged too.
    :raises ScriptUnusable: when the script that was given cannot be read or understood.
    :raises VerificationCancelled: when ``cancelled`` returned true.
    """
    state = Path(os.path.abspath(path))
    script = _given_script(Path(script_path)) if script_path is not None else None
    mistake = next(_mistakes(state), None)
    if mistake is not None:
        return _nothing(state, mistake, layout)
    folder = run_folder(state)
    auditor = Auditor(folder.parent, layout, clock, lambda: environment, script)

    def look() -> CheckpointReport:
        return auditor.audit_folder(folder, state).checkpoint(state_name(state, folder))

    # Nothing is judged here: what `scan` says of a state must be what is said of it alone.
    report = auditor.verify_seen(look, progress, cancelled) if deep else look()
    return auditor.rehearse_seen(look, rehearse) if rehearse is not None else report


def _given_script(path: Path) -> ScriptFacts:
    if not path.is_file():
        raise ScriptUnusable(f"There is no train script {path}. Give the path of a train.sh or train.bat.")
    facts, problem = read_script(path)
    if facts is None:
        raise ScriptUnusable(f"The train script {path} cannot be used to judge by: {problem}")
    return facts


def fluxgym_root(state: Path | str) -> Path:
    """FluxGym's folder, seen from a state in ``outputs/<run>/``."""
    return run_folder(Path(os.path.abspath(state))).parent.parent


def run_folder(state: Path) -> Path:
    """The run's folder above a state; accelerate's automatic naming puts one folder in between."""
    nested = state.parent.name == AUTOMATIC_FOLDER and find_script(state.parent) is None
    return state.parent.parent if nested else state.parent


def _mistakes(path: Path) -> Iterator[Finding]:
    """What a path is that is no state directory."""
    if not os.path.exists(path):
        yield finding("path-missing", evidence=str(path), hint=_good_states(path.parent))
    elif not os.path.isdir(path):
        code = (
            "path-lora-file"
            if path.suffix == ".safetensors" and not _is_state(path.parent)
            else "path-not-a-state"
        )
        yield finding(code, evidence=str(path), hint=_beside_file(path))
    elif not _is_state(path):
        found = discovery.find_run(path)
        yield finding(
            "path-run-folder" if found.states else "path-not-a-state",
            evidence=str(path),
            hint=_good_states(path) if found.states else _good_states(path.parent),
        )


def _is_state(path: Path) -> bool:
    named_so = parse_state_name(path.name).save_point is not SavePoint.OTHER
    files = [entry.name for entry in list_directory(path, path.parent).entries]
    # A run that is itself called “…-state” holds states; a state holds files.
    return looks_like_state(files) or (named_so and not discovery.find_run(path).states)


def _beside_file(path: Path) -> str:
    """Which state directory was probably meant by a file."""
    if _is_state(path.parent):
        return f" This file lies in one: {path.parent}."
    match = path.parent / f"{path.stem}-state"
    return f" It is {match}." if match.is_dir() else _good_states(path.parent)


def _good_states(folder: Path) -> str:
    """The states of a run that resume, as the end of a cure; empty where the folder is no run."""
    if not folder.is_dir() or not discovery.find_run(folder).states:
        return ""
    run = Auditor(folder.parent).audit_folder(folder)
    good = [item.name for item in run.checkpoints if item.verdict.resumes]
    if not good:
        return f" None of the states in {folder} resumes as it is."
    return f" These in {folder} resume: {', '.join(good)}."


def _nothing(path: Path, mistake: Finding, layout: Layout | None) -> CheckpointReport:
    """The report about a path where no state is."""
    source = "chosen by you" if layout else "assumed, because there is no state directory"
    facts = StateFacts(
        path=path,
        name=parse_state_name(path.name),
        layout=layout or Layout.SD_SCRIPTS,
        layout_source=source,
        observed_ns=0,
        changed=False,
        modified_ns=0,
        files=(),
        problem=None,
        train_state=None,
        weights=None,
        optimizer=None,
        scheduler=None,
        random_states=None,
        custom_object=None,
        lora=None,
    )
    launch = LaunchPoint(Position(None, None, False, None, None, None, None, None, None, None), None)
    run = path if mistake.code == "path-run-folder" else run_folder(path)
    return CheckpointReport(run.name, path.name, facts, launch, (mistake,), Verdict.DAMAGED)
