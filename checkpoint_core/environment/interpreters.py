"""Which Python will run the training of a FluxGym folder; found by evidence, and remembered per FluxGym once chosen."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from typer import get_app_dir

from checkpoint_core.atomic_write import new_file, own_folder
from checkpoint_core.environment.facts import (
    TRAINING_PACKAGES,
    Environment,
    EnvironmentFacts,
    EnvironmentProblem,
)
from checkpoint_core.environment.probing import CachedProbe
from checkpoint_core.environment.sd_scripts import read_trainer

#: Names the training's Python where it cannot be found: a container, a rented machine's start script.
VARIABLE = "FLUXGYM_PYTHON"
#: FluxGym's README and Pinokio's ``install.js`` make ``env``; the others are what people call theirs.
_FOLDERS = ("env", "venv", ".venv")
#: A Python without these does not train.
_NEEDED = ("torch", "accelerate", *TRAINING_PACKAGES)


@dataclass(frozen=True)
class Interpreter:
    """A Python that may be the one that trains, and in words why."""

    path: Path
    source: str


def find_environment(
    root: Path, probed: CachedProbe, *, chosen: Path | None = None, hosting: bool = False
) -> Environment:
    """The environment that trains in a FluxGym folder.

    :param root: FluxGym's folder.
    :param chosen: the user's choice for this time (``--python``).
    :param hosting: this process is FluxGym itself, so its own Python starts the training.
    """
    trainer = read_trainer(root / "sd-scripts")
    for found in _certain(root, chosen, hosting):
        return probed.probe(found.path, found.source, trainer)
    for found in _active():
        answer = probed.probe(found.path, found.source, trainer)
        if isinstance(answer, EnvironmentFacts) and all(answer.version(name) for name in _NEEDED):
            return answer
    places = ", ".join(f"{name}/" for name in _FOLDERS)
    return EnvironmentProblem("", "", f"no interpreter found in {places} of {root}; choose one under Options")


def _certain(root: Path, chosen: Path | None, hosting: bool) -> Iterator[Interpreter]:
    """Pythons that somebody chose, or that FluxGym's folder holds for its training, the surest first."""
    if chosen is not None:
        yield Interpreter(_python_in(chosen) or chosen, "named at the start (--python)")
    if named := os.environ.get(VARIABLE):
        yield Interpreter(_python_in(Path(named)) or Path(named), f"named by {VARIABLE}")
    if known := remembered(root):
        yield Interpreter(known, "chosen before for this FluxGym")
    if hosting:
        yield Interpreter(Path(sys.executable), "FluxGym runs in it")
    yield from _in_folder(root)


def _in_folder(root: Path) -> Iterator[Interpreter]:
    for name in _FOLDERS:
        if path := _python_in(root / name):
            yield Interpreter(path, f"{name}/ in FluxGym's folder")


def _active() -> Iterator[Interpreter]:
    """Environments that this program was started in: FluxGym's only if they hold what the training needs."""
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        folder = os.environ.get(variable)
        if folder and (path := _python_in(Path(folder))):
            yield Interpreter(path, f"the active environment ({variable})")
    yield Interpreter(Path(sys.executable), "the Python that runs this")


def _python_in(folder: Path) -> Path | None:
    """The Python of an environment's folder: of a venv, or of conda on Windows."""
    inside = ("Scripts/python.exe", "python.exe") if os.name == "nt" else ("bin/python", "bin/python3")
    # Not Path.is_file: that raises for a folder that may not be entered, and for a name that is too long.
    return next((folder / name for name in inside if os.path.isfile(folder / name)), None)


def choices(root: Path) -> tuple[Interpreter, ...]:
    """Every Python that could be the training's, for a picker: each is one that this machine already names."""
    known = remembered(root)
    listed = [
        *([Interpreter(known, "chosen before for this FluxGym")] if known else []),
        *_in_folder(root),
        *_active(),
        *_conda(),
    ]
    surest: dict[Path, Interpreter] = {}
    for found in listed:
        surest.setdefault(found.path, found)
    return tuple(surest.values())


def _conda() -> Iterator[Interpreter]:
    """The environments that conda knows (conda ``gateways/disk``, ``environments.txt``)."""
    try:
        lines = (Path.home() / ".conda" / "environments.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, RuntimeError):  # no such file; no home
        return
    for line in lines:
        folder = Path(line.strip())
        if line.strip() and (path := _python_in(folder)):
            yield Interpreter(path, f"the conda environment {folder.name}")


def _memory() -> Path:
    return Path(get_app_dir("fluxgym-checkpoints")) / "interpreters.json"


def remembered(root: Path) -> Path | None:
    """The Python that was chosen for a FluxGym folder, while it is there."""
    known = _remembered().get(_name(root))
    return Path(known) if known and os.path.isfile(known) else None


def _name(root: Path) -> str:
    """What a FluxGym folder is called in the settings, by whichever path it was reached."""
    return os.path.normcase(os.path.realpath(root))


def _remembered() -> dict[str, str]:
    """FluxGym's folder to Python; a file that cannot be read remembers nothing."""
    try:
        value = json.loads(_memory().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return (
        {str(key): item for key, item in value.items() if isinstance(item, str)}
        if isinstance(value, dict)
        else {}
    )


def remember(root: Path, python: Path | None) -> None:
    """Keep the training interpreter in a FluxGym folder; ``None`` forgets it.

    :raises WriteFailed: when the user's settings cannot be written.
    """
    known = _remembered()
    known.pop(_name(root), None)
    if python is not None:
        known[_name(root)] = str(python)
    new_file(own_folder(_memory().parent) / _memory().name, json.dumps(known, indent=2).encode())


def environment_source(
    root: Path, *, chosen: Path | None = None, hosting: bool = False
) -> Callable[[], Environment]:
    """What asks for a FluxGym folder's environment again and again, and answers from memory while nothing changed."""
    probed = CachedProbe()
    return lambda: find_environment(root, probed, chosen=chosen, hosting=hosting)
