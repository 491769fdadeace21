"""The path of a state directory as the train script's own machine or container knows it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from checkpoint_core.scripts.places import WINDOWS_ABSOLUTE, absolute
from checkpoint_core.scripts.script import InexpressiblePath, TrainScript
from checkpoint_core.states.layout import AUTOMATIC_FOLDER


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
    if _is_here(written, here):
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
    """Whether a name cannot lead anywhere but to where discovery looks for states."""
    *above, plain = name.split("/")
    return (
        above in ([], [AUTOMATIC_FOLDER]) and plain not in ("", ".", "..") and not re.search(r"[\\\0]", plain)
    )


def _is_here(written: str, here: Path) -> bool:
    """Whether the script's path is the run's folder here; FluxGym runs scripts two folders above it."""
    if WINDOWS_ABSOLUTE.match(written) and os.name != "nt":
        return False
    candidate = Path(here.parent.parent, written)
    try:
        return os.path.samefile(candidate, here)
    except (OSError, ValueError):
        return os.path.abspath(candidate) == str(here)
