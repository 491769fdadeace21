"""The sd-scripts folder that would train: its commit and what its sources can do, read as text."""

from __future__ import annotations

import re
from pathlib import Path

from checkpoint_core.environment.facts import TrainerFacts

#: What a trainer can do, to the text in its ``train_network.py`` that tells so. sd-scripts knows schedule-free
#: optimizers since it switches them between training and evaluation (``optimizer_train_fn``).
TRAINER_FEATURES = {"schedule-free": "optimizer_train_fn"}

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
#: What git takes for a branch's name is nearly everything (git-check-ref-format(1)).
_REFERENCE = re.compile(r"ref: (refs/[^\s\0~^:?*\[\\]+)\Z")
#: Git's small text files and the trainer's sources: far larger than any that is meant, far smaller than one that hurts.
_MAX_BYTES = 4 * 1024 * 1024


def read_trainer(folder: Path) -> TrainerFacts | None:
    """What a folder tells about the trainer in it; ``None`` where there is no sd-scripts."""
    source = _read_small(folder / "train_network.py")
    if not source:
        return None
    features = (name for name, sign in TRAINER_FEATURES.items() if sign in source)
    return TrainerFacts(folder, git_commit(folder), frozenset(features))


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
    # A worktree has its own HEAD, and shares the branches.
    shared = _first_line(git / "commondir")
    return _reference_commit(git / shared if shared else git, reference[1])


def _reference_commit(git: Path, reference: str) -> str | None:
    loose = _first_line(git / reference) or ""
    if _COMMIT.match(loose):
        return loose
    for line in _read_small(git / "packed-refs").splitlines():
        commit, _, name = line.partition(" ")
        if name == reference and _COMMIT.match(commit):
            return commit
    return None


def _first_line(path: Path) -> str | None:
    return next(iter(_read_small(path).splitlines()), None)


def _read_small(path: Path) -> str:
    """A small text file's text, empty where there is none."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
