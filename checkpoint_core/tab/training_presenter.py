"""What the tab does with trainings: shows them, starts, watches and stops them, and makes room for their saves."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from checkpoint_core.atomic_write import WriteFailed
from checkpoint_core.audit import RunReport, UnknownName, title
from checkpoint_core.environment import EnvironmentFacts
from checkpoint_core.recovery import (
    RecoveryPlan,
    RemovalRefused,
    disk_forecast,
    links_in,
    look_again_at_run,
    plan_removal,
    plan_retention,
    read_replaced,
)
from checkpoint_core.states import OutputsFolderError, RecordUnusable, free_bytes
from checkpoint_core.tab.lookup import RunLookup
from checkpoint_core.tab.page_names import PageName, page_name
from checkpoint_core.tab.results import ActionResult, Asked, Confirmation, guarded
from checkpoint_core.tab.views.actions import error_view, good_view, info_view, warning_view
from checkpoint_core.tab.views.disk import chosen_names, retention_choices, retention_view
from checkpoint_core.tab.views.loss_plot import Mark
from checkpoint_core.tab.views.replaced import replaced_view
from checkpoint_core.tab.views.training import journal_view, log_view, training_view
from checkpoint_core.text import counted, human_bytes, human_seconds
from checkpoint_core.trainer import save_rules
from checkpoint_core.training import (
    CannotStart,
    DeviceBusy,
    EventLosses,
    NothingRuns,
    Processes,
    ProcessState,
    Progress,
    Request,
    Start,
    TrainingRecord,
    TrainingStatus,
    has_trace,
    in_use,
    launcher,
    members,
    send_request,
    training_status,
)

TROUBLE = (
    CannotStart,
    NothingRuns,
    RemovalRefused,
    RecordUnusable,
    UnknownName,
    OutputsFolderError,
    WriteFailed,
)


@dataclass(frozen=True)
class TrainingView:
    """All that the page shows of a run's training; every text is HTML."""

    training: str = ""
    log: str = ""
    journal: str = ""
    #: Whether there is a log and a journal to show.
    has_trace: bool = False
    can_start: bool = False
    can_stop: bool = False
    can_watch: bool = False
    #: Whether it has crashed and waits for its next start.
    can_retry: bool = False
    bring_back: bool = True


@dataclass(frozen=True)
class DiskView:
    """The disk of a run: what the page says, and what may be ticked to go, as label and name."""

    view: str = ""
    choices: tuple[tuple[str, PageName], ...] = ()
    #: Whether the saves to come have too little, so that it is shown without being asked for.
    is_tight: bool = False


class TrainingPresenter:
    """The trainings that one page starts, watches and stops."""

    def __init__(self, presenter: RunLookup) -> None:
        self._presenter = presenter
        self._processes = Processes()
        self._events = EventLosses()

    def status(self, run: RunReport) -> TrainingStatus:
        """How a run's training stands now."""
        return training_status(run.facts.path, self._processes)

    def show(self, run_name: PageName) -> TrainingView:
        """A run's training; nothing for a run that is not there."""
        try:
            run = self._presenter.run(run_name)
        except (UnknownName, OutputsFolderError):
            return TrainingView()
        status = self.status(run)
        if not status.history.points and has_trace(status):
            pids = frozenset(each.pid for each in members(status.found)) if status.found else frozenset()
            status = replace(status, history=self._events.of(run, pids))
        marks = [
            Mark(item.position.step, title(item), item.verdict.value)
            for item in run.checkpoints
            if item.position.step is not None
        ]
        html = training_view(status, _more(run, status), marks, time.time_ns())
        return TrainingView(
            html,
            log_view(status) if has_trace(status) else "",
            journal_view(status.journal) if has_trace(status) else "",
            has_trace=has_trace(status),
            can_start=not status.is_running and run.facts.script is not None,
            can_stop=status.is_running,
            can_watch=status.is_running and not status.is_watched,
            can_retry=_waits(status),
            bring_back=_bring_back(status.record),
        )

    def may_start(self, run_name: PageName) -> str:
        """Why a run cannot be started now, as HTML; empty where it can, or only another training is in the way."""
        try:
            launcher.check(self._start_of(self._presenter.run(run_name), False, True))
        except TROUBLE as error:
            return error_view(str(error))
        return ""

    def start(
        self, run_name: PageName, bring_back: bool, force: bool = False, fresh: bool = False
    ) -> ActionResult:
        """Start a run's training as its script says.

        :param force: beside another training on the same GPU.
        :param fresh: even if it begins at epoch 1 and overwrites what is there, or with another run's training.
        """

        def work() -> ActionResult:
            run = self._presenter.run(run_name)
            if not (fresh or force) and (asked := _ask_beginning(run, bring_back)):
                return asked
            try:
                launcher.start_detached(self._start_of(run, bring_back, force))
            except DeviceBusy as error:
                question = Confirmation(run_name, Asked.FORCE, bring_back=bring_back)
                return ActionResult(warning_view(f"{error} Start this one beside it all the same?"), question)
            back = " If it crashes, it restarts automatically." if bring_back else ""
            told = (
                "The training is starting. It keeps running when this page is closed or FluxGym is restarted."
                f"{back} Its status and log appear above."
            )
            return ActionResult(good_view(told), done=True)

        return guarded(work, TROUBLE)

    def _start_of(self, run: RunReport, bring_back: bool, force: bool) -> Start:
        environment = run.environment
        python = environment.executable if isinstance(environment, EnvironmentFacts) else None
        return Start(run.facts.path, bring_back, force, python)

    def watch(self, run_name: PageName, bring_back: bool) -> ActionResult:
        """Watch a training that was started elsewhere."""

        def work() -> ActionResult:
            run = self._presenter.run(run_name)
            launcher.watch_detached(self._start_of(run, bring_back, True))
            back = (
                " If it ends before its last epoch, it restarts automatically, whoever ended it. To end it, stop it "
                "here."
                if bring_back
                else ""
            )
            told = f"It is monitored from now on: each save is checked.{back}"
            return ActionResult(good_view(told), done=True)

        return guarded(work, TROUBLE)

    def set_bring_back(self, run_name: PageName, bring_back: bool) -> None:
        """Tell a watcher that is at work what to do at a crash; without one the next start is told."""
        try:
            run = self._presenter.run(run_name)
            status = self.status(run)
            if status.is_watched and status.record and status.record.bring_back != bring_back:
                send_request(run.facts.path, Request.BRING_BACK if bring_back else Request.LEAVE)
        except TROUBLE:
            return  # the box shows what holds at the next look

    def retry(self, run_name: PageName) -> ActionResult:
        """Let a crashed training that waits for its next start begin at once."""

        def work() -> ActionResult:
            run = self._presenter.run(run_name)
            return ActionResult(info_view(launcher.retry(run.facts.path)), done=True)

        return guarded(work, TROUBLE)

    def ask_stop(self, run_name: PageName) -> ActionResult:
        """What a stop would do, and the question whether to do it."""

        def work() -> ActionResult:
            status = self.status(self._presenter.run(run_name))
            if not status.is_running:
                return ActionResult(info_view("No training of this run is running."))
            lost = _lost_by_stop(status.progress)
            told = (
                f"Stop the training of “{run_name}”? The current save is finished first, then all its processes end."
                f"{lost}"
            )
            return ActionResult(warning_view(told), Confirmation(run_name, Asked.STOP))

        return guarded(work, TROUBLE)

    def answer(self, question: Confirmation) -> ActionResult:
        """Do what the question asked."""
        if question.asked in (Asked.FRESH, Asked.ELSEWHERE):
            return self.start(question.run, question.bring_back, fresh=True)
        if question.asked is Asked.FORCE:
            return self.start(question.run, question.bring_back, force=True)
        if question.asked is Asked.REMOVE:
            return guarded(lambda: self._remove(question), TROUBLE)

        def work() -> ActionResult:
            run = self._presenter.run(question.run)
            return ActionResult(info_view(launcher.stop(run.facts.path)), done=True)

        return guarded(work, TROUBLE)

    def disk(self, run: RunReport, recovery: RecoveryPlan) -> DiskView:
        """The disk against the saves to come, and what may go."""
        plan = plan_retention(run, recovery, in_use(run.facts.path, self._processes), links_in(run))
        choices = tuple(retention_choices(plan))
        forecast = disk_forecast(run)
        tight = forecast.is_enough is False
        kept = replaced_view(read_replaced(run.facts.path))
        return DiskView(retention_view(forecast, plan) + kept, choices, tight)

    def ask_remove(self, run_name: PageName, names: Sequence[PageName], layout: str) -> ActionResult:
        """Which checkpoints would be removed, and the question whether to do it."""

        def work() -> ActionResult:
            run = self._presenter.run(run_name, layout)
            auditor = self._presenter.auditor(layout)
            _, plan = look_again_at_run(auditor, run.name, lambda: in_use(run.facts.path))()
            removal = plan_removal(run, chosen_names(plan, names), plan)
            listed = ", ".join(f"{each.name} ({human_bytes(each.size_bytes)})" for each in removal.states)
            told = f"Remove for good: {listed}? Their LoRA files stay. This cannot be undone."
            return ActionResult(warning_view(told), Confirmation(run_name, Asked.REMOVE, removal=removal))

        return guarded(work, TROUBLE)

    def _remove(self, question: Confirmation) -> ActionResult:
        run = self._presenter.run(question.run)
        assert question.removal is not None  # noqa: S101 - a question of that kind has one
        look = look_again_at_run(self._presenter.auditor(), run.name, lambda: in_use(run.facts.path))
        removed = question.removal.execute(look)
        verb = "was" if len(removed.names) == 1 else "were"
        gone = f"{counted(len(removed.names), 'checkpoint')} {verb} removed"
        told = f"{gone}; {human_bytes(removed.freed_bytes)} freed."
        return ActionResult(good_view(told), done=True)


def _waits(status: TrainingStatus) -> bool:
    record = status.record
    return status.is_watched and record is not None and record.status is ProcessState.BACKOFF


def _ask_beginning(run: RunReport, bring_back: bool) -> ActionResult | None:
    """The question about where the training would begin, if there is reason for one."""
    lost, elsewhere = launcher.overwrites(run), launcher.begins_elsewhere(run)
    if not lost and not elsewhere:
        return None
    asked, act = (Asked.FRESH, "Begin at epoch 1") if lost else (Asked.ELSEWHERE, "Start it")
    told = " ".join(filter(None, (lost, elsewhere, f"{act} all the same?")))
    return ActionResult(warning_view(told), Confirmation(page_name(run.name), asked, bring_back=bring_back))


def _bring_back(record: TrainingRecord | None) -> bool:
    return record.bring_back if record is not None else True


def _lost_by_stop(progress: Progress) -> str:
    if progress.step is None or not progress.steps_per_epoch:
        return ""
    since = progress.step % progress.steps_per_epoch
    return f" You would have to retrain {counted(since, 'step')} of the current epoch." if since else ""


def _more(run: RunReport, status: TrainingStatus) -> Iterator[tuple[str, str]]:
    """What the run adds to the training's numbers: the next save, and the disk."""
    if status.is_running and (told := _next_save(run, status.progress)):
        yield "Next save", told
    if (free := free_bytes(run.facts.path)) is not None:
        yield "Disk left", human_bytes(free)


def _next_save(run: RunReport, progress: Progress) -> str:
    """When the next checkpoint is due: ``epoch 8, in 12 min 30 s``."""
    script = run.facts.script
    rules = save_rules(script, progress.epochs) if script else None
    if rules is None or progress.epoch is None or not rules.saves_states or not rules.every_epochs:
        return ""
    due = -(-progress.epoch // rules.every_epochs) * rules.every_epochs
    last = progress.epochs is not None and due >= progress.epochs
    name = "the end" if last else f"epoch {due}"
    if last and progress.epochs is not None:
        due = progress.epochs
    if progress.steps_per_epoch and progress.seconds_per_step and progress.step is not None:
        steps = max(0, due * progress.steps_per_epoch - progress.step)
        return f"{name}, in {human_seconds(steps * progress.seconds_per_step)}"
    return name
