"""Which Python trains a FluxGym folder: the order of the evidence, what is remembered, and what is offered."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from checkpoint_core.atomic_write import WriteFailed
from checkpoint_core.environment.facts import Environment, EnvironmentFacts, EnvironmentProblem
from checkpoint_core.environment.interpreters import (
    choices,
    environment_source,
    find_environment,
    remember,
    remembered,
)
from checkpoint_core.environment.probing import CachedProbe
from tests.environments import VERSIONS, Answering, executable_script, linked_python

TRAINING = {**VERSIONS, "transformers": "4.49.0", "diffusers": "0.32.1"}


@pytest.fixture
def gym(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A FluxGym folder without an environment; nothing outside it points to one."""
    for variable in ("FLUXGYM_PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root = tmp_path / "fluxgym"
    root.mkdir()
    return root


def settings(gym: Path) -> Path:
    return gym.parent / "settings" / "fluxgym-checkpoints" / "interpreters.json"


def find(gym: Path, run: Answering | None = None, **options: object) -> Environment:
    return find_environment(gym, CachedProbe(run or Answering()), **options)  # type: ignore[arg-type]


def source(found: Environment) -> str:
    assert isinstance(found, EnvironmentFacts), found
    return found.source


# The order of the evidence


def test_the_surest_evidence_wins(gym: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is there at first; each look takes away what the one before has found."""
    chosen, named, kept = (linked_python(tmp_path / name / "bin/python") for name in ("a", "b", "c"))
    monkeypatch.setenv("FLUXGYM_PYTHON", str(named))
    remember(gym, kept)
    places = [linked_python(gym / folder / "bin/python") for folder in ("env", "venv", ".venv")]
    active, conda = (
        linked_python(tmp_path / "active/bin/python"),
        linked_python(tmp_path / "conda/bin/python"),
    )
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "active"))
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "conda"))
    run = Answering(TRAINING)

    found = [source(find(gym, run, chosen=chosen, hosting=True))]
    found.append(source(find(gym, run, hosting=True)))
    monkeypatch.delenv("FLUXGYM_PYTHON")
    found.append(source(find(gym, run, hosting=True)))
    kept.unlink()
    found.append(source(find(gym, run, hosting=True)))
    for place in (*places, active, conda):
        found.append(source(find(gym, run)))
        place.unlink()
    found.append(source(find(gym, run)))

    assert found == [
        "named at the start (--python)",
        "named by FLUXGYM_PYTHON",
        "chosen before for this FluxGym",
        "FluxGym runs in it",
        "env/ in FluxGym's folder",
        "venv/ in FluxGym's folder",
        ".venv/ in FluxGym's folder",
        "the active environment (VIRTUAL_ENV)",
        "the active environment (CONDA_PREFIX)",
        "the Python that runs this",
    ]
    asked = [chosen, named, kept, sys.executable, *places, active, conda, sys.executable]
    assert run.asked == [str(path) for path in asked]


def test_an_environments_folder_stands_for_its_python(
    gym: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = linked_python(tmp_path / "miniconda/envs/fluxgym/bin/python3")
    folder = python.parent.parent
    run = Answering()
    find(gym, run, chosen=folder)
    monkeypatch.setenv("FLUXGYM_PYTHON", str(folder))
    find(gym, run)
    assert run.asked == [str(python), str(python)]


@pytest.mark.parametrize("left", ["dangling", "folder", "nothing"])
def test_a_broken_environment_is_passed_over(gym: Path, left: str) -> None:
    python = gym / "env/bin/python"
    python.parent.mkdir(parents=True)
    if left == "dangling":
        python.symlink_to("/gone/python3.10")
    if left == "folder":
        python.mkdir()
    linked_python(gym / "venv/bin/python")

    assert source(find(gym)) == "venv/ in FluxGym's folder"


def test_a_sure_python_that_does_not_answer_is_told_and_no_other_is_guessed(gym: Path) -> None:
    python = linked_python(gym / "env/bin/python")
    linked_python(gym / "venv/bin/python")
    run = Answering(TRAINING, {str(python): None})

    assert find(gym, run) == EnvironmentProblem(
        str(python), "env/ in FluxGym's folder", "it could not be started (No such file or directory)"
    )
    assert run.asked == [str(python)]


@pytest.mark.parametrize("lacking", ["torch", "accelerate", "transformers", "diffusers"])
def test_an_active_environment_that_cannot_train_is_not_taken_for_fluxgyms(
    gym: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    active = linked_python(tmp_path / "active/bin/python")
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "active"))
    without = {name: version for name, version in TRAINING.items() if name != lacking}

    assert isinstance(find(gym, Answering(without)), EnvironmentProblem)
    assert source(find(gym, Answering(without, {sys.executable: TRAINING}))) == "the Python that runs this"
    assert source(find(gym, Answering(TRAINING, {sys.executable: None}))).startswith("the active")
    assert isinstance(
        find(gym, Answering(TRAINING, {sys.executable: None, str(active): None})), EnvironmentProblem
    )


def test_none_found_says_where_was_looked(gym: Path) -> None:
    assert find(gym, Answering({})) == EnvironmentProblem(
        "", "", f"no interpreter found in env/, venv/, .venv/ of {gym}; choose one under Options"
    )


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
@pytest.mark.parametrize("value", ["", "/gone", "/" + "x/" * 5000])
def test_a_stale_or_senseless_variable_is_passed_over(
    gym: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    assert source(find(gym, Answering(TRAINING))) == "the Python that runs this"
    assert [str(found.path) for found in choices(gym)] == [sys.executable]


def test_the_trainer_beside_it_is_told_with_it(gym: Path) -> None:
    (gym / "sd-scripts").mkdir()
    (gym / "sd-scripts/train_network.py").write_text("# the trainer")
    linked_python(gym / "env/bin/python")
    found = find(gym)

    assert isinstance(found, EnvironmentFacts)
    assert found.trainer is not None
    assert found.trainer.folder == gym / "sd-scripts"


def test_the_asker_answers_from_memory_and_sees_what_appears(gym: Path) -> None:
    script = f"echo x >> '{gym}/asked'; echo '{{\"packages\": {{}}}}'"
    executable_script(gym / "venv/bin/python", script)
    ask = environment_source(gym)
    assert source(ask()) == source(ask()) == "venv/ in FluxGym's folder"
    assert (gym / "asked").read_text() == "x\n"

    executable_script(gym / "env/bin/python", script)
    assert source(ask()) == "env/ in FluxGym's folder"
    assert source(environment_source(gym, chosen=gym / "venv")()) == "named at the start (--python)"


# Remembered per FluxGym


def test_a_choice_is_kept_for_one_fluxgym_and_forgotten_on_demand(gym: Path, tmp_path: Path) -> None:
    python, other = linked_python(tmp_path / "a/bin/python"), tmp_path / "another"
    assert remembered(gym) is None
    remember(gym, python)
    assert (remembered(gym), remembered(other)) == (python, None)
    remember(other, python)
    remember(gym, None)
    assert (remembered(gym), remembered(other)) == (None, python)
    remember(gym, None)
    assert json.loads(settings(gym).read_text()) == {str(other): str(python)}


def test_a_fluxgym_is_the_same_by_every_path(gym: Path, tmp_path: Path) -> None:
    python = linked_python(tmp_path / "a/bin/python")
    (tmp_path / "link").symlink_to(gym)
    remember(tmp_path / "link", python)

    assert remembered(gym) == remembered(gym / "outputs" / "..") == python
    assert list(json.loads(settings(gym).read_text())) == [os.path.realpath(gym)]


def test_a_python_that_is_gone_is_not_used_but_comes_back(gym: Path, tmp_path: Path) -> None:
    python = linked_python(tmp_path / "drive/bin/python")
    remember(gym, python)
    (tmp_path / "drive").rename(tmp_path / "unmounted")
    assert remembered(gym) is None
    (tmp_path / "unmounted").rename(tmp_path / "drive")
    assert remembered(gym) == python


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"GYM": 7}',
        b'{"GYM": ["x"]}',
        b'{"GYM": "\\u0000"}',
    ],
)
def test_settings_that_cannot_be_understood_remember_nothing_and_are_replaced(
    gym: Path, tmp_path: Path, text: bytes
) -> None:
    settings(gym).parent.mkdir(parents=True)
    settings(gym).write_bytes(text.replace(b"GYM", os.fsencode(gym)))
    assert remembered(gym) is None
    assert isinstance(find(gym), EnvironmentProblem)

    python = linked_python(tmp_path / "a/bin/python")
    remember(gym, python)
    assert json.loads(settings(gym).read_text()) == {str(gym): str(python)}


def test_settings_that_cannot_be_written_are_told_in_words(gym: Path, tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("a file where the folder should be")

    with pytest.raises(WriteFailed, match="fluxgym-checkpoints was not written"):
        remember(gym, Path(sys.executable))
    assert remembered(gym) is None


def test_a_python_whose_path_is_no_text_is_remembered(gym: Path, tmp_path: Path) -> None:
    python = linked_python(tmp_path / os.fsdecode(b"caf\xe9") / "python")
    remember(gym, python)
    assert remembered(gym) == python


# Offered


def test_every_python_that_the_machine_names_is_offered_once_the_surest_first(
    gym: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conda = [linked_python(tmp_path / f"conda/envs/{name}/bin/python") for name in ("flux", "other")]
    listing = tmp_path / "home/.conda/environments.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text(
        "\n".join(["", str(tmp_path / "gone"), *(str(path.parent.parent) for path in conda), ""])
    )
    env, dot = linked_python(gym / "env/bin/python"), linked_python(gym / ".venv/bin/python")
    monkeypatch.setenv("VIRTUAL_ENV", str(gym / "env"))
    remember(gym, conda[1])

    assert [(found.path, found.source) for found in choices(gym)] == [
        (conda[1], "chosen before for this FluxGym"),
        (env, "env/ in FluxGym's folder"),
        (dot, ".venv/ in FluxGym's folder"),
        (Path(sys.executable), "the Python that runs this"),
        (conda[0], "the conda environment flux"),
    ]


@pytest.mark.parametrize("text", [None, b"\xff\xfe", b"\n \n"])
def test_without_condas_list_nothing_is_missing(gym: Path, tmp_path: Path, text: bytes | None) -> None:
    if text is not None:
        (tmp_path / "home/.conda").mkdir(parents=True)
        (tmp_path / "home/.conda/environments.txt").write_bytes(text)
    assert [found.source for found in choices(gym)] == ["the Python that runs this"]
