"""Starting and stopping: one training a run, one a GPU unless forced, and what is stale is no obstacle."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from checkpoint_core.training import launcher, processes
from checkpoint_core.training.launcher import CannotStart, DeviceBusy, NothingRuns, Start
from checkpoint_core.training.log.files import read_journal
from checkpoint_core.training.record import (
    ProcessId,
    ProcessState,
    Request,
    TrainingRecord,
    read_record,
    take_requests,
    write_record,
)
from checkpoint_core.training.status import Life, Processes, training_status
from tests.training.test_processes import Launch, launch, sleeper, until
from tests.world import World

__all__ = ["launch"]


@pytest.fixture(autouse=True)
def _a_device_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Other tests train at the same time.
    found = processes.find_trainings
    monkeypatch.setattr(
        launcher,
        "find_trainings",
        lambda **how: tuple(each for each in found(**how) if each.run.is_relative_to(tmp_path)),
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"GPU-{os.getpid()}-{tmp_path.name}")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


Spawn = Callable[[Sequence[str], IO[bytes]], "subprocess.Popen[bytes]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """A watcher that does nothing, and how it was started."""
    started: list[subprocess.Popen[bytes]] = []

    def run(arguments: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", "import time; time.sleep(600)", "checkpoint_core", "watch", *arguments]
        started.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        return started[-1]

    run.started = started  # type: ignore[attr-defined]
    yield run
    for process in started:
        process.kill()
        process.wait()


def test_a_start_leaves_a_record_that_names_the_watcher(world: World, spawn: Spawn) -> None:
    record = launcher.start_detached(Start(world.run, bring_back=True, python="/env/bin/python"), spawn)
    (watcher,) = spawn.started  # type: ignore[attr-defined]

    assert read_record(world.run) == record
    assert record.watcher == processes.identify(watcher.pid)
    assert (record.status, record.bring_back, record.host) == (
        ProcessState.STARTING,
        True,
        socket.gethostname(),
    )
    claimed = ["--claimed", record.token, "--python", "/env/bin/python"]
    assert record.token
    assert watcher.args[5:] == [str(world.run), "--bring-back", *claimed]


def test_two_presses_at_the_same_moment_start_one_training(world: World, spawn: Spawn) -> None:
    results: list[object] = []
    gate = threading.Barrier(8)

    def press() -> None:
        gate.wait()
        try:
            results.append(launcher.start_detached(Start(world.run), spawn))
        except CannotStart as error:
            results.append(error)

    threads = [threading.Thread(target=press) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(spawn.started) == 1  # type: ignore[attr-defined]
    assert sum(isinstance(each, TrainingRecord) for each in results) == 1
    told = {str(each) for each in results if isinstance(each, CannotStart)}
    assert told == {"This run is already training. Stop it first, or let it finish."}


@pytest.mark.parametrize("how", ["gone", "its number used again", "another boot"])
def test_a_record_whose_watcher_is_gone_is_no_obstacle(
    world: World, spawn: Spawn, launch: Launch, how: str
) -> None:
    other = processes.identify(launch("sleep", "600").pid)
    assert other is not None
    stale = {
        "gone": ProcessId(2**22 + 1, 1.0),
        "its number used again": ProcessId(other.pid, other.started - 60),
        "another boot": ProcessId(other.pid, other.started + 10_000),
    }[how]
    write_record(world.run, TrainingRecord(ProcessState.RUNNING, socket.gethostname(), stale, stale))
    assert training_status(world.run, Processes()).life is Life.LOST

    assert launcher.start_detached(Start(world.run), spawn).watcher != stale


def test_a_training_on_another_machine_is_alive_while_it_writes(world: World, spawn: Spawn) -> None:
    from checkpoint_core.training.record import write_progress

    write_record(world.run, TrainingRecord(ProcessState.RUNNING, "another-machine", ProcessId(1, 1.0)))
    write_progress(world.run, {})
    with pytest.raises(CannotStart, match="already training"):
        launcher.start_detached(Start(world.run), spawn)
    old = world.run / ".training" / "progress.json"
    os.utime(old, (1, 1))
    launcher.start_detached(Start(world.run), spawn)


def test_another_training_on_the_same_gpu_is_in_the_way_unless_forced(
    world: World, spawn: Spawn, launch: Launch
) -> None:
    other = world.outputs / "other-lora"
    other.mkdir()
    words = [
        sys.executable,
        sleeper(other.parent.parent, "flux_train_network.py"),
        "--output_dir",
        str(other),
    ]
    busy = launch(*words)
    until(lambda: any(each.run == other for each in processes.find_trainings()))

    with pytest.raises(DeviceBusy, match=rf"“other-lora” .* \(process {busy.pid}\)"):
        launcher.start_detached(Start(world.run), spawn)
    assert read_record(world.run) is None
    launcher.start_detached(Start(world.run, force=True), spawn)


def test_another_training_on_another_gpu_is_not(world: World, spawn: Spawn, launch: Launch) -> None:
    other = world.outputs / "other-lora"
    other.mkdir()
    words = [
        sys.executable,
        sleeper(other.parent.parent, "flux_train_network.py"),
        "--output_dir",
        str(other),
    ]
    launch(*words, env={**os.environ, "CUDA_VISIBLE_DEVICES": "GPU-elsewhere"})
    until(lambda: any(each.run == other for each in processes.find_trainings()))
    launcher.start_detached(Start(world.run), spawn)


def test_a_script_of_another_machine_is_not_run(world: World, spawn: Spawn) -> None:
    world.edit_script(lambda text: text.replace(str(world.run), "/workspace/fluxgym/outputs/persian-cat"))
    with pytest.raises(CannotStart, match="writes into /workspace/fluxgym/outputs/persian-cat"):
        launcher.start_detached(Start(world.run), spawn)


@pytest.mark.skipif(os.name == "nt", reason="there a batch file is the right one")
def test_a_script_of_another_system_is_not_run(world: World, spawn: Spawn) -> None:
    world.script.rename(world.run / "train.bat")
    with pytest.raises(CannotStart, match=r"train\.bat is for another operating system"):
        launcher.start_detached(Start(world.run), spawn)


def test_without_a_script_there_is_nothing_to_start(world: World, spawn: Spawn) -> None:
    world.script.unlink()
    with pytest.raises(CannotStart, match="no train script"):
        launcher.start_detached(Start(world.run), spawn)


def test_where_nobody_knows_which_python_trains_it_is_not_started(
    world: World, spawn: Spawn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotStart, match="Choose one under “Options”"):
        launcher.start_detached(Start(world.run), spawn)
    (tmp_path / "accelerate").write_text("")
    (tmp_path / "accelerate").chmod(0o755)
    launcher.start_detached(Start(world.run), spawn)


def test_what_cannot_be_started_leaves_no_record(world: World) -> None:
    def fails(arguments: Sequence[str], log: IO[bytes]) -> None:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(CannotStart, match="Permission denied"):
        launcher.start_detached(Start(world.run), fails)
    assert read_record(world.run) is None


def test_a_training_that_others_started_is_not_started_twice_but_can_be_watched(
    world: World, spawn: Spawn, launch: Launch
) -> None:
    words = [
        sys.executable,
        sleeper(world.outputs.parent, "flux_train_network.py"),
        "--output_dir",
        str(world.run),
    ]
    process = launch(*words)
    until(lambda: training_status(world.run, Processes()).found)

    assert training_status(world.run, Processes()).life is Life.UNWATCHED
    with pytest.raises(CannotStart, match="Monitor this training"):
        launcher.start_detached(Start(world.run), spawn)
    assert processes.is_alive(launcher.watch_detached(Start(world.run), spawn).watcher)
    with pytest.raises(CannotStart, match="already monitored"):
        launcher.watch_detached(Start(world.run), spawn)
    assert process.poll() is None


def test_a_training_whose_watcher_was_killed_is_taken_over_as_it_is(
    world: World, spawn: Spawn, launch: Launch
) -> None:
    training = processes.identify(launch("sleep", "600").pid)
    gone = ProcessId(2**22 + 1, 1.0)
    before = TrainingRecord(
        ProcessState.RUNNING, socket.gethostname(), gone, training, attempt=4, resumed_from="x-000002-state"
    )
    write_record(world.run, before)
    record = launcher.watch_detached(Start(world.run, bring_back=True), spawn)

    assert (record.training, record.attempt, record.resumed_from) == (training, 4, "x-000002-state")
    assert record.watcher not in (None, gone)


def test_nothing_to_watch_and_nothing_to_stop_is_told(world: World, spawn: Spawn) -> None:
    with pytest.raises(NothingRuns):
        launcher.watch_detached(Start(world.run), spawn)
    with pytest.raises(NothingRuns):
        launcher.stop(world.run)


def test_a_stop_is_left_for_the_watcher(world: World, spawn: Spawn) -> None:
    launcher.start_detached(Start(world.run), spawn)
    launcher.stop(world.run)
    assert take_requests(world.run) == [Request.STOP]
    launcher.stop(world.run, now=True)
    assert take_requests(world.run) == [Request.STOP_NOW]


def test_an_unwatched_training_is_stopped_here(world: World, launch: Launch) -> None:
    process = launch(sys.executable, "-c", "import time; time.sleep(600)")
    record = TrainingRecord(ProcessState.RUNNING, socket.gethostname(), None, processes.identify(process.pid))
    write_record(world.run, record)
    threading.Thread(target=process.wait, daemon=True).start()  # its parent buries it, as FluxGym would

    assert launcher.stop(world.run) == "Stopped."
    assert process.wait() != 0
    after = read_record(world.run)
    assert after is not None
    assert replace(after, since_ns=0) == replace(record, status=ProcessState.STOPPED, training=None)
    assert [line.kind for line in read_journal(world.run)] == ["stopped"]


@pytest.mark.parametrize(
    ("has_gpu", "says"), [(True, "uses this GPU"), (False, "is running on this machine")]
)
def test_a_gpu_is_only_spoken_of_where_there_is_one(has_gpu: bool, says: str) -> None:
    told = launcher._busy_words("other-lora", 7, has_gpu)
    assert told.startswith(f"The training of “other-lora” {says} (process 7).")
    assert ("GPU" in told) is has_gpu


def test_only_a_training_that_waits_for_its_next_start_can_be_started_at_once(
    world: World, spawn: Spawn
) -> None:
    with pytest.raises(NothingRuns):
        launcher.retry(world.run)
    record = launcher.start_detached(Start(world.run, bring_back=True), spawn)
    with pytest.raises(NothingRuns):
        launcher.retry(world.run)
    write_record(world.run, replace(record, status=ProcessState.BACKOFF))
    assert launcher.retry(world.run) == "Restarting now."
    assert take_requests(world.run) == [Request.RETRY_NOW]
