"""A script's paths on this machine, and those of another."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.scripts.paths import is_of_this_machine, output_elsewhere, path_here, run_command
from checkpoint_core.states.layout import Layout


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder in a FluxGym folder."""
    path = tmp_path / "outputs" / "cat"
    path.mkdir(parents=True)
    return path


def script(output_dir: Path | str | None) -> ScriptFacts:
    written = None if output_dir is None else str(output_dir)
    return ScriptFacts("train.sh", "t.py", Layout.SD_SCRIPTS, output_dir=written)


def test_a_relative_path_starts_in_fluxgym_s_folder(run: Path, tmp_path: Path) -> None:
    for written in (run, "outputs/cat", "/elsewhere/outputs/cat", None):
        assert path_here("datasets/cat", script(written), run) == tmp_path / "datasets" / "cat"


@pytest.mark.parametrize("written", ["outputs/cat", None])
def test_an_absolute_path_of_this_machine_stays(run: Path, written: str | None) -> None:
    assert path_here("/data/cats", script(written), run) == Path("/data/cats")
    assert is_of_this_machine(script(written), run)


@pytest.mark.parametrize(
    ("output_dir", "path", "here"),
    [
        ("/workspace/fluxgym/outputs/cat", "/workspace/fluxgym/datasets/cat", "datasets/cat"),
        (
            "/workspace/fluxgym/outputs/cat/",
            "/workspace/fluxgym/outputs/cat/dataset.toml",
            "outputs/cat/dataset.toml",
        ),
        ("D:\\fluxgym\\outputs\\cat", "d:/fluxgym/datasets/cat", "datasets/cat"),
        ("/workspace/fluxgym/outputs/cat", "/data/cats", None),
        ("/workspace/fluxgym/outputs/cat", "/workspace/fluxgym/../data", None),
        ("/workspace/fluxgym/outputs/cat", "D:\\fluxgym\\datasets", None),
        ("/workspace/fluxgym/outputs/dog", "/workspace/fluxgym/datasets/cat", None),  # another run's script
        ("/outputs/cat", "/datasets/cat", None),  # everything lies below /
        ("gone/cat", "/datasets/cat", None),
    ],
)
def test_another_machine_s_path_is_found_below_the_same_folder(
    run: Path, tmp_path: Path, output_dir: str, path: str, here: str | None
) -> None:
    if os.name == "nt":
        pytest.skip("the paths are those of the other system")
    foreign = script(output_dir)
    assert not is_of_this_machine(foreign, run)
    assert path_here(path, foreign, run) == (tmp_path / here if here else None)


@pytest.mark.skipif(os.name == "nt", reason="the path is this system's own there")
def test_the_other_system_s_path_is_not_taken_for_this_machine_s(run: Path) -> None:
    assert path_here("D:\\cats", script("outputs/cat"), run) is None


def test_saves_that_go_into_another_folder(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "outputs" / "dog"
    other.mkdir()
    assert output_elsewhere(script(other), run) == other
    assert output_elsewhere(script("outputs/dog"), run) == other


@pytest.mark.parametrize(
    "output_dir",
    ["outputs/cat", "outputs/dog/../cat", "outputs/gone", "/workspace/outputs/cat", "outputs/file", None],
)
def test_saves_that_go_into_the_run_s_own_folder_or_nowhere_here(
    run: Path, tmp_path: Path, output_dir: str | None
) -> None:
    (tmp_path / "outputs" / "dog").mkdir()
    (tmp_path / "outputs" / "file").touch()
    assert output_elsewhere(script(output_dir), run) is None
    assert output_elsewhere(None, run) is None


def test_a_link_to_the_run_s_folder_is_that_folder(run: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(run)
    assert output_elsewhere(script(tmp_path / "linked"), run) is None


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


@pytest.mark.skipif(os.name == "nt", reason="names of any bytes, and bash")
@pytest.mark.parametrize("name", [b"caf\xe9", b"it's \xff \\x41 $HOME", b"\xe7\x8c\xab\xff\n"])
def test_a_name_that_no_text_can_hold_is_typed_in_escapes(tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / "outputs" / os.fsdecode(name)
    folder.mkdir(parents=True)
    (folder / "train.sh").write_bytes(b"echo started\n")
    command = run_command(folder / "train.sh", None).command

    assert command.isascii()
    assert command.isprintable()
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert done.stdout == b"started\n"
