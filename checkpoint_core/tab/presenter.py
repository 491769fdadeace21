"""What stands between the tab's handlers and the core: one call a handler, names in, HTML text out.

Names come from the browser and are only ever compared with what is on the disk, never made into a path.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from checkpoint_core.atomic_write import new_file
from checkpoint_core.audit import (
    Auditor,
    CheckpointReport,
    RunReport,
    UnknownName,
    Verdict,
    find_latest_resumable,
    run_summary,
    title_inside,
)
from checkpoint_core.recovery import Choices, RepairPlan, ResumeRefused, plan_recovery, resume, set_aside_from
from checkpoint_core.report import Diagnosis, diagnosis_for
from checkpoint_core.scripts import (
    SCRIPT_TROUBLE,
    Dialect,
    Receipt,
    ScriptChange,
    ScriptChangedSinceShown,
    plan_fresh,
    plan_resume,
    run_command,
)
from checkpoint_core.states import Layout, OutputsFolderError, RepairRecord
from checkpoint_core.tab import sample_images
from checkpoint_core.tab.background import BackgroundTasks
from checkpoint_core.tab.host import gym
from checkpoint_core.tab.host.carrying import Carried, Carrying, carry
from checkpoint_core.tab.interpreter_picker import InterpreterPicker
from checkpoint_core.tab.page_names import NOTHING, PageName, on_disk, page_name
from checkpoint_core.tab.repair_presenter import RepairPresenter
from checkpoint_core.tab.results import ActionResult, Asked, Confirmation, Written
from checkpoint_core.tab.training_presenter import DiskView, TrainingPresenter
from checkpoint_core.tab.views.actions import (
    done_view,
    error_view,
    fresh_view,
    info_view,
    preview_view,
    refusal_text,
)
from checkpoint_core.tab.views.markup import safe_name
from checkpoint_core.tab.views.panel import nothing_selected, panel_view
from checkpoint_core.tab.views.recovery import repair_view
from checkpoint_core.tab.views.table import headline_view, table_view

#: What can go wrong with a press on a run's script, each with a text for the user.
TROUBLE = (*SCRIPT_TROUBLE, ResumeRefused, UnknownName, OutputsFolderError)

#: The choices of layout: what is shown, and the name; any that is no layout's leaves it to the script.
LAYOUTS = (
    ("Automatic (from the train script)", "auto"),
    ("sd-scripts", Layout.SD_SCRIPTS.value),
    ("accelerate with registered objects", Layout.ACCELERATE_OBJECTS.value),
)
EMPTY_OUTPUTS = (
    "There are no runs yet. FluxGym writes one folder for each LoRA into “outputs”. To be able to resume, open "
    "“Advanced options” in the Gym tab and tick --save_state before you press “Start training”: each saved epoch "
    "then gets a checkpoint, which is listed here."
)


@dataclass(frozen=True)
class RunView:
    """All that the page shows of one run; every text is HTML.

    ``run`` is its name, empty where there is none to show; ``selected`` a checkpoint's name or empty.
    """

    run: PageName
    headline: str
    table: str
    options: str = ""
    panel: str = ""
    preview: str = ""
    selected: PageName = NOTHING
    resumes: bool = False
    refusal: str = ""
    change: ScriptChange | None = None
    repair_plan: RepairPlan | None = None
    disk: DiskView = field(default_factory=DiskView)


class TabPresenter:
    """What the tab's handlers call, for one outputs folder; safe to use from several threads.

    :param python: the training interpreter, where it was named when the tab was started.
    :param hosting: this process is FluxGym itself.
    """

    def __init__(self, outputs: Path | str, *, python: Path | None = None, hosting: bool = False) -> None:
        self.outputs = Path(outputs).absolute()
        self.python = InterpreterPicker(self.outputs.parent, python, hosting)
        self._auditors: dict[Layout | None, Auditor] = {}
        self.background = BackgroundTasks(self)
        self.repairs = RepairPresenter(self)
        self.training = TrainingPresenter(self)
        self._thumbnail = lru_cache(maxsize=256)(lambda path, _: sample_images.thumbnail(path))

    def auditor(self, layout: str = "") -> Auditor:
        """The auditor for a layout by its name; any other text leaves the choice to the script."""
        chosen = next((kind for kind in Layout if kind.value == layout), None)
        fresh = Auditor(self.outputs, chosen, environment=self.python.environment)
        return self._auditors.setdefault(chosen, fresh)

    def choices(self) -> list[tuple[str, PageName]]:
        """The runs for the picker, newest first: what is shown, and the name; none where the folder is missing."""
        try:
            newest = self.newest_first()
        except OutputsFolderError:
            return []
        return [
            (f"{safe_name(run.name)} ({safe_name(run_summary(run))})", page_name(run.name)) for run in newest
        ]

    def newest_first(self) -> list[RunReport]:
        """All runs, the one in which something was written last at the front.

        :raises OutputsFolderError: when the folder is missing.
        """
        return sorted(self.auditor().audit().runs, key=lambda run: run.facts.modified_ns, reverse=True)

    def run(self, name: PageName, layout: str = "") -> RunReport:
        """A run by the name that the page shows.

        :raises UnknownName: when it is no plain child of the outputs folder.
        :raises OutputsFolderError: when the folder is missing.
        """
        auditor = self.auditor(layout)
        real = on_disk(name, auditor.run_names())
        if real is None:
            raise UnknownName(
                f"There is no run “{name}” in {self.outputs}. It may have been removed; refresh."
            )
        return auditor.audit_run(real)

    def checkpoint(self, run: RunReport, name: PageName) -> CheckpointReport:
        """A checkpoint by the name that the page shows.

        :raises UnknownName: when the run has none of that name.
        """
        real = on_disk(name, (item.name for item in run.checkpoints))
        if real is None:
            raise UnknownName(
                f"The run “{safe_name(run.name)}” has no checkpoint “{name}”. It may have been removed."
            )
        return run.checkpoint(real)

    def show(
        self,
        run_name: PageName,
        selected: PageName,
        sort: str,
        layout: str = "",
        choices: Choices | None = None,
    ) -> RunView:
        """A run's page. Where the selected checkpoint is gone, the one that is best to resume takes its place.

        Where none resumes, that is the newest that needs a fix.
        """
        choices = choices or Choices()
        if not run_name:
            return RunView(NOTHING, info_view(self._nothing()), "")
        try:
            run = self.run(run_name, layout)
        except (UnknownName, OutputsFolderError) as error:
            return RunView(NOTHING, error_view(str(error)), "")
        names = {page_name(item.name) for item in run.checkpoints}
        if selected not in names:
            best = find_latest_resumable(run).checkpoint or next(iter(_repairable(run)), None)
            selected = page_name(best.name) if best else NOTHING
        recovery = self.repairs.recovery(run, layout, choices)
        view = RunView(
            run_name,
            headline_view(run),
            table_view(run, selected, sort),
            self.repairs.options(run, recovery),
            disk=self.training.disk(run, recovery),
        )
        if not selected:
            return replace(view, panel=nothing_selected(bool(names)))
        return self._with_panel(view, run, self.checkpoint(run, selected), layout, choices)

    def _nothing(self) -> str:
        try:
            return EMPTY_OUTPUTS if not self.auditor().run_names() else "Choose a run."
        except OutputsFolderError as error:
            return str(error)

    def _with_panel(
        self, view: RunView, run: RunReport, item: CheckpointReport, layout: str, choices: Choices
    ) -> RunView:
        change, preview, resumes = None, "", item.verdict.resumes
        repair_plan = self.repairs.repair_plan(run, item, layout, choices)
        refusal = refusal_text(item)
        if resumes:
            try:
                change = plan_resume(run.facts.path, item.name)
                preview = preview_view(change.diff, _notes(change, set_aside_from(run, item).sentence))
            except TROUBLE as error:
                resumes, refusal = False, "The train script cannot be changed; see below."
                preview = error_view(str(error))
        found = sample_images.find_samples(item, self.outputs)
        images = (self._thumbnail(sample.path, sample.modified_ns) for sample in found)
        panel = panel_view(item, [image for image in images if image])
        return replace(
            view,
            panel=panel + self.repairs.repaired(run, item),
            preview=preview + (repair_view(repair_plan) if repair_plan else ""),
            selected=page_name(item.name),
            resumes=resumes,
            refusal=refusal,
            change=change,
            repair_plan=repair_plan,
        )

    def resume(
        self, run_name: PageName, selected: PageName, shown: ScriptChange | None, layout: str = ""
    ) -> ActionResult:
        """Check the checkpoint once more and write what was shown; where the script changed since, nothing."""
        try:
            run = self.run(run_name, layout)
            item = self.checkpoint(run, selected)
            done = resume(run, item, shown)
            what = f"The train script now resumes from {title_inside(item)}."
            return self._done(what, run, *done, item.facts.path)
        except TROUBLE as error:
            return ActionResult(error_view(str(error)))

    def resume_shown(self, view: RunView | None, layout: str = "") -> ActionResult:
        """:meth:`resume` of what a page showed; ``None`` where it has not been shown anything by this process."""
        if view is None:
            told = "This page was out of date. It is up to date now: look again, then press again."
            return ActionResult(info_view(told))
        return self.resume(view.run, view.selected, view.change, layout)

    def resume_now(self, view: RunView | None, layout: str, bring_back: bool) -> ActionResult:
        """Write what a page showed into the script and start the training; nothing where it cannot be started."""
        if view is not None and (trouble := self.training.may_start(view.run)):
            return ActionResult(trouble)
        written = self.resume_shown(view, layout)
        if view is None or not written.written:
            return written
        try:
            started = self.training.start(view.run, bring_back)
        except Exception as error:  # noqa: BLE001 - the script is written, and what reverts it must not be lost
            told = f"The train script was changed, but the training could not be started: {error}"
            return replace(written, message=written.message + error_view(told))
        message = started.message if started.done else written.message + started.message
        return replace(written, message=message, question=started.question)

    def start_fresh(self, run_name: PageName, shown: ScriptChange | None) -> ActionResult:
        """Remove ``--resume`` from the run's script as it was shown; where the script changed since, nothing."""
        try:
            run = self.run(run_name)
            change = plan_fresh(run.facts.path)
            if shown is None or not shown.writes_as(change):
                raise ScriptChangedSinceShown(change.path)
            what = "The train script now starts from the beginning: --resume is gone."
            return self._done(what, run, change, change.execute(), None)
        except TROUBLE as error:
            return ActionResult(error_view(str(error)))

    def _done(
        self, what: str, run: RunReport, change: ScriptChange, receipt: Receipt, state: Path | None
    ) -> ActionResult:
        backup = receipt.backup.name if receipt.backup else None
        lines = (*change.summary, *change.notes) if not change.is_noop else ("The script already said so.",)
        run_it = run_command(change.path, run.facts.script.output_dir if run.facts.script else None)
        message = done_view(what, run_it.command, run_it.folder, backup, lines)
        return ActionResult(
            message, written=True, receipt=None if change.is_noop else receipt, state_path=state
        )

    def repair_shown(self, view: RunView | None, layout: str = "") -> ActionResult:
        """Carry out the repair that a page showed; where anything changed since, nothing."""
        run_name, repair_plan = (view.run, view.repair_plan) if view else (NOTHING, None)
        return self._with_target(self.repairs.repair(run_name, layout, repair_plan), run_name)

    def answer(self, run_name: PageName, question: Confirmation | None) -> ActionResult:
        """Do what a question asked."""
        if question is None or question.asked in (Asked.OPTION, Asked.UNDO, Asked.RESTORE, Asked.DISCARD):
            return self._with_target(self.repairs.answer(question), run_name)
        return self.training.answer(question)

    def _with_target(self, result: ActionResult, run_name: PageName) -> ActionResult:
        """With what the script resumes from now, where something was written."""
        return replace(result, state_path=self._present_target(run_name)) if result.written else result

    def undo(self, run_name: PageName, receipt: Receipt | RepairRecord | None) -> ActionResult:
        """Bring back what a press changed, unless somebody changed it since."""
        if isinstance(receipt, RepairRecord):
            result = self.repairs.undo(run_name, receipt)
            return replace(self._with_target(result, run_name), receipt=None if result.written else receipt)
        if receipt is None:  # a second press, while the first was being carried out
            return ActionResult(info_view("There is nothing to undo."))
        try:
            receipt.undo()
        except (*TROUBLE, LookupError) as error:
            return ActionResult(error_view(str(error)), receipt=receipt)
        return ActionResult(
            info_view(f"{receipt.path.name} is as it was before."),
            state_path=self._present_target(page_name(receipt.path.parent.name)),
            written=True,
            is_undo=True,
        )

    def _present_target(self, run_name: PageName) -> Path | None:
        """The state that a run's script resumes from now, if it is one of its run."""
        try:
            run = self.run(run_name)
            return run.checkpoint(run.facts.resume_target.state_name or "").facts.path
        except Exception:  # noqa: BLE001 - something was written, and what reverts it must not be lost
            return None

    def preview_fresh(self, run_name: PageName) -> tuple[str, ScriptChange | None]:
        """What “Start fresh” would change, as HTML and as the change; ``None`` where there is nothing to change."""
        try:
            change = plan_fresh(self.run(run_name).facts.path)
        except TROUBLE as error:
            return error_view(str(error)), None
        if change.is_noop:
            told = "The train script has no --resume: it starts from the beginning already."
            return info_view(told), None
        return fresh_view(change.diff), change

    def carry(
        self,
        host: gym.Gym,
        values: Sequence[Any],
        run_name: PageName,
        written: Written,
        carried: Carried | None = None,
    ) -> Carrying:
        """:func:`checkpoint_core.tab.host.carrying.carry` of a run's script as it is now.

        :param written: what was written into the script.
        :param carried: what was carried before.
        """
        try:
            run = self.run(run_name)
            path, script = run.facts.path, run.facts.script
        except (UnknownName, OutputsFolderError):
            path, script = self.outputs / str(run_name), None
        box = gym.box_value(written.state_path, Dialect.BAT if os.name == "nt" else Dialect.SH)
        if safe_name(path.name + box) != path.name + box:
            told = "it cannot hold a name whose bytes are no UTF-8. Run the script as shown."
            return Carrying(None, f"The Gym tab was left alone: {told}", carried)
        return carry(host, values, path, box, script, carried, is_undo=written.is_undo)

    def diagnosis(self, run_name: PageName, layout: str = "") -> Diagnosis:
        """The report of a run.

        :raises UnknownName: when there is no such run.
        :raises OutputsFolderError: when the outputs folder is missing.
        """
        run = self.run(run_name, layout)
        return diagnosis_for(run, plan_recovery(self.auditor(layout), run))

    def diagnosis_file(self, run_name: PageName, layout: str = "") -> Path:
        """The report of a run as a zip file, in a temporary folder of its own.

        :raises UnknownName: when there is no such run.
        :raises OutputsFolderError: when the outputs folder is missing.
        :raises WriteFailed: when the temporary folder cannot be written to.
        """
        report = self.diagnosis(run_name, layout)
        return new_file(
            Path(tempfile.mkdtemp(prefix="fluxgym-diagnosis-"), report.file_name), report.zip_bytes
        )


def _notes(change: ScriptChange, set_aside: str) -> tuple[str, ...]:
    """What to know of a change, and what is set aside before the training that it leads to."""
    return (*change.notes, set_aside) if set_aside else change.notes


def _repairable(run: RunReport) -> Iterator[CheckpointReport]:
    """The checkpoints that a fix would let resume, newest first: their panel says which."""
    return (item for item in run.checkpoints if item.verdict is Verdict.NEEDS_FIX)
