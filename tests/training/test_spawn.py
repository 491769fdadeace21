"""How processes are started: as FluxGym does it, on both systems, and how busy a GPU is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from checkpoint_core import installation
from checkpoint_core.training.spawn import (
    GpuMeter,
    script_command,
    start_training,
    start_watcher,
    training_environment,
)

RUN = Path("/fluxgym/outputs/my lora")


def test_a_script_is_run_as_fluxgym_runs_it() -> None:
    assert script_command(RUN / "train.sh") == ["bash", "/fluxgym/outputs/my lora/train.sh"]
    assert script_command(RUN / "train.bat") == ["/fluxgym/outputs/my lora/train.bat"]


def test_it_starts_in_fluxgym_s_folder_detached_and_prints_into_the_log(tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def popen(command: list[str], **options: Any) -> Any:
        asked.update(options, command=command)

    with (tmp_path / "log").open("wb") as log:
        start_training(RUN / "train.sh", log, {"PATH": "/bin"}, popen)
        assert asked["stdout"] is log
    assert (asked["cwd"], asked["env"], asked["stderr"]) == ("/fluxgym", {"PATH": "/bin"}, subprocess.STDOUT)
    assert asked["stdin"] is subprocess.DEVNULL
    if os.name != "nt":
        assert asked["start_new_session"] is True


def test_on_windows_it_gets_a_group_of_its_own_and_no_window(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from checkpoint_core.training import spawn

    monkeypatch.setattr(spawn.os, "name", "nt")
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200, raising=False)
    monkeypatch.setattr(subprocess, "CREATE_NO_WINDOW", 0x08000000, raising=False)
    assert spawn._detached() == {"creationflags": 0x08000200}


def test_the_environment_that_trains_comes_first_and_python_does_not_keep_its_lines(tmp_path: Path) -> None:
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (tmp_path / "env" / "pyvenv.cfg").touch()
    given = {"PATH": "/usr/bin", "PYTHONHOME": "/x", "GRADIO_SERVER_PORT": "7860", "HF_HOME": "/hf"}
    made = training_environment(given, str(python))

    assert made["PATH"] == f"{python.parent}{os.pathsep}/usr/bin"
    assert made["VIRTUAL_ENV"] == str(tmp_path / "env")
    assert (made["PYTHONUNBUFFERED"], made["PYTHONIOENCODING"], made["LOG_LEVEL"]) == ("1", "utf-8", "DEBUG")
    assert made["HF_HOME"] == "/hf"
    assert not {"PYTHONHOME", "GRADIO_SERVER_PORT"} & set(made)
    assert given["PATH"] == "/usr/bin"


def test_without_a_known_python_the_path_stays() -> None:
    assert training_environment({"PATH": "/usr/bin"}, None)["PATH"] == "/usr/bin"


def test_the_watcher_is_found_without_changing_the_training_s_variables(tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def popen(command: list[str], **options: Any) -> Any:
        asked.update(options, command=command)

    with (tmp_path / "log").open("wb") as log:
        start_watcher(["/run"], log, popen)
    assert asked["command"][1:] == ["-m", "checkpoint_core", "watch", "/run"]
    assert (Path(asked["cwd"]) / "checkpoint_core").is_dir()
    assert asked["env"].get("PYTHONPATH") == os.environ.get("PYTHONPATH")


def test_an_installed_watcher_does_not_start_among_the_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(installation, "is_installed", lambda: True)
    with (tmp_path / "log").open("wb") as log:
        start_watcher(["/run"], log, lambda command, **options: asked.update(options))
    assert asked["cwd"] == sys.prefix


class Smi:
    """``nvidia-smi`` as the test has it."""

    def __init__(self, printed: str = "", status: int = 0, hangs: bool = False) -> None:
        self.printed, self.returncode, self.hangs = printed, status, hangs
        self.commands: list[list[str]] = []
        self.killed = 0

    def __call__(self, command: list[str], **options: Any) -> Any:
        self.commands.append(command)
        return self

    def communicate(self, timeout: float) -> tuple[bytes, None]:
        if self.hangs:
            raise subprocess.TimeoutExpired("nvidia-smi", timeout)
        return self.printed.encode(), None

    def kill(self) -> None:
        self.killed += 1

    def poll(self) -> int | None:
        return None if self.hangs else self.returncode


@pytest.mark.parametrize(
    ("printed", "status", "percent"),
    [
        ("97\n", 0, 97),
        ("3\n41\n", 0, 41),
        ("[N/A]\n7\n", 0, 7),
        ("", 0, None),
        ("No devices\n", 6, None),
    ],
)
def test_the_busiest_gpu_counts(printed: str, status: int, percent: int | None) -> None:
    assert GpuMeter(Smi(printed, status)).percent("all") == percent


def test_only_unique_names_are_the_same_to_nvidia_smi() -> None:
    smi = Smi("5\n")
    for device in ("all", "1,0", "GPU-7f3a"):
        GpuMeter(smi).percent(device)
    asked = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    assert smi.commands == [asked, asked, [*asked, "--id=GPU-7f3a"]]


def test_without_nvidia_smi_nothing_is_known() -> None:
    def popen(command: list[str], **options: Any) -> Any:
        raise FileNotFoundError

    assert GpuMeter(popen).percent("all") is None


def test_one_that_hangs_is_ended_not_waited_for_and_not_asked_again() -> None:
    smi = Smi(hangs=True)
    meter = GpuMeter(smi)
    assert [meter.percent("all") for _ in range(3)] == [None, None, None]
    assert (len(smi.commands), smi.killed) == (1, 1)
    smi.hangs, smi.printed = False, "50\n"
    assert meter.percent("all") == 50
