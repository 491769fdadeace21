"""The versions of this process, of the platform and of sd-scripts; nothing is imported or started to learn them."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

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

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_REFERENCE = re.compile(r"ref: (refs/[\w./-]+)\Z")
#: Git's small text files: far larger than any that is meant, far smaller than one that would hurt.
_MAX_BYTES = 4 * 1024 * 1024


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


def git_commit(folder: Path) -> str | None:
    """The commit that is checked out in a folder, read from git's own text files (gitrepository-layout(5))."""
    git = folder / ".git"
    pointer = _first_line(git)  # a submodule's or a worktree's .git is a file
    if pointer is not None and pointer.startswith("gitdir: "):
        git = folder / pointer.removeprefix("gitdir: ")
    head = _first_line(git / "HEAD") or ""
    if _COMMIT.match(head):
        return head
    reference = _REFERENCE.match(head)
    if reference is None or ".." in reference[1]:
        return None
    return _reference_commit(git, reference[1])


def _reference_commit(git: Path, reference: str) -> str | None:
    loose = _first_line(git / reference) or ""
    if _COMMIT.match(loose):
        return loose
    for line in _text(git / "packed-refs").splitlines():
        commit, _, name = line.partition(" ")
        if name == reference and _COMMIT.match(commit):
            return commit
    return None


def _first_line(path: Path) -> str | None:
    return next(iter(_text(path).splitlines()), None)


def _text(path: Path) -> str:
    """A small text file's text, empty where there is none."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
