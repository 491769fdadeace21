"""Repairs and ways on at the desk: shown, asked, done, taken back, refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint_core.audit.reports import RunReport, UnknownName
from checkpoint_core.recovery.repair import Choices
from checkpoint_core.states.repair_records import APPLYING, read_records, with_status, write_record
from checkpoint_core.tab.presenter import Desk
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


def test_what_can_be_repaired_says_so_and_what_cannot_does_not(desk: Desk, broken: Path) -> None:
    view = desk.show(GOOD, EPOCH_3, "")

    assert view.mend is not None
    assert (view.resumes, view.refusal) == (False, "It needs a fix first; see above.")
    assert "What “Repair and resume” changes" in view.preview
    assert "the learning rate schedule anew, at 24 updates" in view.preview
    truncate(broken / "optimizer.bin")
    view = desk.show(GOOD, EPOCH_3, "")
    assert view.mend is None
    assert view.refusal != ""


def test_a_good_one_offers_no_repair(desk: Desk, broken: Path) -> None:
    view = desk.show(GOOD, EPOCH_2, "")
    assert view.mend is None
    assert "Repair and resume" not in view.preview


def test_what_was_shown_is_repaired_and_undone(desk: Desk, broken: Path) -> None:
    before, script = bytes_of(broken), (broken.parent / "train.sh").read_bytes()

    done = desk.repair_shown(desk.show(GOOD, EPOCH_3, ""))

    assert done.written
    assert done.state_path == broken
    assert "now resumes from epoch 3" in done.message
    after = desk.show(GOOD, EPOCH_3, "")
    assert after.resumes
    assert "Undo this repair" in after.panel
    assert "Repaired" not in desk.show(GOOD, EPOCH_2, "").panel
    undone = desk.undo(GOOD, done.receipt)
    assert undone.written
    assert undone.receipt is None
    assert bytes_of(broken) == before
    assert (broken.parent / "train.sh").read_bytes() == script
    again = desk.undo(GOOD, done.receipt)
    assert "taken back already" in again.message
    assert not again.written


@pytest.mark.parametrize("error", [RuntimeError("?"), OSError("disk"), UnknownName("gone"), MemoryError()])
def test_a_look_that_fails_leaves_no_repair_behind_its_error(
    desk: Desk, broken: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    before, script = bytes_of(broken), (broken.parent / "train.sh").read_bytes()
    shown, auditor = desk.show(GOOD, EPOCH_3, ""), desk.auditor()
    audits, audit = iter(range(99)), auditor.audit_run

    def failing(name: str) -> RunReport:
        if next(audits) >= 1:  # the first is that of the page's run, before the repair
            raise error
        return audit(name)

    monkeypatch.setattr(auditor, "audit_run", failing)
    done = desk.repair_shown(shown)

    assert "Everything is as it was before." in done.message
    assert (done.written, done.receipt) == (False, None)
    assert bytes_of(broken) == before
    assert (broken.parent / "train.sh").read_bytes() == script


@pytest.mark.parametrize("error", [RuntimeError("?"), UnknownName("gone")])
def test_a_look_that_fails_after_the_judgement_hides_no_repair(
    desk: Desk, broken: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    shown, auditor = desk.show(GOOD, EPOCH_3, ""), desk.auditor()
    audits, audit = iter(range(99)), auditor.audit_run

    def failing(name: str) -> RunReport:
        if next(audits) >= 2:
            raise error
        return audit(name)

    monkeypatch.setattr(auditor, "audit_run", failing)
    done = desk.repair_shown(shown)

    assert "now resumes from epoch 3" in done.message
    assert done.written
    assert done.receipt is not None
    assert (broken / "scheduler.bin").exists()


def test_nothing_shown_is_nothing_repaired(desk: Desk, broken: Path) -> None:
    assert not desk.repair_shown(None).written
    assert "nothing to repair" in desk.repair_shown(desk.show(GOOD, EPOCH_1, "")).message


def test_a_state_changed_since_is_left_as_it_is(desk: Desk, broken: Path) -> None:
    shown = desk.show(GOOD, EPOCH_3, "")
    truncate(broken / "optimizer.bin")
    before = bytes_of(broken)

    done = desk.repair_shown(shown)

    assert "was changed after it was shown" in done.message
    assert bytes_of(broken) == before
    assert not (broken.parent / "repairs.json").exists()


def test_an_edited_comment_is_in_the_next_plan(desk: Desk, broken: Path) -> None:
    desk.show(GOOD, EPOCH_3, "")
    script = broken.parent / "train.sh"
    script.write_bytes(b"# mine\n" + script.read_bytes())

    assert desk.repair_shown(desk.show(GOOD, EPOCH_3, "")).written
    assert script.read_bytes().startswith(b"# mine\n")


def test_the_ways_are_listed_with_what_they_lose(desk: Desk, broken: Path) -> None:
    view = desk.show(GOOD, "", "")

    assert view.ways.count('class="ck-way"') == 4
    assert view.ways.index("Recommended") < view.ways.index("Start fresh")
    assert "optimizer&#x27;s memory" in view.ways
    assert desk.show(GOOD, "", "") == view


def test_a_way_is_asked_for_before_it_is_gone(desk: Desk, broken: Path) -> None:
    script = (broken.parent / "train.sh").read_bytes()
    told, question = desk.repairs.ask(GOOD, "", "2", "", Choices())
    assert question is not None
    assert (broken.parent / "train.sh").read_bytes() == script
    assert f"{question.way.title}?" in told  # type: ignore[union-attr]

    done = desk.answer(GOOD, question)

    assert done.written
    assert b"--resume" in (broken.parent / "train.sh").read_bytes()
    assert desk.undo(GOOD, done.receipt).written
    assert (broken.parent / "train.sh").read_bytes() == script


@pytest.mark.parametrize("wanted", ["", "0", "99", "-1", "x", "1" * 400, "²"])
def test_a_number_that_is_no_way_is_a_message(desk: Desk, wanted: str) -> None:
    told, question = desk.repairs.ask(GOOD, "", wanted, "", Choices())
    assert question is None
    assert "That way is not there any more" in told


def test_a_script_changed_after_the_question_is_left_alone(desk: Desk, broken: Path) -> None:
    _, question = desk.repairs.ask(GOOD, "", "2", "", Choices())
    script = broken.parent / "train.sh"
    script.write_bytes(script.read_bytes() + b"\n# mine\n")
    edited = script.read_bytes()

    done = desk.answer(GOOD, question)

    assert "was changed after it was shown" in done.message
    assert script.read_bytes() == edited


def test_an_answer_without_a_question_does_nothing(desk: Desk) -> None:
    assert "nothing to do" in desk.answer(GOOD, None).message


def test_an_undo_is_asked_for_too(desk: Desk, broken: Path) -> None:
    before = bytes_of(broken)
    assert desk.repairs.ask(GOOD, EPOCH_3, UNDO, "", Choices())[1] is None
    desk.repair_shown(desk.show(GOOD, EPOCH_3, ""))

    told, question = desk.repairs.ask(GOOD, EPOCH_3, UNDO, "", Choices())

    assert "brings back as it was before: scheduler.bin, train.sh" in told
    assert desk.answer(GOOD, question).written
    assert bytes_of(broken) == before


def test_an_interrupted_repair_is_told_and_finished(desk: Desk, broken: Path) -> None:
    desk.repair_shown(desk.show(GOOD, EPOCH_3, ""))
    (record,) = read_records(broken.parent)
    write_record(broken.parent, with_status(record, APPLYING))
    assert "was interrupted before its last file" in desk.show(GOOD, "", "").ways

    told, question = desk.repairs.ask(GOOD, "", FINISH, "", Choices())

    assert question is None
    assert f"Finished: {EPOCH_3}" in told
    assert "was interrupted" not in desk.show(GOOD, "", "").ways


def test_the_choices_decide_where_an_epoch_is_corrected(desk: Desk) -> None:
    by_script = desk.show(RESUMED, EPOCH_3, "").mend
    by_state = desk.show(RESUMED, EPOCH_3, "", choices=Choices.of(True, None)).mend

    assert by_script is not None
    assert by_state is not None
    assert (by_script.changes_state, by_state.changes_state) == (False, True)
    more = desk.show(RESUMED, LAST, "", choices=Choices.of(False, 3.0)).mend
    assert more is not None
    assert more.more_epochs == 3


@pytest.mark.parametrize("number", [None, 0, -4, 1e9, float("inf"), float("nan")])
def test_a_number_of_epochs_that_is_none_is_the_default(number: float | None) -> None:
    assert Choices.of(False, number) == Choices()
    assert Choices.of(False, number, True).script.skip_trained_steps


def test_a_broken_record_is_told_and_hides_nothing(desk: Desk, broken: Path) -> None:
    (broken.parent / "repairs.json").write_text("[]")
    view = desk.show(GOOD, EPOCH_3, "")

    assert "could not be read as a record of repairs" in view.panel
    assert "could not be read as a record" in desk.repair_shown(view).message
    assert not (broken / "scheduler.bin").exists()


def test_names_from_the_disk_are_text(desk: Desk, outputs: Path) -> None:
    nasty = outputs / "<b>&"
    (outputs / GOOD).rename(nasty)
    (nasty / EPOCH_3).rename(nasty / "<i>-000003-state")
    view = desk.show("<b>&", "", "")

    assert "<i>" not in view.ways + view.preview + view.panel
