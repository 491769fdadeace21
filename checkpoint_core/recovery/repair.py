"""Everything that lets one checkpoint resume: its files repaired, the script's flags set, ``--resume`` written.

The state is judged as it will be before anything is written, and again when it is: a repair that does not do what it
promised is reverted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from checkpoint_core.audit import Auditor, CheckpointReport, RunReport, Verdict, judge
from checkpoint_core.recovery import transaction
from checkpoint_core.recovery.changes import ChangeSet
from checkpoint_core.recovery.fix import FixChoices, ScriptFix
from checkpoint_core.recovery.script_fixes import script_fixes
from checkpoint_core.recovery.state_fixes import fixed_state
from checkpoint_core.scripts import ScriptChange, TrainScript, dialect_of, plan_resume, script_facts
from checkpoint_core.states import RepairRecord
from checkpoint_core.trainer import forecast_sentence

#: More than anybody trains; a number from a page is held against it.
MAX_EPOCHS = 1_000_000


class RepairFailed(RuntimeError):
    """The repaired checkpoint would not resume after all, or could not be judged.

    Everything is as it was, or, where even that failed, the text says so and where the originals are kept.
    """


@dataclass(frozen=True)
class Choices:
    """What is the user's to choose: where a wrong epoch is corrected, and what the script's cures leave open.

    ``epoch_in_state`` corrects it in ``train_state.json``; by default the script says it and the state is left alone.
    """

    epoch_in_state: bool = False
    script: FixChoices = field(default_factory=FixChoices)

    @classmethod
    def of(cls, epoch_in_state: bool, more_epochs: float | None, skip: bool = False) -> Choices:
        """The choices as a page sends them; a number of epochs that is none gives the default."""
        is_count = more_epochs is not None and 1 <= more_epochs < MAX_EPOCHS
        epochs = int(more_epochs or 0) if is_count else FixChoices().more_epochs
        return cls(bool(epoch_in_state), FixChoices(epochs, bool(skip)))


@dataclass(frozen=True)
class RepairPlan:
    """A plan that lets a checkpoint resume; ``after`` is the checkpoint as it will then be judged."""

    checkpoint: CheckpointReport
    plan: ChangeSet
    fixes: tuple[ScriptFix, ...]
    after: CheckpointReport

    @property
    def changes_state(self) -> bool:
        """Whether files of the state are written."""
        return bool(self.plan.files)

    @property
    def is_needed(self) -> bool:
        """Whether anything is repaired; else it is a plain resume."""
        return self.changes_state or bool(self.fixes)

    @property
    def more_epochs(self) -> int | None:
        """How many epochs a finished run trains further, where the script is changed for that."""
        if not any(cure.code == "run-finished" for cure in self.fixes):
            return None
        return self.after.forecast.epochs_left if self.after.forecast else None

    @property
    def does(self) -> tuple[str, ...]:
        """What is changed, one sentence each."""
        return (*self.plan.lines, *(cure.does for cure in self.fixes))

    @property
    def costs(self) -> tuple[str, ...]:
        """What is lost; empty where nothing is."""
        told = (*(file.costs for file in self.plan.files), *(cure.costs for cure in self.fixes))
        return tuple(dict.fromkeys(each for each in told if each))

    @property
    def notes(self) -> tuple[str, ...]:
        """What else to know."""
        told = (*(cure.note for cure in self.fixes), *(self.plan.script.notes if self.plan.script else ()))
        return tuple(dict.fromkeys(each for each in told if each))

    @property
    def forecast(self) -> str:
        """What the resumed run will do, in one sentence."""
        return forecast_sentence(self.after.forecast) if self.after.forecast else ""

    @property
    def diff(self) -> str:
        """The change of the train script; empty where there is none."""
        return self.plan.script.diff if self.plan.script else ""

    def execute(self, look: Callable[[], CheckpointReport]) -> RepairRecord:
        """Carry it out.

        :param look: judges the checkpoint as it then lies on the disk; whatever it raises, the repair is reverted.
        :raises RepairFailed: when it would not resume after all, or ``look`` could not tell.
        :raises StateChangedSinceShown, ScriptChangedSinceShown, WriteFailed, RecordUnusable: nothing was changed.
        """
        record = transaction.apply(self.plan)
        try:
            now = look()
        except Exception as error:
            why = f"After the repair it could not be judged ({_in_words(error)})."
            raise RepairFailed(f"{why} {_taken_back(self.plan.run, record, why)}") from error
        except BaseException:  # the program is being ended
            _taken_back(self.plan.run, record, "The repair was cancelled.")
            raise
        if not now.verdict.resumes:
            told = now.findings[0].message if now.findings else ""
            why = f"After the repair it would still not resume ({told})."
            raise RepairFailed(f"{why} {_taken_back(self.plan.run, record, why)}")
        return record


def _taken_back(run: Path, record: RepairRecord, why: str) -> str:
    """Take a repair back that failed, and say so.

    :raises RepairFailed: when that fails too.
    """
    keeps = False
    try:
        keeps = transaction.keeps_its_script(run, record)
        transaction.undo(run, record.id)
    except Exception as error:
        raise RepairFailed(
            f"{why} The repair could not be reverted either ({_in_words(error)}): {record.state} is repaired, in "
            f"whole or in part. The originals are kept in {transaction.originals(run, record)}."
        ) from error
    if keeps and record.script is not None:
        return f"{record.state} is as it was before; {record.script.name} was changed meanwhile and is left as it is."
    return "Everything is as it was before."


def _in_words(error: Exception) -> str:
    """An error for a sentence in brackets; what says nothing by itself is named."""
    return str(error).strip().rstrip(".") or type(error).__name__


def plan_repair(
    auditor: Auditor, run: RunReport, checkpoint: CheckpointReport, choices: Choices | None = None
) -> RepairPlan | None:
    """Everything that lets a checkpoint resume; ``None`` where what is known here is not enough.

    :raises NoScript, ScriptNotUnderstood, InexpressiblePath: when the script cannot be changed.
    """
    if checkpoint.verdict is Verdict.SAVING or checkpoint.facts.problem is not None:
        return None
    choices = choices or Choices()
    context = auditor.context(checkpoint)
    fixed = fixed_state(checkpoint, context.script, choices.epoch_in_state)
    # Judged again only where it is another case: a file is written, or a rehearsal of the state as it is counted.
    between = judge(fixed.facts, context) if fixed.files or checkpoint.rehearsal else checkpoint
    fixes = script_fixes(between, context.script, choices.script) if context.script else ()
    change = _change(run, checkpoint, fixes)
    script = script_facts(TrainScript.parse(change.after, dialect_of(change.path)), change.path.name)
    # `--resume` alone says nothing about a checkpoint: a plain resume need not be judged again.
    after = judge(fixed.facts, replace(context, script=script)) if fixes else between
    if not after.verdict.resumes:
        return None
    plan = ChangeSet(run.facts.path, checkpoint.facts.path, checkpoint.facts.files, fixed.files, change)
    return RepairPlan(checkpoint, plan, fixes, after)


def _change(run: RunReport, checkpoint: CheckpointReport, fixes: tuple[ScriptFix, ...]) -> ScriptChange:
    edits = tuple(edit for cure in fixes for edit in cure.edits)
    return plan_resume(run.facts.path, checkpoint.name, edits=edits)
