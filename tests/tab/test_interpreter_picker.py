"""The picker of the training interpreter: only what this machine names can be chosen, and the choice is kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from checkpoint_core.environment.interpreters import remembered
from checkpoint_core.tab.interpreter_picker import InterpreterPicker


@pytest.fixture
def gym(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A FluxGym folder with an environment of its own, and settings that nobody else reads."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.delenv("FLUXGYM_PYTHON")
    place = tmp_path / "fluxgym" / "env" / "bin"
    place.mkdir(parents=True)
    (place / "python").symlink_to(sys.executable)
    return tmp_path / "fluxgym"


def test_the_environment_in_fluxgyms_folder_is_found_and_shown(gym: Path) -> None:
    shown = InterpreterPicker(gym, None, hosting=False).view()

    assert "Training environment: Python 3." in shown
    assert f"{gym / 'env/bin/python'}, env/ in FluxGym&#x27;s folder" in shown
    assert "ck-info" in shown


def test_a_choice_is_kept_for_this_fluxgym_and_taken_back(gym: Path) -> None:
    python = InterpreterPicker(gym, None, hosting=True)
    own = str(gym / "env/bin/python")

    assert python.chosen() == ""
    assert own in [value for _, value in python.choices()]
    assert f"{own}, chosen before for this FluxGym" in python.choose(own)
    assert InterpreterPicker(gym, None, hosting=False).chosen() == own
    assert remembered(gym.parent / "another") is None
    assert "FluxGym runs in it" in python.choose("")
    assert python.chosen() == ""


def test_a_path_that_was_not_offered_is_refused_and_never_started(gym: Path, tmp_path: Path) -> None:
    trap, sprung = tmp_path / "trap", tmp_path / "sprung"
    trap.write_text(f"#!/bin/sh\ntouch '{sprung}'\n")
    trap.chmod(0o755)
    python = InterpreterPicker(gym, None, hosting=False)

    shown = python.choose(str(trap))

    assert 'role="alert"' in shown
    assert f"There is no Python {trap} any more; nothing was changed." in shown
    assert python.chosen() == ""
    assert not sprung.exists()


def test_a_choice_that_cannot_be_kept_is_told(gym: Path, tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("a file where the folder should be")

    shown = InterpreterPicker(gym, None, hosting=False).choose(str(gym / "env/bin/python"))

    assert "The choice was not kept." in shown


def test_none_found_is_a_warning_and_says_where_was_looked(tmp_path: Path, gym: Path) -> None:
    shown = InterpreterPicker(tmp_path, None, hosting=False).view()

    assert "ck-warning" in shown
    assert "No interpreter found in env/, venv/, .venv/ of" in shown
