"""Processes told apart, found and ended; with real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from checkpoint_core.training import processes
from checkpoint_core.training.record import ProcessId

#: A launcher, a trainer below it that ignores whoever asks it to end, and its own worker.
_STUBBORN = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print('up', flush=True); time.sleep(600)\n"
)

Launch = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Start processes in sessions of their own; all are gone after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*command: str, **options: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, start_new_session=True, **options)  # type: ignore[call-overload]
        started.append(process)
        return process

    yield run
    for process in started:
        for pid in [each for each in psutil.pids() if _session(each) == process.pid]:
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def until(condition: Callable[[], object]) -> None:
    """Wait until something holds, a minute and a half at most: the machine may be busy."""
    for _ in range(900):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("it did not come about")


def identified(process: subprocess.Popen[bytes]) -> ProcessId:
    found = processes.identify(process.pid)
    assert found is not None
    return found


def test_a_process_is_alive_until_it_ends_even_if_nobody_buries_it(launch: Launch) -> None:
    process = launch(sys.executable, "-c", "import time; time.sleep(600)")
    known = identified(process)
    assert processes.is_alive(known)
    process.kill()
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert not processes.is_alive(known)


def test_another_process_of_the_same_number_is_not_taken_for_it(launch: Launch) -> None:
    known = identified(launch("sleep", "600"))
    assert not processes.is_alive(ProcessId(known.pid, known.started - 5))


def test_nobody_is_never_alive() -> None:
    assert not processes.is_alive(None)


@pytest.mark.skipif(not hasattr(os, "getsid"), reason="sessions are a thing of POSIX")
def test_a_trainer_whose_launcher_was_killed_still_belongs_to_its_training(launch: Launch) -> None:
    launcher = launch("bash", "-c", "sleep 600 & echo up; wait", stdout=subprocess.PIPE)
    assert launcher.stdout is not None
    launcher.stdout.readline()
    root = identified(launcher)
    assert len(processes.members(root)) == 2
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    assert len(processes.members(root)) == 1


def test_a_number_used_again_gives_no_members(launch: Launch) -> None:
    known = identified(launch("bash", "-c", "sleep 600 & wait"))
    until(lambda: len(processes.members(known)) == 2)
    assert processes.members(ProcessId(known.pid, known.started - 100)) == []


def test_all_of_a_training_is_ended_even_what_does_not_want_to(launch: Launch) -> None:
    launcher = launch(sys.executable, "-c", _STUBBORN, stdout=subprocess.PIPE)
    assert launcher.stdout is not None
    launcher.stdout.readline()
    root = identified(launcher)

    def left() -> list[psutil.Process]:
        launcher.poll()
        return processes.members(root)

    assert len(left()) == 2
    assert processes.end_all(left, gentle_seconds=0.3)
    assert left() == []


def test_one_that_ends_when_asked_is_not_killed(launch: Launch) -> None:
    program = (
        "import time\ntry:\n print('up', flush=True); time.sleep(600)\nexcept KeyboardInterrupt: exit(7)"
    )
    process = launch(sys.executable, "-c", program, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    root = identified(process)

    def left() -> list[psutil.Process]:
        process.poll()
        return processes.members(root)

    assert processes.end_all(left)
    assert process.wait() == 7


def sleeper(folder: Path, name: str) -> str:
    (folder / name).write_text("import time; time.sleep(600)\n")
    return str(folder / name)


@pytest.mark.parametrize(
    ("program", "trains"),
    [
        ("flux_train_network.py", True),
        ("train_db.py", True),
        ("fine_tune.py", True),
        ("sdxl_train.py", True),
        ("make_captions.py", False),
        ("tag_train_images.py", False),
        ("train_captions.py", False),
        ("cache_latents.py", False),
        ("constrain.py", False),
    ],
)
def test_what_writes_into_a_run_trains_it_only_by_a_trainer(
    launch: Launch, tmp_path: Path, program: str, trains: bool
) -> None:
    run = tmp_path / "outputs" / "my-lora"
    process = launch(sys.executable, sleeper(tmp_path, program), "--output_dir", str(run), "train_network.py")
    until(lambda: psutil.Process(process.pid).cmdline()[-1:] == ["train_network.py"])
    found = [each.root for each in processes.find_trainings() if each.run == run]
    assert found == [identified(process)] * trains


@pytest.mark.parametrize(
    ("before", "trains"),
    [([], True), (["-e", "-x"], True), (["-o", "pipefail"], True), (["upload.sh"], False), (["-n"], False)],
)
def test_a_shell_trains_the_script_that_it_runs_not_one_that_it_is_told_of(
    launch: Launch, tmp_path: Path, before: list[str], trains: bool
) -> None:
    run = tmp_path / "outputs" / "my-lora"
    run.mkdir(parents=True)
    (run / "train.sh").write_text("sleep 600\n")
    (tmp_path / "upload.sh").write_text("sleep 600\n")
    if before == ["-n"]:
        os.mkfifo(tmp_path / "in")  # it reads the script, and never runs it
        (run / "train.sh").unlink()
        (run / "train.sh").symlink_to(tmp_path / "in")
    process = launch("bash", *before, "outputs/my-lora/train.sh", cwd=tmp_path)
    until(lambda: psutil.Process(process.pid).cmdline()[-1:] == ["outputs/my-lora/train.sh"])
    found = [each.root for each in processes.find_trainings() if each.run == run]
    assert found == [identified(process)] * trains


@pytest.mark.parametrize("how", ["script", "--output_dir", "--output_dir="])
def test_a_training_that_others_started_is_found(launch: Launch, tmp_path: Path, how: str) -> None:
    run = tmp_path / "outputs" / "my-lora"
    run.mkdir(parents=True)
    (run / "train.sh").write_text("sleep 600\n")
    program = [sys.executable, sleeper(tmp_path, "flux_train_network.py")]
    commands = {
        "script": ["bash", "outputs/my-lora/train.sh"],
        "--output_dir": [*program, "--output_dir", "outputs/my-lora"],
        "--output_dir=": [*program, f"--output_dir={run}"],
    }
    process = launch(*commands[how], cwd=tmp_path, env={**os.environ, "CUDA_VISIBLE_DEVICES": "3"})

    def found() -> list[processes.Found]:
        return [each for each in processes.find_trainings() if each.run == run]

    until(found)
    (training,) = found()
    assert (training.root, training.device, training.is_watcher) == (identified(process), "3", False)


WATCHERS = ["-m checkpoint_core watch", "checkpoint-core watch", "/env/bin/checkpoint-core watch"]
WATCHERS += ["C:\\env\\Scripts\\checkpoint-core.exe watch"]
NO_WATCHERS = ["-m checkpoint_core status", "checkpoint-core status", "/src/checkpoint-core/notes watch"]
NO_WATCHERS += ["watch checkpoint-core"]


@pytest.mark.parametrize(
    ("words", "watches"), [*((each, True) for each in WATCHERS), *((each, False) for each in NO_WATCHERS)]
)
def test_a_watcher_is_known_as_module_and_as_installed_program(
    launch: Launch, tmp_path: Path, words: str, watches: bool
) -> None:
    run = tmp_path / "outputs" / "my-lora"
    process = launch(sys.executable, "-c", "import time; time.sleep(600)", *words.split(), str(run))
    until(lambda: psutil.Process(process.pid).cmdline()[-1:] == [str(run)])

    found = [each for each in processes.find_trainings() if each.run == run]
    assert [(each.root, each.is_watcher) for each in found] == [(identified(process), True)] * watches


def test_an_editor_with_the_script_open_is_no_training(launch: Launch, tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "my-lora"
    run.mkdir(parents=True)
    (run / "train.sh").write_text("")
    launch("tail", "-f", str(run / "train.sh"))
    launch(sys.executable, "-c", "import time; time.sleep(600)", "--script", str(run / "train.sh"))
    assert not [each for each in processes.find_trainings() if each.run == run]


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("all", "0", True),
        ("0", "1", False),
        ("0,1", "1,2", True),
        ("0, 1", "1", True),
        ("GPU-a", "GPU-b", False),
        ("", "all", False),
        ("-1", "0", False),
    ],
)
def test_devices_are_shared_where_a_gpu_is_named_by_both(one: str, other: str, shared: bool) -> None:
    assert processes.share_a_device(one, other) is shared
    assert processes.share_a_device(other, one) is shared
