"""Gathers from this machine what the diagnosis of a run needs: the small files, the versions, who the user is."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from checkpoint_core.audit import RunReport
from checkpoint_core.recovery import RecoveryPlan
from checkpoint_core.report.diagnosis import Diagnosis, build_report
from checkpoint_core.report.redaction import Redactor
from checkpoint_core.report.training import training_json
from checkpoint_core.report.versions import versions_here
from checkpoint_core.states import RECORD, TRAIN_STATE, EntryKind, FileEntry, list_directory
from checkpoint_core.training import Processes, has_trace, log_end, training_status

#: The text files that FluxGym writes into a run's folder.
RUN_FILES = ("train.sh", "train.bat", "dataset.toml", "sample_prompts.txt", RECORD)
#: Larger files are left out; FluxGym's own are a few kilobytes.
MAX_BYTES = 64 * 1024


def diagnosis_for(
    run: RunReport, recovery: RecoveryPlan, clock: Callable[[], int] = time.time_ns
) -> Diagnosis:
    """The diagnosis of a run that was audited, with what this machine adds to it; reads, never writes.

    :param recovery: the recovery options for the run.
    :param clock: nanoseconds since the epoch.
    """
    versions = versions_here(_trainer_folder(run))
    status = training_status(run.facts.path, Processes())
    training = training_json(status) if has_trace(status) else None
    files = {**dict(small_files(run)), **_log(run)}
    return build_report(run, versions, files, redactor_here(), clock(), recovery, training)


def _log(run: RunReport) -> dict[str, bytes]:
    """The end of the last training's log, from the beginning of a line."""
    data = log_end(run.facts.path, MAX_BYTES)
    if len(data) == MAX_BYTES:
        data = data.partition(b"\n")[2] or data
    # A byte that is cut in two at the beginning must not make the whole of it no text.
    return {"training/train.log": data.decode("utf-8", "replace").encode("utf-8")} if data else {}


def redactor_here() -> Redactor:
    """A redactor that knows this machine's user."""
    homes = (os.path.expanduser("~"), os.environ.get("HOME", ""), os.environ.get("USERPROFILE", ""))
    users = (_login_name(), os.environ.get("USERNAME", ""), os.environ.get("USER", ""))
    return Redactor(tuple(dict.fromkeys(homes)), tuple(dict.fromkeys(users)))


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user may have no name
        return ""


def small_files(run: RunReport) -> Iterator[tuple[str, bytes]]:
    """The run's small text files by their path below its folder, with forward slashes.

    Never a link's target outside the outputs folder, never weights, never what is larger than 64 KiB.
    """
    folder = run.facts.path
    entries = {entry.name: entry for entry in list_directory(folder, folder.parent).entries}
    wanted = [(name, entries.get(name)) for name in RUN_FILES]
    for checkpoint in run.checkpoints:
        place = checkpoint.facts.path.relative_to(folder).as_posix()
        wanted.append((f"{place}/{TRAIN_STATE}", checkpoint.facts.file(TRAIN_STATE)))
    for name, entry in wanted:
        data = _read(folder / name, entry)
        if data is not None:
            yield name, data


def _read(path: Path, entry: FileEntry | None) -> bytes | None:
    if entry is None or entry.kind is not EntryKind.FILE or entry.size_bytes > MAX_BYTES:
        return None
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (
        OSError
    ):  # gone or forbidden since it was listed: the listing in the report tells that it was there
        return None
    return data if len(data) <= MAX_BYTES else None


def _trainer_folder(run: RunReport) -> Path | None:
    """Where the script's trainer lies: a relative path starts at FluxGym's folder, two above the run."""
    script = run.facts.script
    if script is None:
        return None
    return (run.facts.path.parent.parent / script.trainer.replace("\\", "/")).parent
