"""The commands that train: wrong usage is told, a training is watched to its end, the exit status says how it went."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.soak import make_run
from checkpoint_core.training.record import ProcessState, TrainingRecord, write_record
from tests.training.test_processes import until
from tests.training.test_watcher import clear, status, without_launcher

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run of three epochs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    made = make_run(tmp_path / "fluxgym", 3)
    without_launcher(made)
    yield made
    clear(made)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "checkpoint_core", *map(str, arguments)]


def done(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=PROJECT, capture_output=True, text=True, check=False)


def test_a_training_is_watched_to_its_end_and_told(run: Path) -> None:
    ended = done("watch", run)
    assert ended.returncode == 0, ended.stderr
    assert "Start 1." in ended.stdout
    assert ended.stdout.splitlines()[-1] == "It has reached its last epoch."
    told = done("status", run)
    assert told.returncode == 0
    assert told.stdout.startswith("Finished. It has reached its last epoch.\nEpoch: 3 of 3  Step: 24 of 24")
    document = json.loads(done("status", run, "--json").stdout)
    assert (document["status"], document["progress"]["epoch"]) == ("exited", 3)


def test_ctrl_c_ends_the_watch_and_not_the_training(run: Path) -> None:
    script = run / "train.sh"
    script.write_text(script.read_text().replace("--max_train_epochs 3", "--max_train_epochs 300"))
    watcher = subprocess.Popen(
        command("watch", run), cwd=PROJECT, stderr=subprocess.PIPE, start_new_session=True
    )
    until(lambda: status(run).progress.bar_step)
    os.killpg(watcher.pid, signal.SIGINT)
    _, told = watcher.communicate(timeout=60)
    assert b"the training continues" in told
    assert watcher.returncode == 1
    before = len(status(run).log)
    assert status(run).life.value == "unwatched"
    assert before
    assert done("stop", run).stdout.strip() == "Stopped."
    assert done("status", run).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["status", "nowhere"], 2, "There is no folder"),
        (["watch", "nowhere"], 2, "There is no folder"),
        (["stop", "RUN"], 2, "there is nothing to stop"),
        (["status", "RUN"], 2, ""),
        (["watch", "RUN", "--hang-minutes", "0"], 2, "--hang-minutes"),
    ],
)
def test_wrong_usage_is_told(run: Path, arguments: list[str], code: int, said: str) -> None:
    ended = done(*(str(run) if word == "RUN" else word for word in arguments))
    assert ended.returncode == code
    assert said in ended.stderr


def test_a_script_that_would_begin_anew_is_not_started_unasked(run: Path) -> None:
    assert done("watch", run).returncode == 0
    refused = done("watch", run)
    assert refused.returncode == 2
    assert "begins at epoch 1 and sets aside what is there" in refused.stderr
    assert done("watch", run, "--fresh").returncode == 0


def test_a_script_that_begins_with_another_run_is_not_started_unasked(run: Path) -> None:
    script = run / "train.sh"
    other = run.parent / "another" / "another-000012-state"
    script.write_text(script.read_text().rstrip("\n \\") + f" --resume {other} --initial_epoch 13\n")
    refused = done("watch", run)
    assert refused.returncode == 2
    assert "belongs to another run, “another”" in refused.stderr
    assert "--fresh" in refused.stderr
    assert not list(run.glob("*-state"))


def test_a_run_without_a_script_is_not_started(run: Path) -> None:
    (run / "train.sh").unlink()
    (run / f"{run.name}-000001-state").mkdir()
    ended = done("watch", run)
    assert ended.returncode == 2
    assert "no train script" in ended.stderr


def test_one_that_crashed_is_told_as_such(run: Path) -> None:
    write_record(run, TrainingRecord(ProcessState.FATAL, "here", message="The disk is full."))
    ended = done("status", run)
    assert (ended.returncode, ended.stdout.strip()) == (1, "Crashed. The disk is full.")
