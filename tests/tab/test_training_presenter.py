"""What the tab does with trainings, without a browser: what is asked, what an answer does, and why it is refused."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.tab.presenter import TabPresenter
from checkpoint_core.tab.results import Asked, Confirmation
from checkpoint_core.training import launcher, processes
from checkpoint_core.training.launcher import DeviceBusy, Start
from checkpoint_core.training.record import (
    ProcessState,
    Request,
    TrainingRecord,
    read_record,
    take_requests,
    write_record,
)
from tests.damage import truncate
from tests.world import RUN_NAME, World


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Start]:
    """What was started, instead of starting it."""
    asked: list[Start] = []
    monkeypatch.setattr(launcher, "start_detached", lambda start: asked.append(start))
    return asked


@pytest.fixture
def running(world: World) -> World:
    """The world with a training that runs and is watched: by this very process."""
    record = TrainingRecord(
        ProcessState.RUNNING,
        socket.gethostname(),
        processes.identify(os.getpid()),
        bring_back=True,
        resumed_from=world.state(2).name,
    )
    write_record(world.run, record)
    return world


def presenter(world: World) -> TabPresenter:
    return TabPresenter(world.outputs)


def test_a_run_that_was_never_started_can_be(world: World, started: list[Start]) -> None:
    shown = presenter(world).training.show(RUN_NAME)
    assert (shown.training, shown.has_trace, shown.can_start, shown.can_stop, shown.bring_back) == (
        "", False, True, False, True,
    )  # fmt: skip
    told = presenter(world).training.start(RUN_NAME, bring_back=True)
    assert "it begins at epoch 1 and sets aside what is there" in told.message
    assert "There are 4 checkpoints." in told.message
    assert (told.done, started) == (False, [])
    assert told.question is not None
    told = presenter(world).training.answer(told.question)
    assert told.done
    assert "restarts automatically" in told.message
    assert [(each.run, each.bring_back, each.force) for each in started] == [(world.run, True, False)]
    assert started[0].python


def test_a_start_with_another_run_s_training_is_asked_about(world: World, started: list[Start]) -> None:
    other = world.outputs / "another" / "another-000012-state"
    world.edit_script(
        lambda text: text.rstrip("\n \\") + f" \\\n  --resume {other} \\\n  --initial_epoch 13\n"
    )
    told = presenter(world).training.start(RUN_NAME, bring_back=True)
    assert "belongs to another run, “another”" in told.message
    assert (told.done, started) == (False, [])
    assert told.question is not None
    assert presenter(world).training.answer(told.question).done
    assert [(each.run, each.force) for each in started] == [(world.run, False)]


def test_a_run_that_is_not_there_is_told(world: World) -> None:
    assert presenter(world).training.show("../etc").training == ""
    assert "There is no run" in presenter(world).training.start("../etc", bring_back=False).message


def test_a_busy_gpu_is_asked_about_and_yes_forces_it(
    world: World, started: list[Start], monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(start: Start) -> None:
        if not start.force:
            raise DeviceBusy("Another training uses this GPU.")
        started.append(start)

    monkeypatch.setattr(launcher, "start_detached", busy)
    told = presenter(world).training.start(RUN_NAME, bring_back=True, fresh=True)
    assert told.message.count("all the same") == 1
    assert told.question is not None
    assert not told.done
    assert presenter(world).training.answer(told.question).done
    assert [(each.force, each.bring_back) for each in started] == [(True, True)]


def test_resume_now_writes_the_script_and_starts(world: World, started: list[Start]) -> None:
    it = presenter(world)
    view = it.show(RUN_NAME, world.latest.name, "")
    outcome = it.resume_now(view, "", bring_back=False)
    assert (outcome.written, outcome.question, len(started)) == (True, None, 1)
    assert str(world.latest) in world.script.read_text()
    assert outcome.receipt is not None


@pytest.mark.parametrize("error", [OSError("no room"), RuntimeError("?")])
def test_a_start_that_fails_hides_no_change_of_the_script(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(start: Start) -> None:
        raise error

    monkeypatch.setattr(launcher, "start_detached", failing)
    before, it = world.script.read_bytes(), presenter(world)
    outcome = it.resume_now(it.show(RUN_NAME, world.latest.name, ""), "", bring_back=False)
    assert f"could not be started: {error}" in outcome.message
    assert outcome.written
    assert it.undo(RUN_NAME, outcome.receipt).written
    assert world.script.read_bytes() == before


def test_where_it_cannot_be_started_the_script_stays_as_it_is(running: World, started: list[Start]) -> None:
    before = running.script.read_bytes()
    it = presenter(running)
    outcome = it.resume_now(it.show(RUN_NAME, running.latest.name, ""), "", bring_back=True)
    assert "already training" in outcome.message
    assert not outcome.written
    assert (running.script.read_bytes(), started) == (before, [])


def test_a_running_one_is_shown_and_asked_before_it_is_stopped(running: World) -> None:
    it = presenter(running).training
    shown = it.show(RUN_NAME)
    assert (shown.can_start, shown.can_stop, shown.can_watch, shown.has_trace) == (False, True, False, True)
    assert "data-ck-live" in shown.training
    asked = it.ask_stop(RUN_NAME)
    assert asked.question == Confirmation(RUN_NAME, Asked.STOP)
    assert take_requests(running.run) == []
    it.answer(asked.question)
    assert take_requests(running.run) == [Request.STOP]


def test_one_that_waits_for_its_next_start_can_be_started_at_once(running: World) -> None:
    it = presenter(running).training
    assert not it.show(RUN_NAME).can_retry
    assert "waiting" in it.retry(RUN_NAME).message
    record = read_record(running.run)
    assert record is not None
    write_record(running.run, replace(record, status=ProcessState.BACKOFF))
    assert it.show(RUN_NAME).can_retry
    told = it.retry(RUN_NAME)
    assert told.done
    assert "Restarting now." in told.message
    assert take_requests(running.run) == [Request.RETRY_NOW]


def test_the_box_speaks_to_a_watcher_that_is_at_work(running: World) -> None:
    it = presenter(running).training
    it.set_bring_back(RUN_NAME, True)
    assert take_requests(running.run) == []
    it.set_bring_back(RUN_NAME, False)
    assert take_requests(running.run) == [Request.LEAVE]


def test_nothing_to_stop_is_told(world: World) -> None:
    told = presenter(world).training.ask_stop(RUN_NAME)
    assert told.question is None
    assert "No training of this run is running." in told.message


def test_what_a_training_went_on_from_is_never_offered_to_go(running: World) -> None:
    disk = presenter(running).show(RUN_NAME, "", "").disk
    names = [name for _, name in disk.choices]
    assert running.state(1).name in names
    assert running.state(2).name not in names


def test_checkpoints_are_removed_after_a_question_and_no_others(world: World) -> None:
    truncate(world.state(1) / "optimizer.bin")
    it = presenter(world).training
    asked = it.ask_remove(RUN_NAME, [world.state(1).name], "")
    assert asked.question is not None
    assert "cannot be undone" in asked.message
    assert world.state(1).is_dir()
    told = it.answer(asked.question)
    assert "1 checkpoint was removed" in told.message
    assert not world.state(1).exists()
    assert world.lora(1).is_file()


@pytest.mark.parametrize("names", [[], ["../../etc"], ["persian-cat-000004-state"]])
def test_what_may_not_go_is_refused(world: World, names: list[str]) -> None:
    asked = presenter(world).training.ask_remove(RUN_NAME, names, "")
    assert asked.question is None
    assert "ck-bad" in asked.message
    assert world.latest.is_dir()


def test_an_unreadable_record_harms_nothing(world: World) -> None:
    folder = world.run / ".training"
    folder.mkdir()
    (folder / "training.json").write_bytes(b"\xff")
    (folder / "journal.jsonl").write_bytes(b"\xff\n{}")
    shown = presenter(world).training.show(RUN_NAME)
    assert (shown.training, shown.can_start) == ("", True)
    assert read_record(world.run) is None


def test_a_folder_in_the_place_of_files_harms_nothing(world: World) -> None:
    for name in ("training.json", "journal.jsonl", "train.log", "progress.json"):
        Path(world.run / ".training" / name).mkdir(parents=True)
    assert presenter(world).training.show(RUN_NAME).training == ""
