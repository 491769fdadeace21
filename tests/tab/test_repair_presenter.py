"""Repairs and recovery options on the page: shown, asked, done, reverted, refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.reports import CheckpointReport, RunReport, UnknownName
from checkpoint_core.recovery.options import RecoveryPlan
from checkpoint_core.recovery.repair import Choices, RepairPlan
from checkpoint_core.states.repair_records import (
    APPLYING,
    RepairRecord,
    read_records,
    with_status,
    write_record,
)
from checkpoint_core.tab import repair_presenter
from checkpoint_core.tab.presenter import TabPresenter
from checkpoint_core.tab.views.recovery import FINISH, UNDO
from tests.damage import remove, truncate
from tests.tab.conftest import EPOCH_1, EPOCH_2, EPOCH_3, GOOD, RESUMED

LAST = "tiny-lora-state"


@pytest.fixture
def broken(outputs: Path) -> Path:
    """The newest state without its schedule, in a run whose script trains on."""
    script = outputs / GOOD / "train.sh"
    script.write_text(script.read_text().replace("--max_train_epochs 3", "--max_train_epochs 9"))
    remove(outputs / GOOD / LAST)
    remove(outputs / GOOD / EPOCH_3 / "scheduler.bin")
    return outputs / GOOD / EPOCH_3


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_can_be_repaired_says_so_and_what_cannot_does_not(presenter: TabPresenter, broken: Path) -> None:
    view = presenter.show(GOOD, EPOCH_3, "")

    assert view.repair_plan is not None
    assert (view.resumes, view.refusal) == (False, "It needs a fix first; see above.")
    assert "What “Repair and resume” changes" in view.preview
    assert "the learning rate schedule, regenerated at 24 updates" in view.preview
    truncate(broken / "optimizer.bin")
    view = presenter.show(GOOD, EPOCH_3, "")
    assert view.repair_plan is None
    assert view.refusal != ""


@pytest.mark.parametrize("state", [EPOCH_2, EPOCH_3])
def test_a_shown_row_plans_its_recovery_once(
    presenter: TabPresenter, broken: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    planned: list[str] = []
    real = repair_presenter.plan_recovery

    def counting(auditor: Auditor, run: RunReport, *more: Any) -> RecoveryPlan:
        planned.append(run.name)
        return real(auditor, run, *more)

    monkeypatch.setattr(repair_presenter, "plan_recovery", counting)
    view = presenter.show(GOOD, state, "")
    assert planned == [GOOD]
    assert "Repair epoch 3 and resume" in view.options
    assert view.disk.view


def test_plans_of_runs_that_come_and_go_are_not_kept_for_ever(
    presenter: TabPresenter, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair_presenter, "_MOST_PLANNED", 3)
    planned: list[str] = []
    real = repair_presenter.repair_of

    def counting(auditor: Auditor, run: RunReport, item: CheckpointReport, *more: Any) -> RepairPlan | None:
        planned.append(item.name)
        return real(auditor, run, item, *more)

    monkeypatch.setattr(repair_presenter, "repair_of", counting)
    presenter.show(GOOD, EPOCH_2, "")
    assert planned == [EPOCH_3, EPOCH_2]
    presenter.show(GOOD, EPOCH_2, "")
    assert planned == [EPOCH_3, EPOCH_2]
    presenter.show(RESUMED, EPOCH_2, "")
    planned.clear()
    presenter.show(GOOD, EPOCH_2, "")
    assert planned == [EPOCH_3, EPOCH_2]


def test_a_good_one_offers_no_repair(presenter: TabPresenter, broken: Path) -> None:
    view = presenter.show(GOOD, EPOCH_2, "")
    assert view.repair_plan is None
    assert "Repair and resume" not in view.preview


def test_what_was_shown_is_repaired_and_undone(presenter: TabPresenter, broken: Path) -> None:
    before, script = bytes_of(broken), (broken.parent / "train.sh").read_bytes()

    done = presenter.repair_shown(presenter.show(GOOD, EPOCH_3, ""))

    assert done.written
    assert done.state_path == broken
    assert "now resumes from epoch 3" in done.message
    after = presenter.show(GOOD, EPOCH_3, "")
    assert after.resumes
    assert "Undo this repair" in after.panel
    assert "Repaired" not in presenter.show(GOOD, EPOCH_2, "").panel
    undone = presenter.undo(GOOD, done.receipt)
    assert undone.written
    assert undone.receipt is None
    assert bytes_of(broken) == before
    assert (broken.parent / "train.sh").read_bytes() == script
    again = presenter.undo(GOOD, done.receipt)
    assert "already reverted" in again.message
    assert not again.written


@pytest.mark.parametrize("error", [RuntimeError("?"), OSError("disk"), UnknownName("gone"), MemoryError()])
def test_a_look_that_fails_leaves_no_repair_behind_its_error(
    presenter: TabPresenter, broken: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    before, script = bytes_of(broken), (broken.parent / "train.sh").read_bytes()
    shown, auditor = presenter.show(GOOD, EPOCH_3, ""), presenter.auditor()
    audits, audit = iter(range(99)), auditor.audit_run

    def failing(name: str) -> RunReport:
        if next(audits) >= 1:  # the first is that of the page's run, before the repair
            raise error
        return audit(name)

    monkeypatch.setattr(auditor, "audit_run", failing)
    done = presenter.repair_shown(shown)

    assert "Everything is as it was before." in done.message
    assert (done.written, done.receipt) == (False, None)
    assert bytes_of(broken) == before
    assert (broken.parent / "train.sh").read_bytes() == script


@pytest.mark.parametrize("error", [RuntimeError("?"), UnknownName("gone")])
def test_a_look_that_fails_after_the_judgement_hides_no_repair(
    presenter: TabPresenter, broken: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    shown, auditor = presenter.show(GOOD, EPOCH_3, ""), presenter.auditor()
    audits, audit = iter(range(99)), auditor.audit_run

    def failing(name: str) -> RunReport:
        if next(audits) >= 2:
            raise error
        return audit(name)

    monkeypatch.setattr(auditor, "audit_run", failing)
    done = presenter.repair_shown(shown)

    assert "now resumes from epoch 3" in done.message
    assert done.written
    assert done.receipt is not None
    assert (broken / "scheduler.bin").exists()


def test_a_disk_that_fails_after_the_repair_loses_no_receipt(
    presenter: TabPresenter, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, execute = presenter.show(GOOD, EPOCH_3, ""), RepairPlan.execute

    def gone(path: Path) -> bool:
        raise OSError("disk")

    def executing(plan: RepairPlan, look: Callable[[], CheckpointReport]) -> RepairRecord:
        record = execute(plan, look)
        monkeypatch.setattr(Path, "is_file", gone)
        return record

    monkeypatch.setattr(RepairPlan, "execute", executing)
    done = presenter.repair_shown(shown)

    assert "now resumes from epoch 3" in done.message
    assert isinstance(done.receipt, RepairRecord)


def test_nothing_shown_is_nothing_repaired(presenter: TabPresenter, broken: Path) -> None:
    assert not presenter.repair_shown(None).written
    assert "nothing left to repair" in presenter.repair_shown(presenter.show(GOOD, EPOCH_1, "")).message


def test_a_state_changed_since_is_left_as_it_is(presenter: TabPresenter, broken: Path) -> None:
    shown = presenter.show(GOOD, EPOCH_3, "")
    truncate(broken / "optimizer.bin")
    before = bytes_of(broken)

    done = presenter.repair_shown(shown)

    assert "was changed after it was shown" in done.message
    assert bytes_of(broken) == before
    assert not (broken.parent / "repairs.json").exists()


def test_an_edited_comment_is_in_the_next_plan(presenter: TabPresenter, broken: Path) -> None:
    presenter.show(GOOD, EPOCH_3, "")
    script = broken.parent / "train.sh"
    script.write_bytes(b"# mine\n" + script.read_bytes())

    assert presenter.repair_shown(presenter.show(GOOD, EPOCH_3, "")).written
    assert script.read_bytes().startswith(b"# mine\n")


def test_the_ways_are_listed_with_what_they_lose(presenter: TabPresenter, broken: Path) -> None:
    view = presenter.show(GOOD, "", "")

    assert view.options.count('class="ck-way"') == 4
    assert view.options.index("Recommended") < view.options.index("Start fresh")
    assert "optimizer&#x27;s memory" in view.options
    assert presenter.show(GOOD, "", "") == view


def test_a_way_is_asked_for_before_it_is_gone(presenter: TabPresenter, broken: Path) -> None:
    script = (broken.parent / "train.sh").read_bytes()
    told, question = presenter.repairs.ask(GOOD, "", "2", "", Choices())
    assert question is not None
    assert (broken.parent / "train.sh").read_bytes() == script
    assert f"{question.option.title}?" in told  # type: ignore[union-attr]

    done = presenter.answer(GOOD, question)

    assert done.written
    assert b"--resume" in (broken.parent / "train.sh").read_bytes()
    assert presenter.undo(GOOD, done.receipt).written
    assert (broken.parent / "train.sh").read_bytes() == script


@pytest.mark.parametrize("wanted", ["", "0", "99", "-1", "x", "1" * 400, "²"])
def test_a_number_that_is_no_way_is_a_message(presenter: TabPresenter, wanted: str) -> None:
    told, question = presenter.repairs.ask(GOOD, "", wanted, "", Choices())
    assert question is None
    assert "That option is not there any more" in told


def test_a_script_changed_after_the_question_is_left_alone(presenter: TabPresenter, broken: Path) -> None:
    _, question = presenter.repairs.ask(GOOD, "", "2", "", Choices())
    script = broken.parent / "train.sh"
    script.write_bytes(script.read_bytes() + b"\n# mine\n")
    edited = script.read_bytes()

    done = presenter.answer(GOOD, question)

    assert "was changed after it was shown" in done.message
    assert script.read_bytes() == edited


def test_an_answer_without_a_question_does_nothing(presenter: TabPresenter) -> None:
    assert "nothing left to do" in presenter.answer(GOOD, None).message


def test_an_undo_is_asked_for_too(presenter: TabPresenter, broken: Path) -> None:
    before = bytes_of(broken)
    assert presenter.repairs.ask(GOOD, EPOCH_3, UNDO, "", Choices())[1] is None
    presenter.repair_shown(presenter.show(GOOD, EPOCH_3, ""))

    told, question = presenter.repairs.ask(GOOD, EPOCH_3, UNDO, "", Choices())

    assert "brings back as it was before: scheduler.bin, train.sh" in told
    assert presenter.answer(GOOD, question).written
    assert bytes_of(broken) == before


def test_an_interrupted_repair_is_told_and_finished(presenter: TabPresenter, broken: Path) -> None:
    presenter.repair_shown(presenter.show(GOOD, EPOCH_3, ""))
    (record,) = read_records(broken.parent)
    write_record(broken.parent, with_status(record, APPLYING))
    assert "was interrupted before its last file" in presenter.show(GOOD, "", "").options

    told, question = presenter.repairs.ask(GOOD, "", FINISH, "", Choices())

    assert question is None
    assert f"Finished: {EPOCH_3}" in told
    assert "was interrupted" not in presenter.show(GOOD, "", "").options


def test_the_choices_decide_where_an_epoch_is_corrected(presenter: TabPresenter) -> None:
    by_script = presenter.show(RESUMED, EPOCH_3, "").repair_plan
    by_state = presenter.show(RESUMED, EPOCH_3, "", choices=Choices.of(True, None)).repair_plan

    assert by_script is not None
    assert by_state is not None
    assert (by_script.changes_state, by_state.changes_state) == (False, True)
    more = presenter.show(RESUMED, LAST, "", choices=Choices.of(False, 3.0)).repair_plan
    assert more is not None
    assert more.more_epochs == 3


@pytest.mark.parametrize("number", [None, 0, -4, 1e9, float("inf"), float("nan")])
def test_a_number_of_epochs_that_is_none_is_the_default(number: float | None) -> None:
    assert Choices.of(False, number) == Choices()
    assert Choices.of(False, number, True).script.skip_trained_steps


def test_a_broken_record_is_told_and_hides_nothing(presenter: TabPresenter, broken: Path) -> None:
    (broken.parent / "repairs.json").write_text("[]")
    view = presenter.show(GOOD, EPOCH_3, "")

    assert "could not be read as a record of repairs" in view.panel
    assert "could not be read as a record" in presenter.repair_shown(view).message
    assert not (broken / "scheduler.bin").exists()


def test_names_from_the_disk_are_text(presenter: TabPresenter, outputs: Path) -> None:
    nasty = outputs / "<b>&"
    (outputs / GOOD).rename(nasty)
    (nasty / EPOCH_3).rename(nasty / "<i>-000003-state")
    view = presenter.show("<b>&", "", "")

    assert "<i>" not in view.options + view.preview + view.panel
