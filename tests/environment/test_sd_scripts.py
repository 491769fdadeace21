"""The sd-scripts folder that would train, read as text."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from checkpoint_core.environment.facts import TrainerFacts
from checkpoint_core.environment.sd_scripts import git_commit, read_trainer

COMMIT = "48d368fa557731ad0488c07304dfeba8c07910eb"


def git_folder(folder: Path) -> Path:
    git = folder / ".git"
    git.mkdir(parents=True)
    return git


def write_trainer(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "train_network.py").write_text(text)
    return folder


# What its sources can do


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("class NetworkTrainer:\n    pass\n", frozenset()),
        ("    optimizer_train_fn, optimizer_eval_fn = train_util.get_optimizer_train_eval_fn(optimizer, args)\n",
         frozenset({"schedule-free"})),
    ],
)  # fmt: skip
def test_what_a_trainer_can_do_is_read_off_its_sources(
    tmp_path: Path, text: str, features: frozenset[str]
) -> None:
    folder = write_trainer(tmp_path, text)
    (git_folder(folder) / "HEAD").write_text(COMMIT)

    assert read_trainer(folder) == TrainerFacts(folder, COMMIT, features)


def test_a_trainer_from_an_archive_has_no_commit(tmp_path: Path) -> None:
    assert read_trainer(write_trainer(tmp_path, "#")) == TrainerFacts(tmp_path, None, frozenset())


def test_no_trainer_is_none(tmp_path: Path) -> None:
    assert read_trainer(tmp_path / "sd-scripts") is None
    (tmp_path / "train_network.py").mkdir()
    assert read_trainer(tmp_path) is None
    (git_folder(tmp_path) / "HEAD").write_text(COMMIT)
    assert read_trainer(tmp_path) is None


def test_a_file_far_too_large_for_a_source_is_not_read(tmp_path: Path) -> None:
    with write_trainer(tmp_path, "#").joinpath("train_network.py").open("r+b") as file:
        file.truncate(5 * 1024 * 1024)

    assert read_trainer(tmp_path) is None


# Its commit


def test_a_detached_head_names_its_commit(tmp_path: Path) -> None:
    (git_folder(tmp_path) / "HEAD").write_text(f"{COMMIT}\n")

    assert git_commit(tmp_path) == COMMIT


def test_a_commit_of_a_sha_256_repository_is_longer(tmp_path: Path) -> None:
    (git_folder(tmp_path) / "HEAD").write_text(f"{COMMIT}{'0' * 24}\n")

    assert git_commit(tmp_path) == f"{COMMIT}{'0' * 24}"


@pytest.mark.parametrize("branch", ["sd3", "feature/flux_1", "fix#12", "a+b@c", "größe"])
def test_a_branch_is_followed_to_its_commit(tmp_path: Path, branch: str) -> None:
    git = git_folder(tmp_path)
    (git / "HEAD").write_text(f"ref: refs/heads/{branch}\n", encoding="utf-8")
    loose = git / "refs/heads" / branch
    loose.parent.mkdir(parents=True)
    loose.write_text(f"{COMMIT}\n")

    assert git_commit(tmp_path) == COMMIT


def test_a_packed_branch_is_followed_too(tmp_path: Path) -> None:
    git = git_folder(tmp_path)
    (git / "HEAD").write_text("ref: refs/heads/sd3\n")
    (git / "packed-refs").write_text(
        f"# pack-refs with: peeled\n{'0' * 40} refs/heads/main\n{COMMIT} refs/heads/sd3\n"
    )

    assert git_commit(tmp_path) == COMMIT


def test_a_submodules_git_file_leads_on(tmp_path: Path) -> None:
    git = tmp_path / ".git/modules/sd-scripts"
    git.mkdir(parents=True)
    (git / "HEAD").write_text(COMMIT)
    trainer = tmp_path / "sd-scripts"
    trainer.mkdir()
    (trainer / ".git").write_text("gitdir: ../.git/modules/sd-scripts\n")

    assert git_commit(trainer) == COMMIT


def test_the_real_git_says_the_same_of_a_clone_and_of_its_worktree(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.invalid"]
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q", "clone")
    git("-C", "clone", "commit", "-q", "--allow-empty", "-m", "first")
    git("-C", "clone", "worktree", "add", "-q", "-b", "flux", str(tmp_path / "worktree"))
    git("-C", "worktree", "commit", "-q", "--allow-empty", "-m", "second")
    first, second = (git("-C", name, "rev-parse", "HEAD") for name in ("clone", "worktree"))
    assert first != second
    assert [git_commit(tmp_path / name) for name in ("clone", "worktree")] == [first, second]

    git("-C", "clone", "pack-refs", "--all")
    assert [git_commit(tmp_path / name) for name in ("clone", "worktree")] == [first, second]


@pytest.mark.parametrize(
    "head", ["", "ref: refs/heads/gone", "ref: refs/../../secret", "ref: /etc/passwd", "g" * 40, "\0"]
)
def test_what_is_no_commit_is_not_reported(tmp_path: Path, head: str) -> None:
    git = git_folder(tmp_path)
    (git / "HEAD").write_text(head)
    (git / "refs").mkdir()
    (tmp_path / "secret").write_text(COMMIT)

    assert git_commit(tmp_path) is None


@pytest.mark.parametrize("pointer", ["gitdir: ../gone", "gitdir: a\0b", "gitdir: ", "something else"])
def test_a_git_file_that_leads_nowhere_has_no_commit(tmp_path: Path, pointer: str) -> None:
    (tmp_path / ".git").write_text(pointer)

    assert git_commit(tmp_path) is None


def test_a_folder_without_git_has_no_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
