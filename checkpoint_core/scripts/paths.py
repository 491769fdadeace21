"""The script's paths on this machine, and this machine's as the script's own machine or container knows them.

A script is started in FluxGym's folder, two above its run, so a relative path begins there. Whether a path is of this
machine has one answer, :func:`is_here`: it is written in this system's way, and there is something at it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from checkpoint_core.scripts import bash, batch
from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.scripts.script import TrainScript, dialect_of
from checkpoint_core.scripts.tokens import Dialect, InexpressiblePath

#: accelerate's automatic naming saves to ``checkpoints/checkpoint_N`` (``accelerator.py``, ``save_state``).
_STATE_NAME = re.compile(r"(checkpoints/)?(?P<plain>[^/\\\0]+)\Z")


@dataclass(frozen=True, slots=True)
class ResumeValue:
    """What to write after `--resume`, and what the user should know about it."""

    value: str
    note: str | None = None


def resume_value(script: TrainScript, run_dir: Path, state_name: str) -> ResumeValue:
    """The state directory's path in the script's own world.

    The script's `--output_dir` tells which world that is: a folder of the run's name that is not this run's
    folder here is the same run seen from another machine or container. Raises InexpressiblePath for a state name
    that is neither the plain name of a child nor that of a child of accelerate's own folder, `checkpoints/NAME`.
    """
    if not _is_state_name(state_name):
        raise InexpressiblePath(f"{state_name!r} is not the name of a folder inside the run")
    here = Path(os.path.abspath(run_dir))
    value = str(here / state_name)
    written = script.value("--output_dir")
    if written is None:
        why = script.unknown("--output_dir") or "The script has no --output_dir."
        return ResumeValue(value, f"{why} The path given is the one on this machine.")
    if is_run_folder(written, here):
        return ResumeValue(value)
    elsewhere = absolute(written)
    if elsewhere is not None and elsewhere.name == here.name:
        return ResumeValue(
            str(elsewhere / state_name),
            f"The script names the run's folder as {written}, another machine's or container's path "
            f"for {here}; --resume is written in the same way.",
        )
    return ResumeValue(
        value,
        f"The script's --output_dir is {written}, which is not this run's folder {here}; "
        "the path given is the one on this machine.",
    )


def _is_state_name(name: str) -> bool:
    """Whether a name cannot lead anywhere but to where a run keeps its states."""
    found = _STATE_NAME.match(name)
    return found is not None and found["plain"] not in (".", "..")


def is_here(written: str, run: Path) -> bool:
    """Whether a path of the script is one of this machine: another system's is not, whatever bears its name here."""
    return is_native(absolute(written)) and os.path.exists(run.parent.parent / written)


def is_run_folder(written: str, run: Path) -> bool:
    """Whether a path of the script is the run's folder, under this name or another; it need not be there."""
    candidate = run.parent.parent / written
    return is_native(absolute(written)) and (
        same_place(candidate, run) or os.path.abspath(candidate) == os.path.abspath(run)
    )


WINDOWS_ABSOLUTE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def path_here(written: str, script: ScriptFacts, run: Path) -> Path | None:
    """A path of the script on this machine; ``None`` where it is of another world and has no counterpart here.

    A relative path starts two folders above the run, where FluxGym starts its scripts. A script whose ``--output_dir``
    is not here but has the run's name was written for the same FluxGym folder seen from elsewhere.
    """
    root, pure = run.parent.parent, absolute(written)
    if pure is None:
        return root / written
    if is_of_this_machine(script, run):
        return Path(written) if is_native(pure) else None
    output = absolute(script.output_dir or "")
    if output is None or output.name != run.name:
        return None
    elsewhere = output.parent.parent
    # Everything lies below a root: a container that mounts /outputs does not tell where its other folders are.
    if elsewhere == elsewhere.parent or type(pure) is not type(output) or not pure.is_relative_to(elsewhere):
        return None
    parts = pure.relative_to(elsewhere).parts
    return root.joinpath(*parts) if ".." not in parts else None


def is_of_this_machine(script: ScriptFacts, run: Path) -> bool:
    """Whether the script names this machine's folders, as far as its ``--output_dir`` tells."""
    return script.output_dir is None or is_here(script.output_dir, run)


def output_elsewhere(script: ScriptFacts | None, run: Path) -> Path | None:
    """The folder of this machine into which the script saves, where that is another one than the run's own."""
    if script is None or script.output_dir is None or not is_of_this_machine(script, run):
        return None
    folder = run.parent.parent / script.output_dir
    return folder if folder.is_dir() and not same_place(folder, run) else None


def absolute(written: str) -> PurePosixPath | PureWindowsPath | None:
    """An absolute path of either system; ``None`` for a relative one."""
    if WINDOWS_ABSOLUTE.match(written):
        return PureWindowsPath(written)
    return PurePosixPath(written) if written.startswith("/") else None


def is_native(path: PurePath | None) -> bool:
    """Whether a path is written in this system's way; a relative one, ``None``, is in either's."""
    return path is None or isinstance(path, PureWindowsPath) == (os.name == "nt")


def same_place(first: Path, second: Path) -> bool:
    """Whether two paths are the same existing folder; what a script holds for a path may be none that can be."""
    try:
        return os.path.samefile(first, second)
    except (OSError, ValueError):
        return False


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
        command = batch.quote(str(PureWindowsPath(*inside.parts)), called=False)
    else:
        command = f"bash {_typed(inside.as_posix())}"
    return RunCommand(command, _root(run, output_dir))


def _typed(path: str) -> str:
    """A path as it is typed into bash: bytes that are no UTF-8 as escapes, for no text can show them."""
    data = path.encode("utf-8", "surrogateescape")
    if data == path.encode("utf-8", "replace"):
        return bash.quote(path)
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}" for byte in data)
    return f"$'{''.join(plain)}'"


def _root(run: Path, output_dir: str | None) -> str:
    written = absolute(output_dir or "")
    if written is None or written.name != run.name or is_here(output_dir or "", run):
        return str(run.parent.parent)
    return str(written.parent.parent)
