"""Whether a train script begins with another run's training: its ``--resume`` or ``--network_weights`` leads there.

Two machines name one run's folder differently, and that is not another run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.scripts.paths import absolute, path_here

#: Flags of sd-scripts' ``train_network.py`` that name what a training begins with.
_FLAGS = ("--resume", "--network_weights")


def other_runs(script: ScriptFacts | None, run: Path) -> dict[str, str]:
    """The names of the other runs that the script's flags lead into, by flag; empty where none does."""
    return dict(_other_runs(script, run)) if script is not None else {}


def _other_runs(script: ScriptFacts, run: Path) -> Iterator[tuple[str, str]]:
    for flag in _FLAGS:
        value = script.value(flag)
        of_hub = flag == "--resume" and script.resume_from_huggingface
        if value and value.strip() and not of_hub and (name := _other_run(value, script, run)):
            yield flag, name


def _other_run(value: str, script: ScriptFacts, run: Path) -> str | None:
    """The run that a path leads into, where it is not this one and not the folder that the script saves into."""
    if _is_below(absolute(value), absolute(script.output_dir or "")):
        return None
    here = path_here(value, script, run)
    if here is not None and (inside := _inside(here, run.parent)):
        return inside if os.path.realpath(run.parent / inside) != os.path.realpath(run) else None
    return _other_run_elsewhere(absolute(value), run)


def _is_below(path: PurePath | None, folder: PurePath | None) -> bool:
    if path is None or folder is None or type(path) is not type(folder) or not path.is_relative_to(folder):
        return False
    return ".." not in path.relative_to(folder).parts


def _inside(path: Path, outputs: Path) -> str | None:
    """Of a path below the outputs folder the run's name, by whatever name the folder is reached."""
    for there, base in ((os.path.abspath(path), os.path.abspath(outputs)), *_real(path, outputs)):
        if Path(there).is_relative_to(base) and there != base:
            return Path(there).relative_to(base).parts[0]
    return None


def _real(path: Path, outputs: Path) -> Iterator[tuple[str, str]]:
    try:
        yield os.path.realpath(path), os.path.realpath(outputs)
    except (OSError, ValueError):  # what a script holds for a path may be none that can be
        return


def _other_run_elsewhere(path: PurePath | None, run: Path) -> str | None:
    """The run of a path that is not of this machine: FluxGym keeps its runs in a folder of one name everywhere."""
    parents = () if path is None else (path, *path.parents)
    names = (place.name for place in parents if place.parent.name == run.parent.name)
    name = next(names, None)
    return name if name and name != run.name else None
