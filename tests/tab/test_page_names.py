"""Names of any bytes: a run, a state and a script that no text can name are shown, pressed and undone as any other."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint_core.recovery.repair import Choices
from checkpoint_core.states.repair_records import APPLYING, read_records, with_status
from checkpoint_core.states.repair_records import write_record as write_repair
from checkpoint_core.tab import api
from checkpoint_core.tab.host.gym import Gym
from checkpoint_core.tab.page_names import NOTHING, PageName, on_disk, page_name, received
from checkpoint_core.tab.presenter import TabPresenter
from checkpoint_core.tab.results import ActionResult, Written
from checkpoint_core.tab.session import PageSession
from checkpoint_core.tab.views.recovery import FINISH, UNDO
from checkpoint_core.training import launcher, processes
from checkpoint_core.training.launcher import Start
from checkpoint_core.training.record import ProcessState, Request, TrainingRecord, take_requests, write_record
from tests.damage import remove, truncate
from tests.world import PROJECT, RUN_NAME, World

RAW = os.fsdecode(b"caf\xe9")
PAGE = received("caf\\udce9")
STATES = {epoch: f"{RAW}-{epoch:06d}-state" for epoch in (1, 2, 3, 4)}


def shown_state(epoch: int) -> PageName:
    return page_name(STATES[epoch])


@pytest.fixture
def named(world: World) -> World:
    """The world with a run, its states, its LoRA files and its script's paths under such a name."""
    for path in sorted(world.run.iterdir()):
        path.rename(path.with_name(path.name.replace(RUN_NAME, RAW)))
    try:
        world.run.rename(world.outputs / RAW)
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system takes no names that are no UTF-8")
    named = World(world.root, RAW)
    for name in ("train.sh", "dataset.toml"):
        path = named.run / name
        path.write_bytes(path.read_bytes().replace(RUN_NAME.encode(), os.fsencode(RAW)))
    return named


@pytest.fixture
def presenter(named: World) -> TabPresenter:
    return TabPresenter(named.outputs)


def sendable(value: object) -> None:
    """What is sent to a browser or a program is text that its encoder takes."""
    json.dumps(value, ensure_ascii=False, default=lambda other: vars(other)).encode("utf-8")


def texts(told: ActionResult) -> str:
    sendable(told.message)
    assert "ck-bad" not in told.message, told.message
    return told.message


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# The names themselves.


@given(st.lists(st.text(st.sampled_from("a\\ud8cefF0é\udc80\udce9\udcff"), max_size=12), max_size=12))
def test_no_two_names_share_one_on_the_page_and_each_leads_back(names: list[str]) -> None:
    assert len({page_name(name) for name in names}) == len(set(names))
    for name in names:
        sendable(str(page_name(name)))
        assert on_disk(page_name(name), names) == name


@pytest.mark.parametrize("name", ["persian-cat", "猫 é 🙂", "a\\b", "<b>&", "", "checkpoints/checkpoint_0"])
def test_a_name_that_text_can_hold_is_itself(name: str) -> None:
    assert page_name(name) == received(name)


def test_a_name_that_looks_like_an_escaped_one_is_another() -> None:
    assert page_name(RAW) == PAGE
    assert on_disk(PAGE, ["caf\\udce9", RAW]) == RAW
    assert on_disk(page_name("caf\\udce9"), [RAW, "caf\\udce9"]) == "caf\\udce9"
    assert on_disk(received("caf"), [RAW]) is None
    assert received(None) == NOTHING


_MIXED_UP = """
from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.tab.page_names import PageName
from checkpoint_core.tab.presenter import TabPresenter

def of_the_page(presenter: TabPresenter, name: PageName) -> None:
    presenter.run(name)

def disk_for_page(presenter: TabPresenter, name: str) -> None:
    presenter.run(name)

def page_for_disk(auditor: Auditor, name: PageName) -> None:
    auditor.audit_run(name)
"""


def test_mypy_tells_a_mix_up_in_either_direction(tmp_path: Path) -> None:
    (tmp_path / "mixed.py").write_text(_MIXED_UP)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "--follow-imports=silent",
         str(tmp_path / "mixed.py")],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = enumerate(_MIXED_UP.splitlines(), 1)
    wrong = [number for number, line in lines if line.startswith("    ")][1:]
    told = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(told) == len(wrong) == 2, done.stdout
    for number, line in zip(wrong, told, strict=True):
        assert f"mixed.py:{number}: error: Argument 1" in line


# What is shown.


def test_the_run_and_its_states_are_shown(named: World, presenter: TabPresenter) -> None:
    ((label, name),) = presenter.choices()
    assert name == PAGE
    sendable(label)
    view = presenter.show(PAGE, NOTHING, "")
    assert (view.run, view.selected, view.resumes) == (PAGE, shown_state(4), True)
    assert f'data-ck-value="{shown_state(4)}"' in view.table
    assert 'aria-pressed="true"' in view.table
    for text in (
        view.headline,
        view.table,
        view.options,
        view.panel,
        view.preview,
        view.refusal,
        view.disk.view,
    ):
        sendable(text)
    assert presenter.show(PAGE, shown_state(2), "").selected == shown_state(2)
    assert "There is no run" not in presenter.show(view.run, view.selected, "").headline


def test_a_session_keeps_its_choice(named: World, presenter: TabPresenter) -> None:
    session = PageSession()
    session.keep([name for _, name in presenter.choices()], NOTHING)
    session.selected = shown_state(2)
    view, _ = session.look(presenter)
    assert (session.run, session.selected, view.selected) == (PAGE, shown_state(2), shown_state(2))
    sendable(vars(session.look_at_training(presenter)[0]))


def test_two_runs_of_which_one_is_called_as_the_other_is_shown(named: World, presenter: TabPresenter) -> None:
    shutil.copytree(named.run, named.outputs / "caf\\udce9")
    truncate(named.outputs / "caf\\udce9" / STATES[4] / "optimizer.bin")

    names = [name for _, name in presenter.choices()]

    assert len(set(names)) == 2
    assert presenter.run(PAGE).facts.path == named.run
    assert presenter.run(page_name("caf\\udce9")).facts.path.name == "caf\\udce9"


# What is written.


@pytest.mark.parametrize("epoch", [2, 4])
def test_a_resume_is_written_and_undone(named: World, presenter: TabPresenter, epoch: int) -> None:
    before = named.script.read_bytes()
    done = presenter.resume_shown(presenter.show(PAGE, shown_state(epoch), ""))
    texts(done)
    assert os.fsencode(named.run / STATES[epoch]) in named.script.read_bytes()
    assert done.state_path == named.run / STATES[epoch]
    assert presenter.run(PAGE).facts.resume_target.state_name == STATES[epoch]
    undone = presenter.undo(PAGE, done.receipt)
    texts(undone)
    assert undone.written
    assert named.script.read_bytes() == before


def test_a_fresh_start_is_written_and_undone_and_the_target_is_told(
    named: World, presenter: TabPresenter
) -> None:
    presenter.resume_shown(presenter.show(PAGE, shown_state(3), ""))
    resuming = named.script.read_bytes()
    message, change = presenter.preview_fresh(PAGE)
    sendable(message)
    done = presenter.start_fresh(PAGE, change)
    texts(done)
    assert b"--resume" not in named.script.read_bytes()
    undone = presenter.undo(PAGE, done.receipt)
    assert undone.state_path == named.run / STATES[3]
    assert named.script.read_bytes() == resuming


def test_a_repair_is_shown_carried_out_and_undone(named: World, presenter: TabPresenter) -> None:
    remove(named.run / STATES[4] / "scheduler.bin")
    before, script = contents(named.run / STATES[4]), named.script.read_bytes()
    view = presenter.show(PAGE, shown_state(4), "")
    assert view.repair_plan is not None
    done = presenter.repair_shown(view)
    texts(done)
    assert done.state_path == named.run / STATES[4]
    assert "Undo this repair" in presenter.show(PAGE, shown_state(4), "").panel
    undone = presenter.undo(PAGE, done.receipt)
    texts(undone)
    assert (undone.written, undone.receipt) == (True, None)
    assert (contents(named.run / STATES[4]), named.script.read_bytes()) == (before, script)


def test_a_repair_is_undone_by_its_question_too(named: World, presenter: TabPresenter) -> None:
    remove(named.run / STATES[4] / "scheduler.bin")
    before = contents(named.run / STATES[4])
    presenter.repair_shown(presenter.show(PAGE, shown_state(4), ""))
    message, question = presenter.repairs.ask(PAGE, shown_state(4), UNDO, "", Choices())
    sendable(message)
    texts(presenter.answer(PAGE, question))
    assert contents(named.run / STATES[4]) == before


def test_an_interrupted_repair_is_finished(named: World, presenter: TabPresenter) -> None:
    remove(named.run / STATES[4] / "scheduler.bin")
    presenter.repair_shown(presenter.show(PAGE, shown_state(4), ""))
    (record,) = read_records(named.run)
    write_repair(named.run, with_status(record, APPLYING))
    sendable(presenter.show(PAGE, NOTHING, "").options)
    message, _ = presenter.repairs.ask(PAGE, NOTHING, FINISH, "", Choices())
    assert f"Finished: {shown_state(4)}" in message


@pytest.mark.parametrize("number", ["1", "2", "3"])
def test_every_option_can_be_taken_and_undone(named: World, presenter: TabPresenter, number: str) -> None:
    remove(named.run / STATES[4] / "scheduler.bin")
    state, script = contents(named.run / STATES[4]), named.script.read_bytes()
    message, question = presenter.repairs.ask(PAGE, NOTHING, number, "", Choices())
    sendable(message)
    done = presenter.answer(PAGE, question)
    texts(done)
    assert done.written
    if done.receipt is not None:
        texts(presenter.undo(PAGE, done.receipt))
    assert (contents(named.run / STATES[4]), named.script.read_bytes()) == (state, script)


def test_the_command_that_is_told_starts_that_script(named: World, presenter: TabPresenter) -> None:
    applied = api.apply_resume(presenter, PAGE, shown_state(4))
    sendable(applied)
    (named.run / "train.sh").write_bytes(b"echo started\n")
    done = subprocess.run(
        ["bash", "-c", applied["command"]], cwd=named.root, capture_output=True, check=False
    )
    assert done.stdout == b"started\n"


# Trainings, the disk, long work.


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Start]:
    """What was started or is watched, instead of doing it."""
    asked: list[Start] = []
    monkeypatch.setattr(launcher, "start_detached", asked.append)
    monkeypatch.setattr(launcher, "watch_detached", asked.append)
    return asked


def test_a_training_is_started_watched_and_asked_about(
    named: World, presenter: TabPresenter, started: list[Start]
) -> None:
    asked = presenter.training.start(PAGE, bring_back=True)
    assert asked.question is not None
    sendable(asked.message)
    texts(presenter.training.answer(asked.question))
    texts(presenter.training.watch(PAGE, bring_back=True))
    assert presenter.training.may_start(PAGE) == ""
    result = presenter.resume_now(presenter.show(PAGE, shown_state(4), ""), "", bring_back=False)
    texts(result)
    assert [each.run for each in started] == [named.run] * 3
    texts(presenter.undo(PAGE, result.receipt))


def test_a_running_training_is_shown_and_stopped(named: World, presenter: TabPresenter) -> None:
    me = processes.identify(os.getpid())
    write_record(
        named.run,
        TrainingRecord(
            ProcessState.RUNNING, socket.gethostname(), me, bring_back=True, resumed_from=STATES[2]
        ),
    )
    sendable(vars(presenter.training.show(PAGE)))
    presenter.training.set_bring_back(PAGE, False)
    asked = presenter.training.ask_stop(PAGE)
    assert asked.question is not None
    texts(presenter.training.answer(asked.question))
    assert take_requests(named.run) == [Request.LEAVE, Request.STOP]
    names = [name for _, name in presenter.show(PAGE, NOTHING, "").disk.choices]
    assert shown_state(1) in names
    assert shown_state(2) not in names, "what a training went on from stays"


def test_checkpoints_are_pruned(named: World, presenter: TabPresenter) -> None:
    truncate(named.run / STATES[1] / "optimizer.bin")
    choices = presenter.show(PAGE, NOTHING, "").disk.choices
    sendable(choices)
    asked = presenter.training.ask_remove(PAGE, [name for _, name in choices if name == shown_state(1)], "")
    assert asked.question is not None
    sendable(asked.message)
    texts(presenter.training.answer(asked.question))
    assert not (named.run / STATES[1]).exists()
    assert (named.run / STATES[2]).is_dir()


def test_long_work_finds_it(named: World, presenter: TabPresenter) -> None:
    shown = list(presenter.background.verify(PAGE, shown_state(2)))
    sendable(shown)
    assert not any("ck-bad" in each for each in shown)
    assert presenter.run(PAGE).checkpoint(STATES[2]).facts.deep is not None
    presenter.background.cancel(PAGE, shown_state(2))
    assert list(presenter.background.rehearse_unusual(PAGE, shown_state(2))) == []


# For programs, and files.


def test_every_answer_to_a_program_can_be_sent_back(named: World, presenter: TabPresenter) -> None:
    (run,) = api.runs(presenter)
    sendable(run)
    name, best = received(run["run"]), received(run["latest_resumable"])
    table: list[dict[str, Any]] = api.checkpoint_table(presenter, name)
    sendable(table)
    assert [each["state"] for each in table] == [str(shown_state(epoch)) for epoch in (4, 3, 2, 1)]
    for each in table:
        assert api.check(presenter, received(each["run"]), received(each["state"])) == each
    preview = api.preview_resume(presenter, name, best)
    sendable(preview)
    assert preview["resumes"]
    assert api.apply_resume(presenter, name, best)["applied"]
    assert presenter.run(name).facts.resume_target.state_name == STATES[4]


def test_the_diagnosis_is_a_file_with_a_name_of_text(named: World, presenter: TabPresenter) -> None:
    path = presenter.diagnosis_file(PAGE)
    sendable(str(path))
    assert path.is_file()


def test_what_fluxgym_s_boxes_cannot_hold_is_not_put_there(named: World, presenter: TabPresenter) -> None:
    # A Gym without anything to generate with: what was carried would fail.
    done = presenter.carry(Gym(), [], PAGE, Written(named.run / STATES[4]))
    assert done.values is None
    assert "was left alone" in done.told
    sendable(done.told)
