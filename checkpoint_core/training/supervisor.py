"""Watches one training to its end: hears it, checks its saves, ends it, and brings it back where that can help.

A state machine without a process or a clock of its own: what it does to the world goes through :class:`World`, and each
:meth:`Supervisor.tick` looks once. Every decision is a line of the journal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from checkpoint_core.training.choosing import NextStart, NoStart
from checkpoint_core.training.crashes import Crash, CrashKind, hang_crash, nan_crash, read_crash
from checkpoint_core.training.decisions import GiveUp, History, Policy, decide
from checkpoint_core.training.log_files import JournalLine
from checkpoint_core.training.log_reader import LogReader
from checkpoint_core.training.records import Ask, ProcessId, Status, TrainingRecord, with_status
from checkpoint_core.training.save_watch import Checked

#: Seconds between looks at the saves, and at how busy the machine is.
_SAVES_SECONDS, _BUSY_SECONDS = 5.0, 30.0
#: How long a stop waits for a save that is going on.
SAVE_WAIT_SECONDS = 180.0
_MOST_WARNINGS = 5


class Running(Protocol):
    """A training that runs; see :class:`checkpoint_core.training.attempt.Attempt`."""

    root: ProcessId
    reader: LogReader
    began_ns: int

    @property
    def prints_here(self) -> bool:
        """Whether its log can be read here."""
        ...

    @property
    def exit_status(self) -> int | None:
        """What it ended with, ``None`` where that is not known."""
        ...

    def hear(self) -> bool:
        """Read what it printed since the last time; whether there was anything."""
        ...

    def is_running(self) -> bool:
        """Whether any of its processes is left."""
        ...

    def is_idle(self) -> bool:
        """Whether it has computed nothing since the last time."""
        ...

    def end(self) -> bool:
        """End all of it; whether nothing is left."""
        ...


class World(Protocol):
    """What a supervisor does to the world; see :class:`checkpoint_core.training.watching.RunWorld`."""

    def start(self, checkpoint: str) -> Running:
        """Start the run's script; raises OSError."""
        ...

    def choose(
        self, record: TrainingRecord, refused: frozenset[str], cancelled: Callable[[], bool]
    ) -> NextStart | NoStart:
        """Choose from where to go on, and write it into the script; nothing runs meanwhile."""
        ...

    def check_saves(self, cancelled: Callable[[], bool], settled: bool) -> list[Checked]:
        """Check what was saved since the last time."""
        ...

    def disk_trouble(self) -> str:
        """Why the saves to come have no room, in the user's words; empty where they have."""
        ...

    def is_finished(self, running: Running) -> bool:
        """Whether a training that ended has reached its last epoch, by what it left on the disk."""
        ...

    def save_goes_on(self, running: Running) -> bool:
        """Whether the training is writing a state at this moment."""
        ...

    def asked(self) -> Ask | None:
        """What the user asked for since the last time."""
        ...

    def write(self, record: TrainingRecord, running: Running | None) -> None:
        """Write down how it stands."""
        ...

    def tell(self, line: JournalLine) -> None:
        """Add a line to the journal."""
        ...


class Supervisor:
    """One training, from its start or from where it was found, to its end.

    :param record: as it was claimed; :attr:`record` is how it stands now.
    :param clock: seconds since 1970.
    """

    def __init__(
        self, world: World, record: TrainingRecord, policy: Policy, clock: Callable[[], float]
    ) -> None:
        self.record = record
        self._world, self._policy, self._clock = world, policy, clock
        self._running: Running | None = None
        self._history = History()
        self._refused: frozenset[str] = frozenset()
        self._good_saves = 0
        self._next = NextStart("", "")
        self._asked: list[Ask] = []
        self._stop_by: float | None = None
        self._saves_at = self._busy_at = 0.0
        self._active_at, self._was_idle = clock(), False
        self._is_warned = False

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to watch."""
        return not self.record.status.is_live

    def begin(self, checkpoint: str = "") -> None:
        """Start the training as its script says; ``checkpoint`` is what it resumes from, as far as is known."""
        trouble = self._world.disk_trouble()
        if trouble:
            self._warn("disk-low", trouble)
        self._next = NextStart(checkpoint, "")
        self._start()

    def adopt(self, running: Running, checkpoint: str = "") -> None:
        """Watch a training that runs already; ``checkpoint`` is what one of others went on from, as far as is known."""
        self._running = running
        if not running.prints_here:
            self.record = replace(self.record, started_ns=running.began_ns, resumed_from=checkpoint)
        where = "" if running.prints_here else " It prints elsewhere, so its log is not shown here."
        self._say("adopted", f"Watching a training that was running already.{where}")
        self._become(Status.RUNNING, training=running.root, is_adopted=not running.prints_here)

    def tick(self) -> None:
        """Look once, and do what is due; what it raises leaves everything for the next look."""
        self._heed(self._world.asked())
        if self.record.status is Status.BACKOFF:
            self._wait_for_next()
        elif self._running is not None:
            self._watch(self._running)

    def fail(self, why: str) -> None:
        """Leave the training as it is, because it cannot be watched any more."""
        self._say("watch-failed", why)
        self._become(Status.FATAL, self._running, message=why)

    # --- starting -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        try:
            self._running = self._world.start(self._next.checkpoint)
        except OSError as error:
            why = f"The training could not be started: {error.strerror or error}."
            self._say("not-started", why)
            self._become(Status.FATAL, message=why)
            return
        self._active_at, self._was_idle = self._clock(), False
        self._good_saves, self._stop_by = 0, None
        place = f" from {self._next.checkpoint}" if self._next.checkpoint else ""
        self._say("started", f"Start {self.record.attempt}{place}.")
        self._become(
            Status.RUNNING,
            training=self._running.root,
            exit_status=None,
            message="",
            resumed_from=self._next.checkpoint,
            is_adopted=False,
        )

    def _wait_for_next(self) -> None:
        if self._clock() * 1e9 < self.record.next_try_ns:
            return
        if trouble := self._world.disk_trouble():
            self._give_up(f"There is no room for the saves to come. {trouble}")
            return
        chosen = self._world.choose(self.record, self._refused, self._is_asked_to_stop)
        if self._is_asked_to_stop():
            return  # the next look heeds it
        if isinstance(chosen, NoStart):
            self._give_up(chosen.why)
            return
        self._say("chosen", chosen.told)
        self._next = chosen
        self._history = self._history.restarted()
        self.record = replace(self.record, attempt=self.record.attempt + 1)
        self._start()

    # --- watching -------------------------------------------------------------------------------------------------

    def _watch(self, running: Running) -> None:
        if running.hear():
            self._active_at = self._clock()
        if not running.is_running():
            self._ended(running)
            return
        if self.record.status is Status.STOPPING:
            self._stop_when_saved(running)
            return
        self._look_at_saves()
        if crash := self._crash_of(running):
            self._say(crash.kind.name.lower().replace("_", "-"), crash.sentence)
            running.end()
            running.hear()
            self._crashed(running, crash)
            return
        self._world.write(self.record, running)

    def _look_at_saves(self, settled: bool = False) -> None:
        if not settled and self._clock() - self._saves_at < _SAVES_SECONDS:
            return
        checked = self._world.check_saves(self._is_asked_to_stop, settled)
        self._saves_at = self._clock()
        for save in checked:
            self._active_at = self._clock()
            self._good_saves += save.is_good
            if save.trouble:
                told = f"{save.title} ({save.name}) is not good: {save.trouble}"
                later = (
                    ""
                    if settled
                    else " The training goes on; an earlier checkpoint is the one to resume from."
                )
                self._warn("bad-save", told + later)
            else:
                known = f"to know: {save.note}" if save.note else "it is good."
                self._say("checked", f"{save.title} was saved and read to its last byte; {known}")
        if checked and not settled and (trouble := self._world.disk_trouble()):
            self._warn("disk-low", trouble)

    def _crash_of(self, running: Running) -> Crash | None:
        """A training that runs and is lost all the same: it hangs, or learns nothing but NaN."""
        nan_steps = running.reader.progress.nan_steps
        if nan_steps >= self._policy.nan_steps:
            if self.record.bring_back:
                return nan_crash(nan_steps)
            self._warn_once(nan_crash(nan_steps).sentence)
        silent = self._silent_seconds(running)
        if silent < self._policy.hang_minutes * 60:
            return None
        if self.record.bring_back:
            return hang_crash(silent / 60)
        self._warn_once(hang_crash(silent / 60).sentence)
        return None

    def _silent_seconds(self, running: Running) -> float:
        """For how long it has neither printed, saved nor computed; 0 where the last look found it at work."""
        now = self._clock()
        if now - self._busy_at >= min(_BUSY_SECONDS, self._policy.hang_minutes * 60 / 4):
            self._busy_at, self._was_idle = now, running.is_idle()
            if not self._was_idle:
                self._active_at = now
        return now - self._active_at if self._was_idle else 0.0

    def _warn_once(self, sentence: str) -> None:
        if not self._is_warned:
            self._is_warned = True
            self._warn("trouble", sentence)

    # --- ending ---------------------------------------------------------------------------------------------------

    def _ended(self, running: Running) -> None:
        running.hear()
        status = running.exit_status
        finished = self._world.is_finished(running)
        if self.record.status is Status.STOPPING:
            self._look_at_saves(settled=True)
            self._over(Status.STOPPED, "stopped", "Stopped, as you asked.", status)
        elif finished or status == 0:
            self._look_at_saves(settled=True)
            end = "It has reached its last epoch." if finished else "It ended by itself, without an error."
            self._over(Status.EXITED, "finished", end, status)
        else:
            self._crashed(running, self._why(running, status))

    def _why(self, running: Running, status: int | None) -> Crash:
        if running.prints_here:
            return read_crash(running.reader.tail, status, running.reader.progress)
        told = read_crash((), status, running.reader.progress)
        return replace(
            told, sentence="The training has ended before its last epoch; its log is not here to say why."
        )

    def _crashed(self, running: Running, crash: Crash) -> None:
        self._look_at_saves(settled=True)
        self._running = None
        said = f" It said: “{crash.evidence}”." if crash.evidence else ""
        crash = replace(crash, sentence=f"{crash.sentence}{said}")
        self._say("crashed", f"{crash.sentence} {crash.effect}".strip())
        if crash.kind in (CrashKind.STATE_REFUSED, CrashKind.KEY_ERROR_STEP) and self.record.resumed_from:
            self._refused |= {self.record.resumed_from}
        self.record = replace(self.record, exit_status=running.exit_status)
        if not self.record.bring_back:
            self._give_up(f"{crash.sentence} {crash.effect} {crash.cure}".replace("  ", " "), told=True)
            return
        self._history = self._history.after(self._good_saves > 0)
        decision = decide(crash, self._history, self._policy)
        if isinstance(decision, GiveUp):
            self._give_up(f"{crash.sentence} {decision.why}")
            return
        self._say("waiting", f"It is started again in {decision.seconds:.0f} seconds.")
        at = round((self._clock() + decision.seconds) * 1e9)
        self._become(Status.BACKOFF, next_try_ns=at, training=None, message=crash.sentence)

    def _give_up(self, why: str, told: bool = False) -> None:
        self._running = None
        if not told:
            self._say("gave-up", f"Not started again. {why}")
        self._become(Status.FATAL, message=why, training=None)

    def _over(self, status: Status, kind: str, told: str, exit_status: int | None) -> None:
        self._say(kind, told)
        running, self._running = self._running, None
        self.record = replace(self.record, exit_status=exit_status)
        self._become(status, running, message=told, training=None)

    # --- what the user asks ---------------------------------------------------------------------------------------

    def _is_asked_to_stop(self) -> bool:
        if asked := self._world.asked():
            self._asked.append(asked)
        return any(each in (Ask.STOP, Ask.STOP_NOW) for each in self._asked)

    def _heed(self, latest: Ask | None) -> None:
        wanted, self._asked = [*self._asked, *([latest] if latest else [])], []
        for each in wanted:
            if each in (Ask.STOP, Ask.STOP_NOW):
                self._stop(each)
            elif each is Ask.RETRY_NOW and self.record.status is Status.BACKOFF:
                self._become(Status.BACKOFF, next_try_ns=0)
            elif each in (Ask.BRING_BACK, Ask.LEAVE) and self.record.bring_back != (each is Ask.BRING_BACK):
                self.record = replace(self.record, bring_back=each is Ask.BRING_BACK)
                word = "will be" if self.record.bring_back else "will not be"
                self._say("setting", f"It {word} brought back if it crashes, as you asked.")
                self._become(self.record.status, self._running)

    def _stop(self, how: Ask) -> None:
        if self._running is None:
            self._over(Status.STOPPED, "stopped", "Not started again, as you asked.", self.record.exit_status)
            return
        if self.record.status is not Status.STOPPING:
            self._become(Status.STOPPING, self._running)
            self._stop_by = self._clock() + SAVE_WAIT_SECONDS
            if self._world.save_goes_on(self._running) and how is Ask.STOP:
                self._say("stopping", "Stopping as soon as the save that is going on is finished.")
        if how is Ask.STOP_NOW:
            self._stop_by = self._clock()
        self._stop_when_saved(self._running)

    def _stop_when_saved(self, running: Running) -> None:
        waits = self._stop_by is not None and self._clock() < self._stop_by
        if waits and self._world.save_goes_on(running):
            self._world.write(self.record, running)
            return
        if not running.end():
            self._say("not-ended", "Some of its processes could not be ended; it is tried again.")
            return
        self._ended(running)

    # --- telling --------------------------------------------------------------------------------------------------

    def _become(self, status: Status, running: Running | None = None, **more: object) -> None:
        self.record = with_status(self.record, status, round(self._clock() * 1e9), **more)
        self._world.write(self.record, running or self._running)

    def _say(self, kind: str, text: str) -> None:
        self._world.tell(JournalLine(round(self._clock() * 1e9), kind, text))

    def _warn(self, kind: str, text: str) -> None:
        self._say(kind, text)
        if text not in self.record.warnings:
            kept = (*self.record.warnings, text)[-_MOST_WARNINGS:]
            self.record = replace(self.record, warnings=kept)
            self._world.write(self.record, self._running)
