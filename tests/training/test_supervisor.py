"""The supervisor with a clock, processes and a disk of the test's own: what it decides, and what the journal says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from checkpoint_core.training.interfaces import Running
from checkpoint_core.training.log.files import JournalLine
from checkpoint_core.training.log.reader import LogReader
from checkpoint_core.training.next_start import NextStart, NoStart
from checkpoint_core.training.record import ProcessId, ProcessState, Request, TrainingRecord
from checkpoint_core.training.restart_policy import Policy
from checkpoint_core.training.save_monitor import Checked
from checkpoint_core.training.supervisor import SAVE_WAIT_SECONDS, Supervisor

KILLED = b"subprocess.CalledProcessError: Command '['python']' died with <Signals.SIGKILL: 9>.\n"
KEY_ERROR = (
    b"Traceback (most recent call last):\n"
    b'  File "/x/accelerate/accelerator.py", line 3156, in load_state\n'
    b'    self.step = override_attributes["step"]\n'
    b"KeyError: 'step'\n"
)
DISK_FULL = b"OSError: [Errno 28] No space left on device\n"
GOOD, BAD = (
    Checked("x-000002-state", "Epoch 2", "", True),
    Checked("x-000003-state", "Epoch 3", "torn.", False),
)


@dataclass
class FakeRunning:
    """A training that does what the test says."""

    root: ProcessId = field(default_factory=lambda: ProcessId(100, 1.0))
    reader: LogReader = field(default_factory=LogReader)
    began_ns: int = 0
    prints_here: bool = True
    exit_status: int | None = None
    runs: bool = True
    idle: bool = False
    prints: bytes = b""
    ends: bool = True
    ended: int = 0

    def read_output(self) -> bool:
        data, self.prints = self.prints, b""
        self.reader.feed(data)
        return bool(data)

    def is_running(self) -> bool:
        return self.runs

    def has_lost(self) -> bool:
        return not self.runs

    def is_idle(self) -> bool:
        return self.idle

    def end(self) -> bool:
        self.ended += 1
        if self.ends:
            self.runs = False
        return self.ends

    def tidy(self, run: Path) -> None:
        pass

    def crash(self, prints: bytes, status: int = 1) -> None:
        self.prints, self.exit_status, self.runs = prints, status, False


@dataclass
class FakeWorld:
    """The world of one run."""

    running: list[FakeRunning] = field(default_factory=list)
    chosen: NextStart | NoStart = field(
        default_factory=lambda: NextStart("x-000002-state", "Resume from epoch 2.")
    )
    refused: frozenset[str] = frozenset()
    saves: list[Checked] = field(default_factory=list)
    trouble: str = ""
    full: str = ""
    left: int | None = None
    finished: bool = False
    saving: bool = False
    requests: list[Request] = field(default_factory=list)
    fails: OSError | None = None
    journal: list[JournalLine] = field(default_factory=list)
    written: list[TrainingRecord] = field(default_factory=list)

    def start(self) -> FakeRunning:
        if self.fails:
            raise self.fails
        self.running.append(FakeRunning())
        return self.running[-1]

    def choose(
        self, record: TrainingRecord, refused: frozenset[str], cancelled: Callable[[], bool]
    ) -> NextStart | NoStart:
        self.refused = refused
        return self.chosen

    def check_saves(self, cancelled: Callable[[], bool], settled: bool) -> list[Checked]:
        saves, self.saves = self.saves, []
        return saves

    def disk_trouble(self) -> str:
        return self.trouble

    def is_finished(self, running: Running) -> bool:
        return self.finished

    def save_goes_on(self, running: Running) -> bool:
        return self.saving

    def asked(self) -> list[Request]:
        requests, self.requests = self.requests, []
        return requests

    def no_room(self) -> str:
        return self.full

    def left_running(self) -> int | None:
        return self.left

    def left_behind(self, checkpoint: str) -> frozenset[str]:
        return frozenset({"x-000009-state"}) if checkpoint else frozenset()

    def write(self, record: TrainingRecord, running: Running | None) -> None:
        self.written.append(record)

    def log_event(self, line: JournalLine) -> None:
        self.journal.append(line)

    @property
    def kinds(self) -> list[str]:
        return [line.kind for line in self.journal]

    @property
    def said(self) -> str:
        return " ".join(line.text for line in self.journal)


class Watched:
    """A supervisor and its world; :meth:`pass_time` is the clock."""

    def __init__(self, bring_back: bool = True, policy: Policy | None = None) -> None:
        self.now, self.world = 1_000_000.0, FakeWorld()
        record = TrainingRecord(ProcessState.STARTING, "here", bring_back=bring_back)
        self.it = Supervisor(self.world, record, policy or Policy(), lambda: self.now)

    def begin(self) -> Watched:
        self.it.begin("x-000001-state")
        return self

    def pass_time(self, seconds: float, each: float = 1.0) -> None:
        until = self.now + seconds
        while self.now < until and not self.it.is_over:
            self.now += each
            self.it.tick()

    def crash(self, prints: bytes, status: int = 1) -> None:
        self.running.crash(prints, status)
        self.pass_time(1)

    @property
    def running(self) -> FakeRunning:
        return self.world.running[-1]

    @property
    def status(self) -> ProcessState:
        return self.it.record.status


@pytest.fixture
def watched() -> Watched:
    return Watched().begin()


def test_a_training_that_ends_well_is_over(watched: Watched) -> None:
    watched.pass_time(5)
    watched.world.finished = True
    watched.crash(b"model saved.\n", status=0)

    assert (watched.status, watched.it.is_over) == (ProcessState.EXITED, True)
    assert watched.it.record.message == "It has reached its last epoch."
    assert watched.world.kinds == ["started", "finished"]


def test_a_killed_one_is_started_again_after_a_while_and_the_journal_says_why(watched: Watched) -> None:
    watched.crash(KILLED, status=-9)
    assert watched.status is ProcessState.BACKOFF
    watched.pass_time(8)
    assert len(watched.world.running) == 1
    watched.pass_time(3)

    assert (watched.status, watched.it.record.attempt) == (ProcessState.RUNNING, 2)
    assert watched.it.record.resumed_from == "x-000002-state"
    assert watched.world.kinds == ["started", "crashed", "waiting", "chosen", "started"]
    assert "killed" in watched.world.journal[1].text


def test_the_waiting_time_doubles_and_the_limit_is_told(watched: Watched) -> None:
    waits = []
    while not watched.it.is_over:
        watched.crash(KILLED, status=-9)
        if not watched.it.is_over:
            waits.append(watched.it.record.next_try_ns / 1e9 - watched.now)
            watched.pass_time(waits[-1] + 1)

    assert waits == [10, 20]
    assert watched.status is ProcessState.FATAL
    assert "3 times in a row without a new good checkpoint" in watched.it.record.message


BAR = b"\rsteps:  33%|###      | 8/24 [00:05<00:11,  1.37it/s, avr_loss=1.52]\n"


def waits(watched: Watched) -> float:
    return watched.it.record.next_try_ns / 1e9 - watched.now


def test_the_first_restart_after_progress_is_at_once_and_the_second_waits(watched: Watched) -> None:
    watched.crash(BAR + KILLED, status=-9)
    assert waits(watched) == 0
    assert watched.it.is_due
    assert "Restarting now." in watched.world.said
    watched.pass_time(1)
    assert watched.it.record.attempt == 2
    watched.crash(BAR + KILLED, status=-9)
    assert waits(watched) == 10


def test_a_start_that_trained_nothing_is_waited_with(watched: Watched) -> None:
    watched.crash(KILLED, status=-9)
    assert waits(watched) == 10
    assert not watched.it.is_due


def test_a_status_of_0_is_no_end_while_epochs_are_left(watched: Watched) -> None:
    watched.crash(BAR, status=0)
    assert watched.status is ProcessState.BACKOFF
    assert "exit status 0, though the last epoch was not reached" in watched.world.said


def test_the_log_tells_the_end_too_whatever_the_status(watched: Watched) -> None:
    watched.crash(BAR + b"model saved.\n", status=1)
    assert watched.status is ProcessState.EXITED


def test_the_same_error_twice_before_a_step_is_not_tried_a_third_time(watched: Watched) -> None:
    for number in (b"4711", b"4712"):
        error = b"RuntimeError: odd weather in process " + number + b"\n"
        watched.crash(b"Traceback (most recent call last):\n" + error)
        watched.pass_time(20)
    assert (watched.status, watched.it.record.attempt) == (ProcessState.FATAL, 2)
    assert "“RuntimeError: odd weather in process 4712”" in watched.it.record.message
    assert "ended twice with the same error before it had trained a step" in watched.it.record.message


@pytest.mark.parametrize("between", [BAR, b""], ids=["it trained", "another error"])
def test_another_error_or_a_step_between_is_not_the_same_twice(watched: Watched, between: bytes) -> None:
    for error in (b"one", b"two" if not between else b"one"):
        watched.crash(b"Traceback (most recent call last):\nRuntimeError: " + error + b"\n" + between)
        watched.pass_time(40)
    assert (watched.status, watched.it.record.attempt) == (ProcessState.RUNNING, 3)


def test_a_restart_need_not_be_waited_for(watched: Watched) -> None:
    watched.crash(KILLED, status=-9)
    watched.world.requests = [Request.RETRY_NOW]
    watched.pass_time(1)
    assert (watched.status, watched.it.record.attempt) == (ProcessState.RUNNING, 2)


def test_a_restart_that_nobody_waits_for_is_none(watched: Watched) -> None:
    watched.world.requests = [Request.RETRY_NOW]
    watched.pass_time(2)
    assert (watched.status, watched.it.record.attempt) == (ProcessState.RUNNING, 1)


def test_progress_begins_the_count_anew(watched: Watched) -> None:
    for _ in range(6):
        watched.world.saves = [GOOD]
        watched.pass_time(6)
        watched.crash(KILLED, status=-9)
        assert watched.status is ProcessState.BACKOFF
        watched.pass_time(11)
    assert watched.it.record.attempt == 7


def test_there_is_a_limit_even_with_progress() -> None:
    watched = Watched(policy=Policy(restarts=2)).begin()
    for _ in range(3):
        watched.world.saves = [GOOD]
        watched.pass_time(6)
        watched.crash(KILLED, status=-9)
        watched.pass_time(11)
    assert watched.status is ProcessState.FATAL
    assert "restarted 2 times" in watched.it.record.message


@pytest.mark.parametrize(
    ("prints", "status"),
    [
        (b"train.sh: line 3: syntax error near unexpected token `('\n", 2),
        (b"flux_train_network.py: error: unrecognized arguments: --oops\n", 2),
        (DISK_FULL, 1),
        (b"ModuleNotFoundError: No module named 'diffusers'\n", 1),
        (b"", -15),
    ],
    ids=["syntax", "arguments", "disk", "module", "asked to end"],
)
def test_it_is_not_started_again_where_that_cannot_help(watched: Watched, prints: bytes, status: int) -> None:
    watched.crash(prints, status)
    assert watched.status is ProcessState.FATAL
    assert watched.world.kinds == ["started", "crashed", "gave-up"]
    assert "A restart would not help." in watched.it.record.message


def test_without_bringing_back_the_reason_is_told_and_nothing_is_started() -> None:
    watched = Watched(bring_back=False).begin()
    watched.crash(KILLED, status=-9)
    assert watched.status is ProcessState.FATAL
    assert "killed" in watched.it.record.message


def test_a_checkpoint_that_the_trainer_refused_is_not_chosen_again(watched: Watched) -> None:
    watched.crash(KEY_ERROR)
    watched.pass_time(30)
    assert watched.world.refused == {"x-000001-state"}


def test_where_no_checkpoint_is_left_it_gives_up_with_the_reason(watched: Watched) -> None:
    watched.world.chosen = NoStart("All checkpoints are damaged.")
    watched.crash(KILLED, status=-9)
    watched.pass_time(30)
    assert (watched.status, watched.it.record.message) == (ProcessState.FATAL, "All checkpoints are damaged.")


def test_a_disk_that_is_full_by_then_is_no_reason_to_start(watched: Watched) -> None:
    watched.crash(KILLED, status=-9)
    watched.world.full = "There is no room for the next save: it takes 3 GB, and the disk has 1 GB left."
    watched.pass_time(30)
    assert watched.status is ProcessState.FATAL
    assert "3 GB" in watched.it.record.message
    assert len(watched.world.running) == 1


def test_a_log_that_had_no_room_for_the_reason_is_no_riddle(watched: Watched) -> None:
    watched.world.full = "There is no room for the next save."
    watched.crash(b"")
    assert watched.status is ProcessState.FATAL
    assert watched.it.record.message.endswith("There is no room for the next save.")


def test_a_disk_that_gets_full_later_is_none(watched: Watched) -> None:
    watched.world.trouble = "The saves to come need 30 GB and the disk has 20 GB left."
    watched.crash(KILLED, status=-9)
    watched.pass_time(30)
    assert (watched.status, watched.it.record.attempt) == (ProcessState.RUNNING, 2)


def test_it_is_not_started_beside_what_is_left_of_it(watched: Watched) -> None:
    watched.world.left = 4711
    watched.crash(KILLED, status=-9)
    watched.pass_time(100)
    assert (watched.status, len(watched.world.running)) == (ProcessState.BACKOFF, 1)
    assert "Process 4711 of this run is still there" in watched.world.said
    watched.world.left = None
    watched.pass_time(40)
    assert watched.status is ProcessState.RUNNING


def test_what_was_gone_back_behind_is_kept_from_the_start(watched: Watched) -> None:
    assert watched.it.record.behind == ("x-000009-state",)


def test_one_that_has_finished_and_hangs_is_finished(watched: Watched) -> None:
    watched.running.idle = True
    watched.world.finished = True
    watched.pass_time(31 * 60, each=10)
    assert watched.status is ProcessState.EXITED
    assert watched.running.ended == 1


def test_a_machine_that_slept_has_not_seen_a_hang(watched: Watched) -> None:
    watched.running.idle = True
    watched.pass_time(60)
    watched.now += 8 * 3600
    watched.pass_time(60)
    assert watched.status is ProcessState.RUNNING
    assert watched.running.ended == 0


def test_what_hangs_and_cannot_be_ended_is_not_started_twice(watched: Watched) -> None:
    watched.running.idle, watched.running.ends = True, False
    watched.pass_time(32 * 60, each=10)
    assert (watched.status, len(watched.world.running)) == (ProcessState.RUNNING, 1)
    assert "not-ended" in watched.world.kinds


def test_a_disk_that_gets_full_is_told_before_and_while_it_trains() -> None:
    watched = Watched()
    watched.world.trouble = "Too little room."
    watched.begin()
    assert watched.it.record.warnings == ("Too little room.",)
    assert watched.status is ProcessState.RUNNING
    watched.world.trouble = "Even less room."
    watched.world.saves = [GOOD]
    watched.pass_time(6)
    assert watched.it.record.warnings == ("Even less room.",)
    watched.world.trouble = ""
    watched.world.saves = [GOOD]
    watched.pass_time(6)
    assert watched.it.record.warnings == ()


def test_a_bad_save_stays_told_whatever_the_disk_does(watched: Watched) -> None:
    watched.world.saves = [BAD]
    watched.pass_time(6)
    for number in range(10):
        watched.world.trouble = f"{number} MB left."
        watched.world.saves = [GOOD]
        watched.pass_time(6)
    assert [text[:7] for text in watched.it.record.warnings] == ["Epoch 3", "9 MB le"]


def test_a_bad_save_is_told_at_once_and_the_training_goes_on(watched: Watched) -> None:
    watched.world.saves = [GOOD, BAD]
    watched.pass_time(6)
    assert watched.status is ProcessState.RUNNING
    assert watched.world.kinds == ["started", "checked", "bad-save"]
    assert watched.it.record.warnings[0].startswith("Epoch 3 (x-000003-state) failed its check: torn.")


def test_a_look_that_fails_leaves_everything_for_the_next(watched: Watched) -> None:
    real = watched.world.check_saves

    def fails(cancelled: Callable[[], bool], settled: bool) -> list[Checked]:
        raise OSError("the disk is gone")

    watched.world.check_saves = fails  # type: ignore[method-assign]
    watched.running.crash(KILLED, status=-9)
    for _ in range(3):
        with pytest.raises(OSError, match="the disk is gone"):
            watched.pass_time(1)
    watched.world.check_saves = real  # type: ignore[method-assign]
    watched.pass_time(1)
    assert watched.status is ProcessState.BACKOFF
    assert watched.world.kinds == ["started", "crashed", "waiting"]


def test_a_hang_is_a_crash(watched: Watched) -> None:
    watched.running.idle = True
    watched.pass_time(29 * 60, each=10)
    assert watched.running.ended == 0
    watched.pass_time(2 * 60, each=10)
    assert watched.running.ended == 1 or len(watched.world.running) == 2
    assert "hang" in watched.world.kinds


@pytest.mark.parametrize("sign", ["output", "a busy GPU", "a save"])
def test_a_sign_of_life_is_no_hang(watched: Watched, sign: str) -> None:
    watched.running.idle = sign != "a busy GPU"
    for _ in range(6):
        watched.pass_time(20 * 60, each=20)
        watched.running.prints = b"something\n" if sign == "output" else b""
        watched.world.saves = [GOOD] if sign == "a save" else []
    assert watched.world.kinds.count("started") == 1
    assert watched.status is ProcessState.RUNNING


def test_a_hang_without_bringing_back_is_only_told_once() -> None:
    watched = Watched(bring_back=False).begin()
    watched.running.idle = True
    watched.pass_time(90 * 60, each=20)
    assert watched.status is ProcessState.RUNNING
    assert watched.world.kinds == ["started", "hang"]


def test_a_loss_that_is_no_number_is_a_crash_after_a_while(watched: Watched) -> None:
    bars = b"".join(
        b"\rsteps:  1%%|    | %d/400 [00:05<00:11,  1.37it/s, avr_loss=nan]" % step for step in range(1, 60)
    )
    watched.running.prints = bars
    watched.pass_time(1)
    assert math.isnan(watched.world.running[0].reader.progress.loss or 0.0)
    assert watched.world.running[0].ended == 1
    assert watched.status is ProcessState.BACKOFF


def test_a_stop_waits_for_the_save_that_goes_on(watched: Watched) -> None:
    watched.world.saving = True
    watched.world.requests = [Request.STOP]
    watched.pass_time(20)
    assert (watched.status, watched.running.ended) == (ProcessState.STOPPING, 0)
    watched.world.saving = False
    watched.pass_time(1)
    assert (watched.status, watched.running.ended) == (ProcessState.STOPPED, 1)
    assert watched.world.kinds == ["started", "stopping", "stopped"]


def test_a_stop_does_not_wait_for_ever(watched: Watched) -> None:
    watched.world.saving = True
    watched.world.requests = [Request.STOP]
    watched.pass_time(SAVE_WAIT_SECONDS + 2)
    assert watched.status is ProcessState.STOPPED


def test_a_stop_at_once_does_not_wait(watched: Watched) -> None:
    watched.world.saving = True
    watched.world.requests = [Request.STOP, Request.STOP_NOW]
    watched.pass_time(2)
    assert watched.status is ProcessState.STOPPED


def test_a_stop_while_it_waits_for_the_next_start_ends_it(watched: Watched) -> None:
    watched.crash(KILLED, status=-9)
    watched.world.requests = [Request.STOP]
    watched.pass_time(1)
    assert watched.status is ProcessState.STOPPED
    assert len(watched.world.running) == 1


def test_what_cannot_be_ended_is_tried_again_and_told(watched: Watched) -> None:
    watched.running.ends = False
    watched.world.requests = [Request.STOP]
    watched.pass_time(2)
    assert watched.status is ProcessState.STOPPING
    assert "not-ended" in watched.world.kinds
    watched.running.ends = True
    watched.pass_time(1)
    assert watched.status is ProcessState.STOPPED


def test_bringing_back_can_be_changed_while_it_runs(watched: Watched) -> None:
    watched.world.requests = [Request.LEAVE]
    watched.pass_time(1)
    assert watched.it.record.bring_back is False
    watched.crash(KILLED, status=-9)
    assert watched.status is ProcessState.FATAL


def test_what_cannot_be_started_is_told() -> None:
    watched = Watched()
    watched.world.fails = FileNotFoundError(2, "No such file or directory")
    watched.begin()
    assert watched.status is ProcessState.FATAL
    assert watched.it.record.message == "The training could not be started: No such file or directory."


def test_one_that_others_started_is_watched_and_its_end_is_read_from_the_disk() -> None:
    watched = Watched()
    foreign = FakeRunning(prints_here=False)
    watched.it.adopt(foreign)
    watched.world.running.append(foreign)
    watched.pass_time(3)
    assert (watched.status, watched.it.record.is_adopted) == (ProcessState.RUNNING, True)
    watched.world.finished = True
    foreign.runs = False
    watched.pass_time(1)
    assert watched.status is ProcessState.EXITED


def test_one_that_others_started_and_that_vanished_is_brought_back() -> None:
    watched = Watched()
    foreign = FakeRunning(prints_here=False)
    watched.it.adopt(foreign)
    foreign.runs = False
    watched.pass_time(30)
    assert watched.status is ProcessState.RUNNING
    assert "so the reason is unknown" in watched.world.said
