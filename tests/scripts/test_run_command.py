"""The command that starts a training, and the folder to start it in."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from checkpoint_core.scripts.run_command import run_command

SCRIPT = Path("/opt/fluxgym/outputs/my-lora/train.sh")


def test_a_shell_script_runs_from_fluxgyms_folder() -> None:
    made = run_command(SCRIPT, "/opt/fluxgym/outputs/my-lora")

    assert shlex.split(made.command) == ["bash", "outputs/my-lora/train.sh"]
    assert made.folder == "/opt/fluxgym"


@pytest.mark.parametrize("name", ["it's", "a b", "$HOME", "`x`", 'say "x"', "-n", "é"])
def test_any_run_name_reaches_bash_as_it_is(name: str) -> None:
    made = run_command(SCRIPT.parent.with_name(name) / "train.sh", None)

    assert shlex.split(made.command) == ["bash", f"outputs/{name}/train.sh"]


def test_a_batch_file_is_named_with_backslashes() -> None:
    made = run_command(SCRIPT.with_name("train.bat"), None)

    assert made.command.strip('"') == "outputs\\my-lora\\train.bat"


@pytest.mark.parametrize(
    ("output_dir", "folder"),
    [
        ("/app/fluxgym/outputs/my-lora", "/app/fluxgym"),
        ("D:\\fluxgym\\outputs\\my-lora", "D:\\fluxgym"),
        # Another run's, a relative one, none at all: nothing is told about another world.
        ("/app/fluxgym/outputs/other", "/opt/fluxgym"),
        ("outputs/my-lora", "/opt/fluxgym"),
        ("", "/opt/fluxgym"),
        (None, "/opt/fluxgym"),
    ],
)
def test_the_folder_is_the_one_where_the_script_runs(output_dir: str | None, folder: str) -> None:
    assert run_command(SCRIPT, output_dir).folder == folder


def test_a_path_that_exists_here_is_of_this_world(tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "my-lora"
    run.mkdir(parents=True)
    linked = tmp_path / "linked"
    linked.symlink_to(tmp_path, target_is_directory=True)

    made = run_command(run / "train.sh", str(linked / "outputs" / "my-lora"))

    assert made.folder == str(tmp_path)
