"""Where the project lies, and that its modules are found from there without shadowing the standard library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from checkpoint_core import installation
from checkpoint_core.demo.fluxgym_files import write_trainer
from tests.world import PROJECT


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clone as one of the folders in which this Python looks for packages."""
    monkeypatch.setattr(installation.site, "getsitepackages", lambda: ["/elsewhere", str(PROJECT)])


def test_a_clone_is_its_own_folder() -> None:
    assert not installation.is_installed()
    assert installation.module_folder() == installation.PROJECT == PROJECT


@pytest.mark.usefixtures("installed")
def test_an_environment_s_packages_are_no_working_folder() -> None:
    assert installation.is_installed()
    assert installation.module_folder() == Path(sys.prefix)
    assert not list(Path(sys.prefix).glob("*.py"))


def test_the_user_s_own_packages_count_where_this_python_looks_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation.site, "getusersitepackages", lambda: str(PROJECT))
    for looks in (False, True):
        monkeypatch.setattr(installation.site, "ENABLE_USER_SITE", looks)
        assert installation.is_installed() is looks


def test_from_the_packages_folder_the_standard_library_would_be_shadowed(tmp_path: Path) -> None:
    """Why the packages' folder is never the working one: what ``-m`` does there."""
    (tmp_path / "checkpoint_core").symlink_to(PROJECT / "checkpoint_core")
    (tmp_path / "argparse.py").write_text("raise ImportError('not the standard library')")
    command = [sys.executable, "-m", "checkpoint_core.demo.make_outputs", "--help"]
    shadowed = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert b"not the standard library" in shadowed.stderr


def test_the_samples_trainer_names_the_clone(tmp_path: Path) -> None:
    assert f"sys.path.insert(0, {str(PROJECT)!r})" in write_trainer(tmp_path).read_text("utf-8")


@pytest.mark.usefixtures("installed")
def test_the_samples_trainer_finds_an_installed_package_by_itself(tmp_path: Path) -> None:
    text = write_trainer(tmp_path).read_text("utf-8")
    assert "sys.path" not in text
    assert "import main" in text
