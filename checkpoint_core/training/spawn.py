"""Starts processes: the training of a run's script, the watcher, and ``nvidia-smi``; as FluxGym itself starts them.

FluxGym (``app.py``, ``start_training``): ``bash "…/train.sh"`` or the path of ``train.bat``, in FluxGym's folder, with
``PYTHONIOENCODING`` and ``LOG_LEVEL``. ``PYTHONUNBUFFERED`` besides: through anything but a terminal Python keeps its
lines back, and a killed one loses them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from checkpoint_core.installation import module_folder
from checkpoint_core.scripts import Dialect, dialect_of

_SMI_SECONDS = 10.0
#: Of Gradio's own settings none is the training's.
_DROPPED = ("PYTHONHOME", "PYTHONSAFEPATH", "GRADIO_SERVER_PORT", "GRADIO_SERVER_NAME")

_PROGRAM_FOLDERS = ("Scripts", "Library/bin")

Popen = Callable[..., "subprocess.Popen[bytes]"]


def script_command(script: Path) -> list[str]:
    """What runs a train script here."""
    # Windows starts a batch file by its path alone, through cmd (CreateProcess).
    return [str(script)] if dialect_of(script) is Dialect.BAT else ["bash", str(script)]


def training_environment(variables: Mapping[str, str], python: str | None) -> dict[str, str]:
    """The variables of a training.

    :param python: the training interpreter; its folder comes first on PATH, so that ``accelerate`` is its own.
    """
    kept = {name: value for name, value in variables.items() if name not in _DROPPED}
    kept |= {"PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1", "LOG_LEVEL": "DEBUG"}
    if python:
        folder = Path(os.path.abspath(python)).parent
        # Outside of a venv, Windows keeps programs beside python.exe (conda: and its libraries).
        folders = [folder, *(folder / name for name in _PROGRAM_FOLDERS if (folder / name).is_dir())]
        kept["PATH"] = os.pathsep.join([*map(str, folders), *filter(None, [kept.get("PATH")])])
        if (folder.parent / "pyvenv.cfg").is_file():
            kept["VIRTUAL_ENV"] = str(folder.parent)
    return kept


def start_training(
    script: Path, log: IO[bytes], environment: Mapping[str, str], popen: Popen = subprocess.Popen
) -> subprocess.Popen[bytes]:
    """Start a run's script in FluxGym's folder, detached, with all that it prints in the log.

    :raises OSError: when it could not be started.
    """
    with _handling_interrupts():
        return popen(
            script_command(script),
            cwd=str(script.parent.parent.parent),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            **_detached(),
        )


@contextlib.contextmanager
def _handling_interrupts() -> Iterator[None]:
    """Let what is started within end when it is asked to by SIGINT, even where this process ignores it.

    A script's ``&`` leaves SIGINT ignored in all that is below (Bash Reference Manual, 3.7.6 "Signals"), a FluxGym that
    it starts among them, and no Python below raises KeyboardInterrupt then. What is ignored stays so through exec, a
    handler does not (signal(7)); ``preexec_fn`` is not safe where there are threads.
    """
    # Only the main thread may set a handler; from another the training still ends, by SIGTERM.
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def start_watcher(
    arguments: Sequence[str], log: IO[bytes], popen: Popen = subprocess.Popen
) -> subprocess.Popen[bytes]:
    """Start ``watch`` in a process of its own, which outlives this one.

    :raises OSError: when it could not be started.
    """
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return popen(
        [sys.executable, "-m", "checkpoint_core", "watch", *arguments],
        # The working folder lets the package be found; nothing is put into the training's variables.
        cwd=str(module_folder()),
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        **_detached(),
    )


def _detached() -> dict[str, Any]:
    """Options of a process that a closed terminal, a Ctrl-C and the end of its parent leave alone."""
    if os.name == "nt":
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        return {"creationflags": group | getattr(subprocess, "CREATE_NO_WINDOW", 0)}
    return {"start_new_session": True}


class GpuMeter:
    """Asks ``nvidia-smi`` how busy the GPUs are; one that does not answer is not asked again while it hangs.

    With a lost GPU it hangs in the kernel, where it can neither be ended nor waited for.
    """

    def __init__(self, popen: Popen = subprocess.Popen) -> None:
        self._popen = popen
        self._hanging: subprocess.Popen[bytes] | None = None

    def percent(self, device: str) -> int | None:
        """How busy the busiest of the GPUs is, in percent; ``None`` where that cannot be told.

        :param device: as CUDA_VISIBLE_DEVICES names them. Only unique names are the same to ``nvidia-smi``: by numbers
            it counts the cards in another order than CUDA, so then all of them are looked at.
        """
        if self._hanging is not None and self._hanging.poll() is None:
            return None
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        if device.startswith("GPU-"):
            command.append(f"--id={device}")
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        try:
            process = self._hanging = self._popen(command, **pipes)
            output, _ = process.communicate(timeout=_SMI_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return None
        except (OSError, ValueError):
            return None
        return _percent(output) if process.returncode == 0 else None


def _percent(output: bytes) -> int | None:
    percents = []
    for line in output.decode("ascii", "replace").splitlines():
        with contextlib.suppress(ValueError):
            percents.append(int(line))
    return max(percents, default=None)
