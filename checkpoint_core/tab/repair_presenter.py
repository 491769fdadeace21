"""What the tab does with repairs and ways on: shows them, asks, carries them out, takes them back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from checkpoint_core.audit.auditor import Auditor, CheckpointReport
from checkpoint_core.audit.reports import RunReport, UnknownName
from checkpoint_core.audit.wording import title_inside
from checkpoint_core.recovery import transaction as workshop
from checkpoint_core.recovery.options import Kind, Recovery, Way
from checkpoint_core.recovery.planning import change_of, look_again, mend_of, plan_recovery, take
from checkpoint_core.recovery.repair import Choices, Mend, MendFailed
from checkpoint_core.recovery.resume import ResumeRefused
from checkpoint_core.recovery.transaction import NothingToUndo, StateChangedSinceShown
from checkpoint_core.scripts.change import SCRIPT_TROUBLE, Receipt, ScriptChange
from checkpoint_core.scripts.paths import run_command
from checkpoint_core.scripts.script import find_script
from checkpoint_core.states.discovery import OutputsFolderError
from checkpoint_core.states.repair_records import RecordUnusable, RepairRecord, read_records
from checkpoint_core.tab.lookup import Names
from checkpoint_core.tab.page_names import PageName, page_name
from checkpoint_core.tab.views import actions as action_view
from checkpoint_core.tab.views import recovery as ways_view

#: What can go wrong with a repair, each with a text for the user.
TROUBLE = (
    *SCRIPT_TROUBLE,
    UnknownName,
    OutputsFolderError,
    StateChangedSinceShown,
    NothingToUndo,
    RecordUnusable,
    MendFailed,
    ResumeRefused,
)


@dataclass(frozen=True)
class Question:
    """What the user is asked before a way is gone, or a repair taken back: that was shown, and that alone is done."""

    run: PageName
    layout: str = ""
    way: Way | None = None
    change: ScriptChange | None = None
    undo: RepairRecord | None = None


@dataclass(frozen=True)
class Done:
    """What was done, as HTML; ``undo`` takes it back, ``written`` whether anything was changed on the disk."""

    message: str
    undo: Receipt | RepairRecord | None = None
    written: bool = False


def _fits_script(mend: Mend | None) -> bool:
    """Whether the train script is still the one of the plan: an edit of a comment changes no fact, but the bytes."""
    change = mend.plan.script if mend else None
    return change is None or (change.path.is_file() and change.path.read_bytes() == change.before)


class RepairDesk:
    """The repairs of one desk."""

    def __init__(self, desk: Names) -> None:
        self._desk = desk
        self._planned: dict[Path, tuple[CheckpointReport, Choices, Mend | None]] = {}

    def _plan(
        self, auditor: Auditor, run: RunReport, item: CheckpointReport, choices: Choices | None
    ) -> Mend | None:
        """A repair, planned anew only where the checkpoint was judged anew: a page asks every ten seconds."""
        chosen = choices or Choices()
        known = self._planned.get(item.facts.path)
        if known is None or known[0] is not item or known[1] != chosen or not _fits_script(known[2]):
            known = self._planned[item.facts.path] = (item, chosen, mend_of(auditor, run, item, chosen))
        return known[2]

    def recovery(self, run: RunReport, layout: str, choices: Choices) -> Recovery:
        """The ways on for a run, repairs planned anew only where something changed."""
        return plan_recovery(self._desk.auditor(layout), run, choices, self._plan)

    def ways(self, run: RunReport, layout: str, choices: Choices) -> str:
        """The ways on for a run, as HTML; nothing for a run that has neither a checkpoint nor a LoRA file."""
        recovery = self.recovery(run, layout, choices)
        shown = (
            ways_view.ways_view(recovery) if any(way.kind is not Kind.FRESH for way in recovery.ways) else ""
        )
        return self._interrupted(run) + shown

    def _interrupted(self, run: RunReport) -> str:
        try:
            half = [record for record in read_records(run.facts.path) if record.is_interrupted]
        except RecordUnusable:
            return ""
        return ways_view.interrupted_view(half) if half else ""

    def mend(self, run: RunReport, item: CheckpointReport, layout: str, choices: Choices) -> Mend | None:
        """The repair of a checkpoint that would change something, if one is known."""
        mend = self._plan(self._desk.auditor(layout), run, item, choices)
        return mend if mend is not None and mend.is_needed else None

    def repaired(self, run: RunReport, item: CheckpointReport) -> str:
        """That a checkpoint was repaired, as HTML; empty where it was not."""
        try:
            record = workshop.undoable(run.facts.path, item.name)
        except RecordUnusable as error:
            return action_view.error_view(str(error))
        return ways_view.repaired_view(record) if record else ""

    def repair(self, run_name: PageName, layout: str, shown: Mend | None) -> Done:
        """Carry out what was shown of a checkpoint's repair; where anything changed since, nothing."""
        if shown is None:
            return Done(action_view.info_view("There is nothing to repair any more; look again."))
        return self._guarded(lambda: self._repair(run_name, layout, shown))

    def _repair(self, run_name: PageName, layout: str, mend: Mend) -> Done:
        run = self._desk.run(run_name, layout)
        auditor = self._desk.auditor(layout)
        # No further look: were it to fail, the repair would stand behind an error, and nothing could take it back.
        record = mend.execute(look_again(auditor, run.name, mend.checkpoint.name))
        return Done(self._told(run, mend.after, mend.does), record, written=True)

    def _told(self, run: RunReport, item: CheckpointReport, lines: tuple[str, ...]) -> str:
        script = find_script(run.facts.path)
        what = f"Repaired. The train script now resumes from {title_inside(item)}."
        if script is None:
            return action_view.info_view("Repaired.")
        run_it = run_command(script, run.facts.script.output_dir if run.facts.script else None)
        return action_view.done_view(what, run_it.command, run_it.folder, None, lines)

    def ask(
        self, run_name: PageName, selected: PageName, wanted: str, layout: str, choices: Choices
    ) -> tuple[str, Question | None]:
        """What a way, by its number, would change, or what an undo would bring back; and the question to answer."""
        told: list[Question] = []

        def work() -> Done:
            run = self._desk.run(run_name, layout)
            if wanted == ways_view.FINISH:
                return self._finish(run)
            if wanted == ways_view.UNDO:
                message, question = self._ask_undo(run, self._desk.checkpoint(run, selected))
            else:
                message, question = self._ask_way(run, wanted, layout, choices)
            told.append(question)
            return Done(message)

        message = self._guarded(work).message
        return message, told[0] if told else None

    def _finish(self, run: RunReport) -> Done:
        """Finish what was interrupted: it was asked for then, and needs no second question."""
        names = ", ".join(record.state for record in workshop.settle(run.facts.path))
        return Done(action_view.info_view(f"Finished: {names or 'nothing was left to do'}."))

    def _ask_undo(self, run: RunReport, item: CheckpointReport) -> tuple[str, Question]:
        record = workshop.undoable(run.facts.path, item.name)
        if record is None:
            raise NothingToUndo("This repair was taken back already. Nothing was changed.")
        keeps = workshop.keeps_its_script(run.facts.path, record)
        return ways_view.undo_question(record, keeps), Question(page_name(run.name), undo=record)

    def _ask_way(self, run: RunReport, wanted: str, layout: str, choices: Choices) -> tuple[str, Question]:
        ways = self.recovery(run, layout, choices).ways
        number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 4 else 0
        if not 1 <= number <= len(ways):
            raise UnknownName("That way is not there any more; look at the list again.")
        way = ways[number - 1]
        change = change_of(run, way)
        return ways_view.question_view(way, change.diff if change else ""), Question(
            page_name(run.name), layout, way, change
        )

    def answer(self, question: Question | None) -> Done:
        """Do what the question asked; where anything changed since, nothing."""
        if question is None:
            return Done(action_view.info_view("There is nothing to do any more; look again."))
        if question.undo is not None:
            return self.undo(question.run, question.undo)
        return self._guarded(lambda: self._take(question))

    def _take(self, question: Question) -> Done:
        assert question.way is not None  # noqa: S101 - a question is about a way or an undo
        if question.way.mend is not None:
            return self._repair(question.run, question.layout, question.way.mend)
        auditor = self._desk.auditor(question.layout)
        run = self._desk.run(question.run, question.layout)
        look = look_again(auditor, run.name, question.way.checkpoint)
        taken = take(question.way, question.change, look)
        script = find_script(run.facts.path)
        run_it = run_command(
            script or run.facts.path, run.facts.script.output_dir if run.facts.script else None
        )
        backup = taken.receipt.backup.name if taken.receipt and taken.receipt.backup else None
        lines = (*question.change.summary, *question.change.notes) if question.change else ()
        what = f"Done: {question.way.title[0].lower()}{question.way.title[1:]}."
        undo = taken.receipt if question.change and not question.change.is_noop else None
        message = action_view.done_view(what, run_it.command, run_it.folder, backup, lines)
        return Done(message, undo, written=True)

    def undo(self, run_name: PageName, record: RepairRecord) -> Done:
        """Take a repair back."""

        def work() -> Done:
            run = self._desk.run(run_name)
            keeps = workshop.keeps_its_script(run.facts.path, record)
            workshop.undo(run.facts.path, record.id)
            left = f" {record.script.name} was changed since and is left." if record.script and keeps else ""
            return Done(
                action_view.info_view(f"{record.state} is as it was before the repair.{left}"), written=True
            )

        return self._guarded(work)

    def _guarded(self, work: Callable[[], Done]) -> Done:
        try:
            return work()
        except TROUBLE as error:
            return Done(action_view.error_view(str(error)))
