"""Watches one training to its end: hears it, checks its saves, ends it, and brings it back where that can help.

A state machine without a process or a clock of its own: what it does to the world goes through
:class:`~checkpoint_core.training.interfaces.SupervisorIO`, and each :meth:`Supervisor.tick` looks once. Every
decision is a line of the journal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from checkpoint_core.training.crash.diagnosis import Crash, CrashKind, hang_crash, nan_crash, read_crash
from checkpoint_core.training.hang_detector import HangDetector
from checkpoint_core.training.interfaces import Running, SupervisorIO
from checkpoint_core.training.log.files import JournalLine
from checkpoint_core.training.next_start import NextStart, NoStart
from checkpoint_core.training.record import ProcessState, Request, TrainingRecord, with_status
from checkpoint_core.training.restart_policy import GiveUp, History, Policy, decide

#: Seconds between looks at the saves.
_SAVES_SECONDS = 5.0
#: How long a stop waits for a save that is going on.
SAVE_WAIT_SECONDS = 180.0
_MOST_WARNINGS = 5
#: How long a start waits for processes of the run that are still there.
_LEFT_SECONDS = 30.0
_NOT_ENDED = "Some of its processes could not be ended; trying again."


class Supervisor:
    """One training, from its start or from where it was found, to its end.

    :param record: as it was claimed; :attr:`record` is how it stands now.
    :param clock: seconds since 1970.
    """

    def __init__(
        self, io: SupervisorIO, record: TrainingRecord, policy: Policy, clock: Callable[[], float]
    ) -> None:
        self.record = record
        self._io, self._policy, self._clock = io, policy, clock
        self._running: Running | None = None
        self._history = History()
        self._refused: frozenset[str] = frozenset()
        self._good_saves = 0
        self._next = NextStart("", "")
        self._requests: list[Request] = []
        self._stop_by: float | None = None
        self._saves_at = 0.0
        self._silence = HangDetector(policy.hang_minutes * 60)
        self._warnings: list[tuple[str, str]] = [("", text) for text in record.warnings]

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to watch."""
        return not self.record.status.is_live

    @property
    def is_due(self) -> bool:
        """Whether there is something to do before the next look: a start, or a process that has just ended."""
        if self.record.status is ProcessState.BACKOFF:
            return self._clock() * 1e9 >= self.record.next_try_ns
        return self._running is not None and self._running.has_lost()

    def begin(self, checkpoint: str = "") -> None:
        """Start the training as its script says; ``checkpoint`` is what it resumes from, as far as is known."""
        trouble = self._io.disk_trouble()
        if trouble:
            self._warn("disk-low", trouble)
        self.record = replace(self.record, behind=tuple(sorted(self._io.left_behind(checkpoint))))
        self._next = NextStart(checkpoint, "")
        self._start()

    def adopt(self, running: Running, checkpoint: str = "") -> None:
        """Watch a training that runs already; ``checkpoint`` is what one of others went on from, as far as is known."""
        self._running = running
        if not running.prints_here:
            behind = tuple(sorted(self._io.left_behind(checkpoint)))
            began = running.began_ns
            self.record = replace(self.record, started_ns=began, resumed_from=checkpoint, behind=behind)
        where = "" if running.prints_here else " Its output is elsewhere, so its log is not shown here."
        self._say("adopted", f"Monitoring a training that was already running.{where}")
        self._set_status(ProcessState.RUNNING, training=running.root, is_adopted=not running.prints_here)

    def tick(self) -> None:
        """Look once, and do what is due; what it raises leaves everything for the next look."""
        self._handle_requests(self._io.asked())
        if self.record.status is ProcessState.BACKOFF:
            self._wait_for_next()
        elif self._running is not None:
            self._watch(self._running)

    def fail(self, why: str) -> None:
        """Leave the training as it is, because it cannot be watched any more."""
        self._say("watch-failed", why)
        self._set_status(ProcessState.FATAL, self._running, message=why)

    def _start(self) -> None:
        try:
            self._running = self._io.start()
        except OSError as error:
            why = f"The training could not be started: {error.strerror or error}."
            self._say("not-started", why)
            self._set_status(ProcessState.FATAL, message=why)
            return
        self._silence.reset()
        self._good_saves, self._stop_by = 0, None
        place = f" from {self._next.checkpoint}" if self._next.checkpoint else ""
        self._say("started", f"Start {self.record.attempt}{place}.")
        self._set_status(
            ProcessState.RUNNING,
            training=self._running.root,
            exit_status=None,
            message="",
            resumed_from=self._next.checkpoint,
            is_adopted=False,
        )

    def _wait_for_next(self) -> None:
        if self._clock() * 1e9 < self.record.next_try_ns:
            return
        if left := self._io.left_running():
            self._say(
                "still-running", f"Process {left} of this run is still there; it is not started beside it."
            )
            self._set_status(ProcessState.BACKOFF, next_try_ns=round((self._clock() + _LEFT_SECONDS) * 1e9))
            return
        if trouble := self._io.no_room():
            self._give_up(trouble)
            return
        chosen = self._io.choose(self.record, self._refused, self._is_asked_to_stop)
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

    def _watch(self, running: Running) -> None:
        if running.read_output():
            self._silence.reset()
        if not running.is_running():
            self._ended(running)
            return
        if self.record.status is ProcessState.STOPPING:
            self._stop_when_saved(running)
            return
        self._look_at_saves()
        if crash := self._crash_of(running):
            self._say(crash.kind.name.lower().replace("_", "-"), crash.sentence)
            if not running.end():
                self._say("not-ended", _NOT_ENDED)
            elif self._is_finished(running):
                self._ended(running)
            else:
                running.read_output()
                self._crashed(running, crash)
            return
        self._io.write(self.record, running)

    def _look_at_saves(self, settled: bool = False) -> None:
        if not settled and self._clock() - self._saves_at < _SAVES_SECONDS:
            return
        checked = self._io.check_saves(self._is_asked_to_stop, settled)
        self._saves_at = self._clock()
        for save in checked:
            self._silence.reset()
            self._good_saves += save.is_good
            if save.trouble:
                told = f"{save.title} ({save.name}) failed its check: {save.trouble}"
                later = "" if settled else " The training continues. Resume from an earlier checkpoint."
                self._warn("bad-save", told + later)
            else:
                known = f"note: {save.note}" if save.note else "it is good."
                self._say("checked", f"{save.title} was saved and fully verified; {known}")
        if checked and not settled:
            trouble = self._io.disk_trouble()
            self._withdraw("disk-low")
            if trouble:
                self._warn("disk-low", trouble)

    def _crash_of(self, running: Running) -> Crash | None:
        """A training that runs and is lost all the same: it hangs, or learns nothing but NaN."""
        nan_steps = running.reader.progress.nan_steps
        if nan_steps >= self._policy.nan_steps:
            if self.record.bring_back:
                return nan_crash(nan_steps)
            self._warn("nan-loss", nan_crash(self._policy.nan_steps).sentence)
        silent = self._silence.grows(self._clock(), running.is_idle)
        if silent < self._policy.hang_minutes * 60:
            return None
        if self.record.bring_back:
            return hang_crash(silent / 60)
        self._warn("hang", hang_crash(self._policy.hang_minutes).sentence)
        return None

    def _ended(self, running: Running) -> None:
        running.read_output()
        status = running.exit_status
        # A script that ends in a pipe, in another command or in `&` has a status of its own, which tells nothing.
        finished = self._is_finished(running)
        if self.record.status is ProcessState.STOPPING:
            self._look_at_saves(settled=True)
            self._over(ProcessState.STOPPED, "stopped", "Stopped, as you asked.", status)
        elif finished:
            self._look_at_saves(settled=True)
            self._over(ProcessState.EXITED, "finished", "It has reached its last epoch.", status)
        else:
            self._crashed(running, self._why(running, status))

    def _is_finished(self, running: Running) -> bool:
        """Whether the last epoch was reached, by the log of this start or by what it left on the disk."""
        return running.reader.progress.finished or self._io.is_finished(running)

    def _why(self, running: Running, status: int | None) -> Crash:
        if running.prints_here:
            return read_crash(running.reader.tail, status, running.reader.progress)
        told = read_crash((), status, running.reader.progress)
        return replace(
            told,
            sentence="The training ended before its last epoch. Its log isn't here, so the reason is unknown.",
        )

    def _crashed(self, running: Running, crash: Crash) -> None:
        self._look_at_saves(settled=True)
        evidence = crash.evidence
        said = f" It said: “{evidence}”." if evidence else ""
        crash = replace(crash, sentence=f"{crash.sentence}{said}")
        self._say("crashed", f"{crash.sentence} {crash.effect}".strip())
        if crash.kind in (CrashKind.STATE_REFUSED, CrashKind.KEY_ERROR_STEP) and self.record.resumed_from:
            self._refused |= {self.record.resumed_from}
        self.record = replace(self.record, exit_status=running.exit_status)
        if not self.record.bring_back:
            self._give_up(f"{crash.sentence} {crash.effect} {crash.cure}".replace("  ", " "), told=True)
            return
        trained = running.reader.progress.has_trained
        self._history = self._history.after(self._good_saves > 0, trained, evidence)
        decision = decide(crash, self._history, self._policy)
        if crash.kind is CrashKind.UNKNOWN and (full := self._io.no_room()):
            # The log lies on the same disk: it may lack the very lines that would say so.
            decision = GiveUp(full)
        if isinstance(decision, GiveUp):
            self._give_up(f"{crash.sentence} {decision.why}")
            return
        when = f"in {decision.seconds:.0f} seconds" if decision.seconds else "now"
        self._say("waiting", f"Restarting {when}.")
        at = round((self._clock() + decision.seconds) * 1e9)
        self._running = None
        self._set_status(ProcessState.BACKOFF, next_try_ns=at, training=None, message=crash.sentence)

    def _give_up(self, why: str, told: bool = False) -> None:
        if not told:
            self._say("gave-up", f"Not restarted. {why}")
        self._running = None
        self._set_status(ProcessState.FATAL, message=why, training=None)

    def _over(self, status: ProcessState, kind: str, told: str, exit_status: int | None) -> None:
        self._say(kind, told)
        running, self._running = self._running, None
        self.record = replace(self.record, exit_status=exit_status)
        self._set_status(status, running, message=told, training=None)

    def _is_asked_to_stop(self) -> bool:
        self._requests += self._io.asked()
        return any(each in (Request.STOP, Request.STOP_NOW) for each in self._requests)

    def _handle_requests(self, latest: list[Request]) -> None:
        wanted, self._requests = [*self._requests, *latest], []
        for each in wanted:
            if each in (Request.STOP, Request.STOP_NOW):
                self._stop(each)
            elif each is Request.RETRY_NOW:
                self._retry()
            elif each in (Request.BRING_BACK, Request.LEAVE) and self.record.bring_back != (
                each is Request.BRING_BACK
            ):
                self.record = replace(self.record, bring_back=each is Request.BRING_BACK)
                word = "will" if self.record.bring_back else "will not"
                self._say("setting", f"It {word} restart automatically after a crash, as you asked.")
                self._set_status(self.record.status, self._running)

    def _retry(self) -> None:
        if self.record.status is ProcessState.BACKOFF:
            self._say("setting", "It does not wait any longer, as you asked.")
            self._set_status(ProcessState.BACKOFF, next_try_ns=round(self._clock() * 1e9))

    def _stop(self, how: Request) -> None:
        if self._running is None:
            self._over(
                ProcessState.STOPPED, "stopped", "Not restarted, as you asked.", self.record.exit_status
            )
            return
        if self.record.status is not ProcessState.STOPPING:
            self._set_status(ProcessState.STOPPING, self._running)
            self._stop_by = self._clock() + SAVE_WAIT_SECONDS
            if self._io.save_goes_on(self._running) and how is Request.STOP:
                self._say("stopping", "Stopping once the current save is finished.")
        if how is Request.STOP_NOW:
            self._stop_by = self._clock()
        self._stop_when_saved(self._running)

    def _stop_when_saved(self, running: Running) -> None:
        waits = self._stop_by is not None and self._clock() < self._stop_by
        if waits and self._io.save_goes_on(running):
            self._io.write(self.record, running)
            return
        if not running.end():
            self._say("not-ended", _NOT_ENDED)
            return
        self._ended(running)

    def _set_status(self, status: ProcessState, running: Running | None = None, **more: object) -> None:
        self.record = with_status(self.record, status, round(self._clock() * 1e9), **more)
        self._io.write(self.record, running or self._running)

    def _say(self, kind: str, text: str) -> None:
        self._io.log_event(JournalLine(round(self._clock() * 1e9), kind, text))

    def _warn(self, kind: str, text: str) -> None:
        """Tell something that the user must know at once, unless it stands there already."""
        if (kind, text) in self._warnings:
            return
        self._say(kind, text)
        bad = [each for each in self._warnings if each[0] == "bad-save"][-_MOST_WARNINGS:]
        others = {name: said for name, said in self._warnings if name != "bad-save"}
        self._warnings = [*bad, *others.items(), (kind, text)]
        self._show_warnings()

    def _withdraw(self, kind: str) -> None:
        """Take back a warning that need not hold any more."""
        self._warnings = [each for each in self._warnings if each[0] != kind]
        self._show_warnings()

    def _show_warnings(self) -> None:
        self.record = replace(self.record, warnings=tuple(text for _, text in self._warnings))
        self._io.write(self.record, self._running)
