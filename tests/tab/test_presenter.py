"""The desk: names in, HTML out; what is written is what was shown; every trouble is a text."""

from __future__ import annotations

import json
import shlex
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from checkpoint_core.audit.reports import UnknownName
from checkpoint_core.environment.facts import EnvironmentFacts
from checkpoint_core.environment.rehearsal.outcome import RehearsalOutcome, Status
from checkpoint_core.recovery.repair import Choices
from checkpoint_core.states.discovery import OutputsFolderError
from checkpoint_core.tab import api as answers
from checkpoint_core.tab import background
from checkpoint_core.tab.presenter import LAYOUTS, Desk
from tests.damage import truncate
from tests.tab.conftest import DAMAGED, EPOCH_1, EPOCH_2, EPOCH_3, GOOD, RESUMED

NOT_NAMES = ["", ".", "..", "../outputs", "/etc", f"{GOOD}/..", f"./{GOOD}", "a/b", "nothing", "\0"]


def script(outputs: Path, run: str = GOOD) -> Path:
    return outputs / run / "train.sh"


# What is shown.


def test_the_picker_lists_the_runs_with_their_state_newest_first(desk: Desk, outputs: Path) -> None:
    script(outputs, RESUMED).touch()

    choices = desk.choices()

    assert choices[0] == (f"{RESUMED} (6 checkpoints, epoch 2 ready)", RESUMED)
    assert sorted(name for _, name in choices) == sorted([GOOD, DAMAGED, RESUMED])


def test_a_run_opens_on_its_newest_that_resumes(desk: Desk) -> None:
    view = desk.show(RESUMED, "", "epoch:down")

    assert view.selected == EPOCH_2
    assert view.resumes
    assert view.refusal == ""
    assert "--resume" in view.preview
    assert view.change is not None


def test_one_that_does_not_resume_is_shown_with_the_reason_and_no_plan(desk: Desk) -> None:
    view = desk.show(DAMAGED, EPOCH_2, "epoch:down")

    assert not view.resumes
    assert view.refusal == "It is damaged; choose another checkpoint."
    assert view.change is None


def test_a_script_that_is_not_understood_disables_the_button(desk: Desk, outputs: Path) -> None:
    script(outputs).write_text("accelerate launch $FLAGS | while read x; do y; done\n")

    view = desk.show(GOOD, EPOCH_2, "epoch:down")

    assert not view.resumes
    assert "cannot be changed" in view.refusal
    assert 'role="alert"' in view.preview


def test_a_run_without_a_script_still_shows_its_checkpoints(desk: Desk, outputs: Path) -> None:
    script(outputs).unlink()

    view = desk.show(GOOD, EPOCH_2, "epoch:down")

    assert EPOCH_2 in view.table
    assert not view.resumes
    assert "train.sh" in view.preview


def test_a_run_without_checkpoints_is_a_run_all_the_same(desk: Desk, outputs: Path) -> None:
    for state in (outputs / GOOD).glob("*-state"):
        shutil.rmtree(state)

    view = desk.show(GOOD, "", "epoch:down")

    assert (view.run, view.table, view.resumes) == (GOOD, "", False)
    assert "no checkpoints" in view.headline
    assert desk.show("nothing", "", "").run == ""


def test_the_same_disk_gives_an_equal_view(desk: Desk) -> None:
    assert desk.show(GOOD, EPOCH_2, "epoch:down") == desk.show(GOOD, EPOCH_2, "epoch:down")


@pytest.mark.parametrize("name", [name for name in NOT_NAMES if name])
def test_what_is_no_run_is_a_message(desk: Desk, name: str) -> None:
    view = desk.show(name, "", "epoch:down")

    assert "There is no run" in view.headline
    assert view.table == ""


def test_an_empty_outputs_folder_explains_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    desk = Desk(tmp_path / "outputs")

    assert desk.choices() == []
    assert "tick --save_state" in desk.show("", "", "").headline


def test_a_missing_outputs_folder_is_named(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "outputs")

    assert desk.choices() == []
    assert str(tmp_path / "outputs") in desk.show("", "", "").headline


def test_the_layout_can_be_forced(desk: Desk) -> None:
    assert desk.show(GOOD, EPOCH_2, "", "sd-scripts").resumes
    assert not desk.show(GOOD, EPOCH_2, "", "accelerate-objects").resumes
    assert desk.show(GOOD, EPOCH_2, "", "auto").resumes
    assert {name for _, name in LAYOUTS} == {"auto", "sd-scripts", "accelerate-objects"}


def test_a_sample_image_stands_in_the_panel(desk: Desk, outputs: Path) -> None:
    (outputs / GOOD / "sample").mkdir()
    image = outputs / GOOD / "sample" / "tiny-lora_e000002_00_20250101120000.png"
    Image.new("RGB", (8, 8), "red").save(image)
    first = desk.show(GOOD, EPOCH_2, "").panel
    Image.new("RGB", (8, 8), "blue").save(image)

    assert "data:image/jpeg;base64," in first
    assert desk.show(GOOD, EPOCH_2, "").panel != first
    assert "data:image" not in desk.show(GOOD, EPOCH_1, "").panel


# What is written.


def test_what_was_shown_is_written_and_undone(desk: Desk, outputs: Path) -> None:
    before = script(outputs).read_bytes()
    shown = desk.show(GOOD, EPOCH_2, "").change

    done = desk.resume(GOOD, EPOCH_2, shown)

    assert shown is not None
    assert script(outputs).read_bytes() == shown.after
    assert done.written
    assert done.state_path == outputs / GOOD / EPOCH_2
    undone = desk.undo(GOOD, done.receipt)
    assert undone.written
    assert undone.state_path is None
    assert script(outputs).read_bytes() == before


def test_a_page_that_was_shown_nothing_writes_nothing(desk: Desk, outputs: Path) -> None:
    before = (outputs / GOOD / "train.sh").read_bytes()

    outcome = desk.resume_shown(None)

    assert "press again" in outcome.message
    assert not outcome.written
    assert (outputs / GOOD / "train.sh").read_bytes() == before
    shown = desk.show(GOOD, EPOCH_2, "")
    assert desk.resume_shown(shown).written


def test_undo_goes_back_to_the_state_that_was_resumed_from_before(desk: Desk, outputs: Path) -> None:
    desk.resume(GOOD, EPOCH_1, desk.show(GOOD, EPOCH_1, "").change)
    second = desk.resume(GOOD, EPOCH_2, desk.show(GOOD, EPOCH_2, "").change)

    undone = desk.undo(GOOD, second.receipt)

    assert undone.state_path == outputs / GOOD / EPOCH_1


def test_doing_it_twice_changes_nothing_and_leaves_nothing_to_undo(desk: Desk, outputs: Path) -> None:
    desk.resume(GOOD, EPOCH_2, desk.show(GOOD, EPOCH_2, "").change)
    once = script(outputs).read_bytes()

    again = desk.resume(GOOD, EPOCH_2, desk.show(GOOD, EPOCH_2, "").change)

    assert script(outputs).read_bytes() == once
    assert again.receipt is None
    assert "already" in again.message


@pytest.mark.parametrize(("run", "state"), [(GOOD, EPOCH_1), (RESUMED, EPOCH_2)])
def test_a_plan_for_something_else_is_refused(desk: Desk, outputs: Path, run: str, state: str) -> None:
    shown = desk.show(GOOD, EPOCH_2, "").change
    before = script(outputs, run).read_bytes()

    done = desk.resume(run, state, shown)

    assert not done.written
    assert "changed after it was shown" in done.message
    assert script(outputs, run).read_bytes() == before


def test_a_script_changed_since_is_left_as_it_is(desk: Desk, outputs: Path) -> None:
    shown = desk.show(GOOD, EPOCH_2, "").change
    edited = script(outputs).read_bytes().replace(b"--seed 42", b"--seed 43")
    script(outputs).write_bytes(edited)

    assert not desk.resume(GOOD, EPOCH_2, shown).written
    assert script(outputs).read_bytes() == edited


def test_a_checkpoint_damaged_since_it_was_shown_is_refused(desk: Desk, outputs: Path) -> None:
    shown = desk.show(GOOD, EPOCH_2, "").change
    before = script(outputs).read_bytes()
    (outputs / GOOD / EPOCH_2 / "optimizer.bin").write_bytes(b"")

    done = desk.resume(GOOD, EPOCH_2, shown)

    assert not done.written
    assert "Epoch 2 does not resume." in done.message
    assert script(outputs).read_bytes() == before


def test_starting_fresh_takes_the_flag_out_as_shown(desk: Desk, outputs: Path) -> None:
    original = script(outputs).read_bytes()
    desk.resume(GOOD, EPOCH_2, desk.show(GOOD, EPOCH_2, "").change)

    told, shown = desk.preview_fresh(GOOD)
    done = desk.start_fresh(GOOD, shown)

    assert "ck-del" in told
    assert done.written
    assert done.state_path is None
    assert script(outputs).read_bytes() == original


def test_starting_fresh_without_a_flag_has_nothing_to_ask(desk: Desk) -> None:
    told, change = desk.preview_fresh(GOOD)

    assert change is None
    assert "starts from the beginning already" in told


@pytest.mark.parametrize("other", [None, DAMAGED])
def test_starting_fresh_unseen_is_refused(desk: Desk, outputs: Path, other: str | None) -> None:
    desk.resume(GOOD, EPOCH_2, desk.show(GOOD, EPOCH_2, "").change)
    resuming = script(outputs).read_bytes()
    shown = desk.preview_fresh(other)[1] if other else None

    assert not desk.start_fresh(GOOD, shown).written
    assert script(outputs).read_bytes() == resuming


def test_undo_never_overwrites_a_later_edit(desk: Desk, outputs: Path) -> None:
    done = desk.resume(GOOD, EPOCH_2, desk.show(GOOD, EPOCH_2, "").change)
    script(outputs).write_bytes(script(outputs).read_bytes() + b"# mine\n")

    undone = desk.undo(GOOD, done.receipt)

    assert not undone.written
    assert undone.receipt == done.receipt
    assert script(outputs).read_bytes().endswith(b"# mine\n")


def test_a_second_press_of_undo_says_so(desk: Desk) -> None:
    assert "nothing to undo" in desk.undo(GOOD, None).message


def test_a_write_that_fails_is_told(desk: Desk, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = desk.show(GOOD, EPOCH_2, "").change
    before = script(outputs).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)

    done = desk.resume(GOOD, EPOCH_2, shown)

    assert not done.written
    assert 'role="alert"' in done.message
    assert script(outputs).read_bytes() == before


def test_pressing_on_what_is_gone_is_a_message(desk: Desk, outputs: Path) -> None:
    shown = desk.show(GOOD, EPOCH_2, "").change
    shutil.rmtree(outputs)

    for told in (
        desk.resume(GOOD, EPOCH_2, shown).message,
        desk.start_fresh(GOOD, shown).message,
        desk.preview_fresh(GOOD)[0],
        *desk.trials.verify(GOOD, EPOCH_2),
    ):
        assert 'role="alert"' in told


@pytest.mark.parametrize(("state", "holds"), [(True, ""), ("/x/my lora", True)], ids=["cleared", "set"])
def test_what_the_gym_tab_is_to_hold(desk: Desk, state: str | bool, holds: str | bool) -> None:
    box = desk.box_value(state)
    assert box == "" if holds == "" else "/x/my lora" in box and box != "/x/my lora"


# Reading every byte.


def test_verifying_tells_its_progress_and_then_nothing(desk: Desk) -> None:
    told = list(desk.trials.verify(GOOD, EPOCH_2))

    assert "Reading every byte of Epoch 2" in told[0]
    assert told[-1] == ""
    assert "bit" in desk.show(GOOD, EPOCH_2, "").panel


def test_verifying_finds_what_a_look_cannot(desk: Desk, outputs: Path) -> None:
    weights = outputs / GOOD / EPOCH_2 / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 0x40
    weights.write_bytes(data)
    assert desk.show(GOOD, EPOCH_2, "").resumes

    list(desk.trials.verify(GOOD, EPOCH_2))

    assert "weights-differ-from-lora" in desk.show(GOOD, EPOCH_2, "").panel
    assert not desk.show(GOOD, EPOCH_2, "").resumes


def test_the_same_is_not_read_twice_at_once_and_another_can_be(desk: Desk) -> None:
    first = desk.trials.verify(GOOD, EPOCH_2)
    next(first)

    assert "being verified already" in "".join(desk.trials.verify(GOOD, EPOCH_2))
    assert list(desk.trials.verify(GOOD, EPOCH_1))[-1] == ""
    first.close()
    assert list(desk.trials.verify(GOOD, EPOCH_2))[-1] == ""


def test_cancelling_what_is_not_read_is_nothing(desk: Desk) -> None:
    desk.trials.cancel(GOOD, EPOCH_2)
    assert list(desk.trials.verify(GOOD, EPOCH_2))[-1] == ""


# Several at once.


def test_many_threads_see_the_same(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    # What other tests write meanwhile must not change what the page says of the disk.
    usage = shutil.disk_usage(desk.outputs)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    expected = desk.show(GOOD, EPOCH_2, "epoch:down")

    def look(number: int) -> bool:
        layout = ("", "sd-scripts", "accelerate-objects")[number % 3]
        view = desk.show(GOOD, EPOCH_2, "epoch:down", layout)
        desk.choices()
        return view.resumes == (layout != "accelerate-objects") and (bool(layout) or view == expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(look, range(48)))


def test_of_many_that_press_at_once_one_writes(desk: Desk, outputs: Path) -> None:
    plans = [(state, desk.show(GOOD, state, "").change) for state in (EPOCH_1, EPOCH_2, EPOCH_1, EPOCH_2)]

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda plan: desk.resume(GOOD, *plan), plans))

    wrote = [each for each in done if each.receipt is not None]
    assert len(wrote) == 1
    assert wrote[0].state_path is not None
    assert wrote[0].state_path.name in script(outputs).read_text()


# For programs.


def test_the_runs(desk: Desk) -> None:
    by_name = {run["run"]: run for run in answers.runs(desk)}

    assert by_name[RESUMED]["checkpoints"] == 6
    assert by_name[RESUMED]["latest_resumable"] == EPOCH_2
    assert by_name[DAMAGED]["headline"].startswith("Epoch 1 is ready.")


def test_a_checkpoint_has_no_key_that_a_client_takes_for_a_file(desk: Desk, outputs: Path) -> None:
    checked = answers.check(desk, GOOD, EPOCH_2)

    assert checked["directory"] == str(outputs / GOOD / EPOCH_2)
    assert checked in answers.checkpoint_table(desk, GOOD)
    assert '"path":' not in json.dumps(checked)


@pytest.mark.parametrize("name", NOT_NAMES)
def test_names_are_compared_and_never_made_into_paths(desk: Desk, outputs: Path, name: str) -> None:
    before = script(outputs).read_bytes()
    for ask in (answers.checkpoint_table, desk_diagnosis):
        with pytest.raises(UnknownName, match="There is no run"):
            ask(desk, name)
    for act in (answers.check, answers.preview_resume, answers.apply_resume):
        with pytest.raises(UnknownName, match="There is no run"):
            act(desk, name, EPOCH_2)
        with pytest.raises(UnknownName, match="has no checkpoint"):
            act(desk, GOOD, name)

    assert script(outputs).read_bytes() == before


def desk_diagnosis(desk: Desk, name: str) -> object:
    return desk.diagnosis_file(name)


def test_a_preview_and_then_the_change(desk: Desk, outputs: Path) -> None:
    before = script(outputs).read_bytes()
    shown = answers.preview_resume(desk, GOOD, EPOCH_2)
    assert script(outputs).read_bytes() == before

    applied = answers.apply_resume(desk, GOOD, EPOCH_2)

    assert shown["resumes"]
    assert "+  --resume" in shown["diff"]
    assert applied["applied"]
    assert applied["backup"] == "train.sh.bak"
    assert shlex.split(applied["command"]) == ["bash", f"outputs/{GOOD}/train.sh"]
    assert f"/{GOOD}/{EPOCH_2}" in script(outputs).read_text()


@pytest.mark.parametrize(("run", "state"), [(DAMAGED, EPOCH_2), (RESUMED, EPOCH_3)])
def test_what_does_not_resume_is_not_applied(desk: Desk, outputs: Path, run: str, state: str) -> None:
    before = script(outputs, run).read_bytes()

    assert not answers.preview_resume(desk, run, state)["resumes"]
    applied = answers.apply_resume(desk, run, state)

    assert not applied["applied"]
    assert applied["reason"]
    assert script(outputs, run).read_bytes() == before


def test_a_script_that_is_not_understood_is_a_reason(desk: Desk, outputs: Path) -> None:
    script(outputs).unlink()

    assert "train.sh" in answers.preview_resume(desk, GOOD, EPOCH_2)["reason"]
    assert "train.sh" in answers.apply_resume(desk, GOOD, EPOCH_2)["reason"]


def test_names_that_are_no_utf_8_can_be_sent_and_sent_back(desk: Desk, outputs: Path) -> None:
    try:
        (outputs / GOOD).rename(outputs / "caf\udce9")
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system takes no names that are no UTF-8")

    json.dumps([answers.runs(desk), answers.checkpoint_table(desk, "caf\\udce9")]).encode()
    assert answers.check(desk, "caf\\udce9", EPOCH_2)["verdict"] == "ready"


def test_a_missing_outputs_folder_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputsFolderError, match="outputs"):
        answers.runs(Desk(tmp_path / "outputs"))


def test_the_diagnosis_is_a_zip_in_a_folder_of_its_own(desk: Desk) -> None:
    first, second = desk.diagnosis_file(DAMAGED), desk.diagnosis_file(DAMAGED)

    assert first.parent != second.parent
    with zipfile.ZipFile(first) as archive:
        assert any(name.endswith("diagnosis.md") for name in archive.namelist())


def test_versions_that_nobody_has_tried_are_tried_before_a_program_s_resume(
    desk: Desk, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = desk.python.environment()
    assert isinstance(known, EnvironmentFacts)
    packages = tuple((name, "9.0" if name == "accelerate" else version) for name, version in known.packages)
    desk = Desk(outputs)
    monkeypatch.setattr(desk.python, "environment", lambda: replace(known, packages=packages))
    item = desk.checkpoint(desk.run(GOOD), EPOCH_2)
    assert item.needs_rehearsal
    assert "It was not rehearsed to the end" in desk.resume(GOOD, EPOCH_2, None).message

    done = answers.apply_resume(desk, GOOD, EPOCH_2)

    assert done["applied"]
    assert "rehearsal-passed" in [found.code for found in desk.checkpoint(desk.run(GOOD), EPOCH_2).findings]


@pytest.mark.parametrize("ended", [Status.CANCELLED, None])
def test_a_program_s_resume_is_held_to_what_the_page_s_is(
    desk: Desk, outputs: Path, monkeypatch: pytest.MonkeyPatch, ended: Status | None
) -> None:
    """A rehearsal that is needed and was not finished, or not even begun, stops both."""
    known = desk.python.environment()
    assert isinstance(known, EnvironmentFacts)
    packages = tuple((name, "9.0" if name == "accelerate" else version) for name, version in known.packages)
    desk = Desk(outputs)
    monkeypatch.setattr(desk.python, "environment", lambda: replace(known, packages=packages))
    if ended is None:
        monkeypatch.setattr(desk.trials, "rehearse_unusual", lambda *_: iter(()))
    else:
        monkeypatch.setattr(background, "rehearse_state", lambda *_, **__: RehearsalOutcome(ended))
    before = script(outputs).read_bytes()

    by_program = answers.apply_resume(desk, GOOD, EPOCH_2)
    by_page = desk.resume_shown(desk.show(GOOD, EPOCH_2, ""))

    assert (by_program["applied"], by_page.written) == (False, False)
    assert by_program["reason"] == "It was not rehearsed to the end; nothing was changed."
    assert by_program["reason"] in by_page.message
    assert script(outputs).read_bytes() == before


def test_a_way_that_resumes_is_held_to_the_same(desk: Desk, outputs: Path) -> None:
    asked = (desk.repairs.ask(GOOD, "", number, "", Choices())[1] for number in "123")
    question = next(each for each in asked if each and each.way and each.way.mend is None)
    assert question.way is not None
    truncate(outputs / GOOD / question.way.checkpoint / "optimizer.bin")
    before = script(outputs).read_bytes()

    done = desk.answer(GOOD, question)

    assert "does not resume" in done.message
    assert not done.written
    assert script(outputs).read_bytes() == before


def test_where_none_resumes_the_newest_that_can_be_mended_is_shown(desk: Desk, outputs: Path) -> None:
    text = script(outputs).read_text(encoding="utf-8")
    script(outputs).write_text(text.replace("--network_dim 4", "--network_dim 8"), encoding="utf-8")

    view = desk.show(GOOD, "", "epoch:down")

    newest = desk.run(GOOD).checkpoints[0]
    assert newest.verdict.value == "needs-fix"
    assert (view.selected, view.resumes) == (newest.name, False)
    assert "Set --network_dim 4 in the train script again" in view.panel
