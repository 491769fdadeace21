"""The versions of this process, of the platform and of sd-scripts; nothing is imported or started to learn them."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from checkpoint_core.environment import git_commit

#: The packages whose versions decide about loading a state or showing the tab.
PACKAGES = (
    "torch",
    "accelerate",
    "gradio",
    "numpy",
    "safetensors",
    "bitsandbytes",
    "pandas",
    "typer",
    "rich",
)


@dataclass(frozen=True)
class Versions:
    """Versions as text; ``None`` where a package is not installed or a commit is not known.

    ``trainer_commit`` is the commit of the sd-scripts folder that would train next.
    """

    python: str
    executable: str
    platform: str
    packages: tuple[tuple[str, str | None], ...]
    trainer_commit: str | None = None


def versions_here(trainer_folder: Path | None = None) -> Versions:
    """The versions of the Python that runs this, and of the trainer in that folder."""
    return Versions(
        python=platform.python_version(),
        executable=sys.executable or "",
        platform=platform.platform(),
        packages=tuple((name, installed_version(name)) for name in PACKAGES),
        trainer_commit=git_commit(trainer_folder) if trainer_folder else None,
    )


def installed_version(package: str) -> str | None:
    """The version that a package's metadata names, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
