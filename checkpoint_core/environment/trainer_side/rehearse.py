"""The real ``Accelerator.load_state`` on one state directory, on the CPU and without the base model.

    PYTHON rehearse.py '{"state": DIR, "layout": "sd-scripts", "stamp": TEXT, "seconds": 120}'

Run by path, by the interpreter that trains. Tells each stage, and at last the outcome, as a line of JSON on standard
output; whatever else the libraries print goes to standard error. Nothing is written to the state.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

_LIBRARIES = {"accelerate", "torch", "safetensors"}
_MAX_FRAMES = 10
_MAX_MESSAGE = 2_000
_ABANDONED = 3

Say = Callable[[dict[str, Any]], None]


def main(argument: str) -> None:
    """Rehearse as the request says; the last line that is said is the outcome."""
    request = json.loads(argument)
    say = _own_output()
    _watch(float(request["seconds"]))
    say({"outcome": _rehearse(Path(request["state"]), request["layout"], request["stamp"], say)})


def _own_output() -> Say:
    """Keep standard output for the lines of this program alone."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        lines.write(json.dumps(message) + "\n")
        lines.flush()

    return say


def _watch(seconds: float) -> None:
    """End this process when the time is up or the one that started it has gone; nobody would end it else."""
    deadline, parent = time.monotonic() + seconds, os.getppid()

    def watch() -> None:
        while time.monotonic() < deadline and _is_there(parent):
            time.sleep(0.5)
        os._exit(_ABANDONED)

    threading.Thread(target=watch, name="watch", daemon=True).start()


def _is_there(parent: int) -> bool:
    if os.name == "posix":
        return os.getppid() == parent  # an orphan gets another parent
    import psutil  # accelerate needs it, so it is there

    return bool(psutil.pid_exists(parent))


def _rehearse(state: Path, layout: str, stamp: str, say: Say) -> dict[str, Any]:
    outcome: dict[str, Any] = {"status": "failed", "versions": _versions()}
    stand_in = None
    start = time.monotonic()
    try:
        say({"stage": "importing"})
        # By its bare name: it lies beside this file, and the project is not installed here.
        module = importlib.import_module("stand_in")
        module.finish_import()
        outcome["import_seconds"] = time.monotonic() - start
        before = _peak_bytes()
        say({"stage": "building"})
        stand_in = module.StandIn(state, layout)
        say({"stage": "loading"})
        if state_stamp(state) != stamp:
            return {**outcome, "status": "changed"}
        stand_in.load()
        say({"stage": "checking"})
        problem = stand_in.problem()
        outcome.update(status="failed" if problem else "loaded", message=problem or "")
        outcome.update(restored=stand_in.restored(), peak_bytes=_peak_bytes() - before)
    except Exception as error:  # noqa: BLE001 - whatever the libraries raise is the outcome
        outcome.update(described(error))
    if stand_in is not None:
        outcome.update(part=stand_in.part, log_lines=stand_in.log_lines, start=_counts(stand_in.start))
        outcome.update(gave_up=stand_in.gave_up)
    return outcome


def described(error: Exception) -> dict[str, Any]:
    """An exception: its class, its text, and where in the libraries it was raised, innermost last."""
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if _LIBRARIES & set(Path(frame.filename).parts)
    ]
    return {
        "exception": type(error).__name__,
        "message": str(error)[:_MAX_MESSAGE],
        "frames": frames[-_MAX_FRAMES:],
    }


def _counts(record: dict[str, Any]) -> dict[str, int]:
    known = ((key, record.get(key)) for key in ("current_epoch", "current_step"))
    return {key: value for key, value in known if type(value) is int}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("torch", "accelerate", "numpy", "safetensors"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def state_stamp(state: Path) -> str:
    """What changes when a file of the directory does: names, sizes, times and inode numbers, as one text.

    Both sides of a rehearsal use it, each in its own Python.

    :raises OSError: when the directory cannot be listed.
    """
    entries = []
    with os.scandir(state) as found:
        for entry in found:
            try:
                status = os.stat(entry.path)
            except FileNotFoundError:  # a link that leads nowhere
                status = entry.stat(follow_symlinks=False)
            # Elsewhere Python's releases differ in what they call the inode number and the time of change.
            own = [status.st_ino, status.st_ctime_ns] if os.name == "posix" else []
            entries.append([entry.name, status.st_size, status.st_mtime_ns, *own])
    return hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()


def _peak_bytes() -> int:
    """The most memory that this process has had; 0 where the system does not tell (only Linux does per process)."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")), 0)
    except OSError:
        return 0


if __name__ == "__main__":
    main(sys.argv[1])
