"""The command that runs a train script, and the folder to run it in.

As FluxGym itself does it (``app.py``, ``start_training``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from checkpoint_core.scripts import bash as script_sh
from checkpoint_core.scripts import batch as script_bat
from checkpoint_core.scripts.script import dialect_of
from checkpoint_core.scripts.tokens import Dialect


@dataclass(frozen=True)
class RunCommand:
    """``folder`` is FluxGym's own, in the script's world: on another machine or in a container it has another path."""

    command: str
    folder: str


def run_command(script: Path, output_dir: str | None) -> RunCommand:
    """How to start the training that a script describes.

    :param script: ``outputs/<run>/train.sh`` or ``train.bat``; FluxGym's folder is two above the run.
    :param output_dir: the script's ``--output_dir``, which tells the run's path where the script runs.
    """
    run = script.absolute().parent
    inside = run.relative_to(run.parent.parent) / script.name
    if dialect_of(script) is Dialect.BAT:
        command = script_bat.quote(str(PureWindowsPath(*inside.parts)), called=False)
    else:
        command = f"bash {script_sh.quote(inside.as_posix())}"
    return RunCommand(command, _root(run, output_dir))


def _root(run: Path, output_dir: str | None) -> str:
    written = _absolute(output_dir or "")
    if written is None or written.name != run.name or (Path(str(written)).exists()):
        return str(run.parent.parent)
    return str(written.parent.parent)


def _absolute(path: str) -> PurePosixPath | PureWindowsPath | None:
    if PureWindowsPath(path).drive:
        return PureWindowsPath(path)
    return PurePosixPath(path) if path.startswith("/") else None
