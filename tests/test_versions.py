from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from checkpoint_core.trainer_folder import git_commit
from checkpoint_core.versions import installed_version, versions_here

COMMIT = "48d368fa557731ad0488c07304dfeba8c07910eb"


def test_the_versions_are_those_of_this_python() -> None:
    versions = versions_here()

    assert versions.python == platform.python_version()
    assert versions.executable == sys.executable
    assert versions.platform == platform.platform()
    assert dict(versions.packages)["numpy"] == metadata.version("numpy")
    assert versions.trainer_commit is None


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert installed_version("no-such-package-of-anyone") is None


def test_learning_the_versions_imports_nothing_heavy() -> None:
    program = (
        "import sys; from checkpoint_core.versions import versions_here; versions_here();"
        "print([name for name in ('torch', 'accelerate', 'gradio', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def git_folder(folder: Path) -> Path:
    git = folder / ".git"
    git.mkdir(parents=True)
    return git


def test_a_detached_head_names_its_commit(tmp_path: Path) -> None:
    (git_folder(tmp_path) / "HEAD").write_text(f"{COMMIT}\n")

    assert git_commit(tmp_path) == COMMIT
    assert versions_here(tmp_path).trainer_commit == COMMIT


def test_a_branch_is_followed_to_its_commit(tmp_path: Path) -> None:
    git = git_folder(tmp_path)
    (git / "HEAD").write_text("ref: refs/heads/sd3\n")
    (git / "refs/heads").mkdir(parents=True)
    (git / "refs/heads/sd3").write_text(f"{COMMIT}\n")

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


@pytest.mark.parametrize(
    "head", ["", "ref: refs/heads/gone", "ref: refs/../../secret", "ref: /etc/passwd", "g" * 40, "\0"]
)
def test_what_is_no_commit_is_not_reported(tmp_path: Path, head: str) -> None:
    (git_folder(tmp_path) / "HEAD").write_text(head)
    (tmp_path / "secret").write_text(COMMIT)

    assert git_commit(tmp_path) is None


def test_a_folder_without_git_has_no_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
