"""What the tab does with repairs and recovery options: shows them, asks, carries them out, reverts them."""

from __future__ import annotations

from pathlib import Path

from checkpoint_core.audit import Auditor, CheckpointReport, RunReport, UnknownName, title_inside
from checkpoint_core.recovery import (
    Choices,
    NothingToRestore,
    NothingToUndo,
    OptionKind,
    RecoveryPlan,
    RepairFailed,
    RepairPlan,
    ResumeRefused,
    StateChangedSinceShown,
    apply_option,
    change_of,
    look_again,
    plan_recovery,
    repair_of,
    transaction,
)
from checkpoint_core.scripts import SCRIPT_TROUBLE, find_script, run_command
from checkpoint_core.states import OutputsFolderError, RecordUnusable, RepairRecord, read_records
from checkpoint_core.tab.lookup import RunLookup
from checkpoint_core.tab.page_names import PageName, page_name
from checkpoint_core.tab.replaced_presenter import answer_replaced, ask_replaced, is_about_replaced
from checkpoint_core.tab.results import ActionResult, Asked, Confirmation, guarded
from checkpoint_core.tab.views.actions import done_view, error_view, info_view
from checkpoint_core.tab.views.recovery import (
    FINISH,
    UNDO,
    interrupted_view,
    question_view,
    recovery_view,
    repaired_view,
    undo_question,
)
from checkpoint_core.training import CannotStart

#: What can go wrong with a repair, each with a text for the user.
TROUBLE = (
    *SCRIPT_TROUBLE,
    UnknownName,
    OutputsFolderError,
    StateChangedSinceShown,
    NothingToUndo,
    RecordUnusable,
    RepairFailed,
    ResumeRefused,
    NothingToRestore,
    CannotStart,
)


#: Repairs that are remembered: more than the open pages show, however many runs come and go.
_MOST_PLANNED = 100


def _fits_script(repair_plan: RepairPlan | None) -> bool:
    """Whether the train script is still the one of the plan: an edit of a comment changes no fact, but the bytes."""
    change = repair_plan.plan.script if repair_plan else None
    return change is None or change.is_current


class RepairPresenter:
    """The repairs of one page."""

    def __init__(self, presenter: RunLookup) -> None:
        self._presenter = presenter
        self._planned: dict[Path, tuple[CheckpointReport, Choices, RepairPlan | None]] = {}

    def _plan(
        self, auditor: Auditor, run: RunReport, item: CheckpointReport, choices: Choices | None
    ) -> RepairPlan | None:
        """A repair, planned anew only where the checkpoint was judged anew: a page asks every ten seconds."""
        chosen = choices or Choices()
        known = self._planned.get(item.facts.path)
        if known is None or known[0] is not item or known[1] != chosen or not _fits_script(known[2]):
            known = self._planned[item.facts.path] = (item, chosen, repair_of(auditor, run, item, chosen))
            for oldest in list(self._planned)[:-_MOST_PLANNED]:
                self._planned.pop(oldest, None)
        return known[2]

    def recovery(self, run: RunReport, layout: str, choices: Choices) -> RecoveryPlan:
        """The recovery options for a run, repairs planned anew only where something changed."""
        return plan_recovery(self._presenter.auditor(layout), run, choices, self._plan)

    def options(self, run: RunReport, recovery: RecoveryPlan) -> str:
        """The recovery options for a run, as HTML; nothing for a run that has neither a checkpoint nor a LoRA file."""
        shown = (
            recovery_view(recovery)
            if any(option.kind is not OptionKind.FRESH for option in recovery.options)
            else ""
        )
        return self._interrupted(run) + shown

    def _interrupted(self, run: RunReport) -> str:
        try:
            half = [record for record in read_records(run.facts.path) if record.is_interrupted]
        except RecordUnusable:
            return ""
        return interrupted_view(half) if half else ""

    def repair_plan(
        self, run: RunReport, item: CheckpointReport, layout: str, choices: Choices
    ) -> RepairPlan | None:
        """The repair of a checkpoint that would change something, if one is known."""
        repair_plan = self._plan(self._presenter.auditor(layout), run, item, choices)
        return repair_plan if repair_plan is not None and repair_plan.is_needed else None

    def repaired(self, run: RunReport, item: CheckpointReport) -> str:
        """That a checkpoint was repaired, as HTML; empty where it was not."""
        try:
            record = transaction.undoable(run.facts.path, item.name)
        except RecordUnusable as error:
            return error_view(str(error))
        return repaired_view(record) if record else ""

    def repair(self, run_name: PageName, layout: str, shown: RepairPlan | None) -> ActionResult:
        """Carry out what was shown of a checkpoint's repair; where anything changed since, nothing."""
        if shown is None:
            return ActionResult(info_view("There is nothing left to repair; look again."))
        return guarded(lambda: self._repair(run_name, layout, shown), TROUBLE)

    def _repair(self, run_name: PageName, layout: str, repair_plan: RepairPlan) -> ActionResult:
        run = self._presenter.run(run_name, layout)
        auditor = self._presenter.auditor(layout)
        # Nothing is looked up after it: were that to fail, the repair would stand behind an error, and nothing could
        # take it back.
        message = self._told(run, repair_plan.after, repair_plan.does)
        record = repair_plan.execute(look_again(auditor, run.name, repair_plan.checkpoint.name))
        return ActionResult(message, written=True, receipt=record)

    def _told(self, run: RunReport, item: CheckpointReport, lines: tuple[str, ...]) -> str:
        script = find_script(run.facts.path)
        what = f"Repaired. The train script now resumes from {title_inside(item)}."
        if script is None:
            return info_view("Repaired.")
        run_it = run_command(script, run.facts.script.output_dir if run.facts.script else None)
        return done_view(what, run_it.command, run_it.folder, None, lines)

    def ask(
        self, run_name: PageName, selected: PageName, wanted: str, layout: str, choices: Choices
    ) -> tuple[str, Confirmation | None]:
        """What an option, by its number, would change, or what an undo would bring back; and the question to answer."""
        told: list[Confirmation] = []

        def work() -> ActionResult:
            run = self._presenter.run(run_name, layout)
            if wanted == FINISH:
                return self._finish(run)
            if wanted == UNDO:
                message, question = self._ask_undo(run, self._presenter.checkpoint(run, selected))
            elif is_about_replaced(wanted):
                message, question = ask_replaced(run, wanted)
            else:
                message, question = self._ask_option(run, wanted, layout, choices)
            told.append(question)
            return ActionResult(message)

        message = guarded(work, TROUBLE).message
        return message, told[0] if told else None

    def _finish(self, run: RunReport) -> ActionResult:
        """Finish what was interrupted: it was asked for then, and needs no second question."""
        names = ", ".join(record.state for record in transaction.finish_interrupted(run.facts.path))
        return ActionResult(info_view(f"Finished: {names or 'nothing was left to do'}."))

    def _ask_undo(self, run: RunReport, item: CheckpointReport) -> tuple[str, Confirmation]:
        record = transaction.undoable(run.facts.path, item.name)
        if record is None:
            raise NothingToUndo("This repair was already reverted. Nothing was changed.")
        keeps = transaction.keeps_its_script(run.facts.path, record)
        return undo_question(record, keeps), Confirmation(page_name(run.name), Asked.UNDO, undo=record)

    def _ask_option(
        self, run: RunReport, wanted: str, layout: str, choices: Choices
    ) -> tuple[str, Confirmation]:
        options = self.recovery(run, layout, choices).options
        number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 4 else 0
        if not 1 <= number <= len(options):
            raise UnknownName("That option is not there any more; look at the list again.")
        option = options[number - 1]
        change = change_of(run, option)
        return question_view(option, change.diff if change else ""), Confirmation(
            page_name(run.name), Asked.OPTION, layout, option, change
        )

    def answer(self, question: Confirmation | None) -> ActionResult:
        """Do what the question asked; where anything changed since, nothing."""
        if question is None:
            return ActionResult(info_view("There is nothing left to do; look again."))
        if question.undo is not None:
            return self.undo(question.run, question.undo)
        if question.replaced is not None:
            return guarded(lambda: answer_replaced(self._presenter.run(question.run), question), TROUBLE)
        return guarded(lambda: self._apply_option(question), TROUBLE)

    def _apply_option(self, question: Confirmation) -> ActionResult:
        assert question.option is not None  # noqa: S101 - a question of that kind has one
        if question.option.repair_plan is not None:
            return self._repair(question.run, question.layout, question.option.repair_plan)
        auditor = self._presenter.auditor(question.layout)
        run = self._presenter.run(question.run, question.layout)
        look = look_again(auditor, run.name, question.option.checkpoint)
        script = find_script(run.facts.path)
        run_it = run_command(
            script or run.facts.path, run.facts.script.output_dir if run.facts.script else None
        )
        applied = apply_option(question.option, question.change, look)
        backup = applied.receipt.backup.name if applied.receipt and applied.receipt.backup else None
        lines = (*question.change.summary, *question.change.notes) if question.change else ()
        what = f"Done: {question.option.title[0].lower()}{question.option.title[1:]}."
        undo = applied.receipt if question.change and not question.change.is_noop else None
        message = done_view(what, run_it.command, run_it.folder, backup, lines)
        return ActionResult(message, written=True, receipt=undo)

    def undo(self, run_name: PageName, record: RepairRecord) -> ActionResult:
        """Take a repair back."""

        def work() -> ActionResult:
            run = self._presenter.run(run_name)
            keeps = transaction.keeps_its_script(run.facts.path, record)
            transaction.undo(run.facts.path, record.id)
            told = " ".join(transaction.restored(record, keeps))
            return ActionResult(info_view(told), written=True, is_undo=True)

        return guarded(work, TROUBLE)
