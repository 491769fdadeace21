"""The presenter: names in, HTML out; what is written is what was shown; every trouble is a text."""

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
from checkpoint_core.environment.rehearsal.outcome import RehearsalOutcome, RehearsalStatus
from checkpoint_core.recovery.repair import Choices
from checkpoint_core.states.discovery import OutputsFolderError
from checkpoint_core.tab import api, background
from checkpoint_core.tab.presenter import LAYOUTS, TabPresenter
from checkpoint_core.tab.results import Written
from tests.damage import truncate
from tests.environments import SlowPython
from tests.tab.conftest import DAMAGED, EPOCH_1, EPOCH_2, EPOCH_3, GOOD, RESUMED
from tests.tab.host.test_gym import found

NOT_NAMES = ["", ".", "..", "../outputs", "/etc", f"{GOOD}/..", f"./{GOOD}", "a/b", "nothing", "\0"]


def script(outputs: Path, run: str = GOOD) -> Path:
    return outputs / run / "train.sh"


# What is shown.


def test_the_picker_lists_the_runs_with_their_state_newest_first(
    presenter: TabPresenter, outputs: Path
) -> None:
    script(outputs, RESUMED).touch()

    choices = presenter.choices()

    assert choices[0] == (f"{RESUMED} (6 checkpoints, epoch 2 ready)", RESUMED)
    assert sorted(name for _, name in choices) == sorted([GOOD, DAMAGED, RESUMED])


def test_a_run_opens_on_its_newest_that_resumes(presenter: TabPresenter) -> None:
    view = presenter.show(RESUMED, "", "epoch:down")

    assert view.selected == EPOCH_2
    assert view.resumes
    assert view.refusal == ""
    assert "--resume" in view.preview
    assert view.change is not None


def test_one_that_does_not_resume_is_shown_with_the_reason_and_no_plan(presenter: TabPresenter) -> None:
    view = presenter.show(DAMAGED, EPOCH_2, "epoch:down")

    assert not view.resumes
    assert view.refusal == "It is damaged; choose another checkpoint."
    assert view.change is None


def test_a_script_that_is_not_understood_disables_the_button(presenter: TabPresenter, outputs: Path) -> None:
    script(outputs).write_text("accelerate launch $FLAGS | while read x; do y; done\n")

    view = presenter.show(GOOD, EPOCH_2, "epoch:down")

    assert not view.resumes
    assert "cannot be changed" in view.refusal
    assert 'role="alert"' in view.preview


def test_a_run_without_a_script_still_shows_its_checkpoints(presenter: TabPresenter, outputs: Path) -> None:
    script(outputs).unlink()

    view = presenter.show(GOOD, EPOCH_2, "epoch:down")

    assert EPOCH_2 in view.table
    assert not view.resumes
    assert "train.sh" in view.preview


def test_a_run_without_checkpoints_is_a_run_all_the_same(presenter: TabPresenter, outputs: Path) -> None:
    for state in (outputs / GOOD).glob("*-state"):
        shutil.rmtree(state)

    view = presenter.show(GOOD, "", "epoch:down")

    assert (view.run, view.table, view.resumes) == (GOOD, "", False)
    assert "no checkpoints" in view.headline
    assert presenter.show("nothing", "", "").run == ""


def test_the_same_disk_gives_an_equal_view(presenter: TabPresenter) -> None:
    assert presenter.show(GOOD, EPOCH_2, "epoch:down") == presenter.show(GOOD, EPOCH_2, "epoch:down")


@pytest.mark.parametrize("name", [name for name in NOT_NAMES if name])
def test_what_is_no_run_is_a_message(presenter: TabPresenter, name: str) -> None:
    view = presenter.show(name, "", "epoch:down")

    assert "There is no run" in view.headline
    assert view.table == ""


def test_an_empty_outputs_folder_explains_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    presenter = TabPresenter(tmp_path / "outputs")

    assert presenter.choices() == []
    assert "tick --save_state" in presenter.show("", "", "").headline


def test_a_missing_outputs_folder_is_named(tmp_path: Path) -> None:
    presenter = TabPresenter(tmp_path / "outputs")

    assert presenter.choices() == []
    assert str(tmp_path / "outputs") in presenter.show("", "", "").headline


def test_the_layout_can_be_forced(presenter: TabPresenter) -> None:
    assert presenter.show(GOOD, EPOCH_2, "", "sd-scripts").resumes
    assert not presenter.show(GOOD, EPOCH_2, "", "accelerate-objects").resumes
    assert presenter.show(GOOD, EPOCH_2, "", "auto").resumes
    assert {name for _, name in LAYOUTS} == {"auto", "sd-scripts", "accelerate-objects"}


def test_a_sample_image_stands_in_the_panel(presenter: TabPresenter, outputs: Path) -> None:
    (outputs / GOOD / "sample").mkdir()
    image = outputs / GOOD / "sample" / "tiny-lora_e000002_00_20250101120000.png"
    Image.new("RGB", (8, 8), "red").save(image)
    first = presenter.show(GOOD, EPOCH_2, "").panel
    Image.new("RGB", (8, 8), "blue").save(image)

    assert "data:image/jpeg;base64," in first
    assert presenter.show(GOOD, EPOCH_2, "").panel != first
    assert "data:image" not in presenter.show(GOOD, EPOCH_1, "").panel


# What is written.


def test_what_was_shown_is_written_and_undone(presenter: TabPresenter, outputs: Path) -> None:
    before = script(outputs).read_bytes()
    shown = presenter.show(GOOD, EPOCH_2, "").change

    done = presenter.resume(GOOD, EPOCH_2, shown)

    assert shown is not None
    assert script(outputs).read_bytes() == shown.after
    assert done.written
    assert done.state_path == outputs / GOOD / EPOCH_2
    undone = presenter.undo(GOOD, done.receipt)
    assert undone.written
    assert undone.state_path is None
    assert script(outputs).read_bytes() == before


def test_a_page_that_was_shown_nothing_writes_nothing(presenter: TabPresenter, outputs: Path) -> None:
    before = (outputs / GOOD / "train.sh").read_bytes()

    outcome = presenter.resume_shown(None)

    assert "press again" in outcome.message
    assert not outcome.written
    assert (outputs / GOOD / "train.sh").read_bytes() == before
    shown = presenter.show(GOOD, EPOCH_2, "")
    assert presenter.resume_shown(shown).written


def test_undo_goes_back_to_the_state_that_was_resumed_from_before(
    presenter: TabPresenter, outputs: Path
) -> None:
    presenter.resume(GOOD, EPOCH_1, presenter.show(GOOD, EPOCH_1, "").change)
    second = presenter.resume(GOOD, EPOCH_2, presenter.show(GOOD, EPOCH_2, "").change)

    undone = presenter.undo(GOOD, second.receipt)

    assert undone.state_path == outputs / GOOD / EPOCH_1


def test_doing_it_twice_changes_nothing_and_leaves_nothing_to_undo(
    presenter: TabPresenter, outputs: Path
) -> None:
    presenter.resume(GOOD, EPOCH_2, presenter.show(GOOD, EPOCH_2, "").change)
    once = script(outputs).read_bytes()

    again = presenter.resume(GOOD, EPOCH_2, presenter.show(GOOD, EPOCH_2, "").change)

    assert script(outputs).read_bytes() == once
    assert again.receipt is None
    assert "already" in again.message


@pytest.mark.parametrize(("run", "state"), [(GOOD, EPOCH_1), (RESUMED, EPOCH_2)])
def test_a_plan_for_something_else_is_refused(
    presenter: TabPresenter, outputs: Path, run: str, state: str
) -> None:
    shown = presenter.show(GOOD, EPOCH_2, "").change
    before = script(outputs, run).read_bytes()

    done = presenter.resume(run, state, shown)

    assert not done.written
    assert "changed after it was shown" in done.message
    assert script(outputs, run).read_bytes() == before


def test_a_script_changed_since_is_left_as_it_is(presenter: TabPresenter, outputs: Path) -> None:
    shown = presenter.show(GOOD, EPOCH_2, "").change
    edited = script(outputs).read_bytes().replace(b"--seed 42", b"--seed 43")
    script(outputs).write_bytes(edited)

    assert not presenter.resume(GOOD, EPOCH_2, shown).written
    assert script(outputs).read_bytes() == edited


def test_a_checkpoint_damaged_since_it_was_shown_is_refused(presenter: TabPresenter, outputs: Path) -> None:
    shown = presenter.show(GOOD, EPOCH_2, "").change
    before = script(outputs).read_bytes()
    (outputs / GOOD / EPOCH_2 / "optimizer.bin").write_bytes(b"")

    done = presenter.resume(GOOD, EPOCH_2, shown)

    assert not done.written
    assert "Epoch 2 does not resume." in done.message
    assert script(outputs).read_bytes() == before


def test_starting_fresh_takes_the_flag_out_as_shown(presenter: TabPresenter, outputs: Path) -> None:
    original = script(outputs).read_bytes()
    presenter.resume(GOOD, EPOCH_2, presenter.show(GOOD, EPOCH_2, "").change)

    told, shown = presenter.preview_fresh(GOOD)
    done = presenter.start_fresh(GOOD, shown)

    assert "ck-del" in told
    assert done.written
    assert done.state_path is None
    assert script(outputs).read_bytes() == original


def test_starting_fresh_without_a_flag_has_nothing_to_ask(presenter: TabPresenter) -> None:
    told, change = presenter.preview_fresh(GOOD)

    assert change is None
    assert "starts from the beginning already" in told


@pytest.mark.parametrize("other", [None, DAMAGED])
def test_starting_fresh_unseen_is_refused(presenter: TabPresenter, outputs: Path, other: str | None) -> None:
    presenter.resume(GOOD, EPOCH_2, presenter.show(GOOD, EPOCH_2, "").change)
    resuming = script(outputs).read_bytes()
    shown = presenter.preview_fresh(other)[1] if other else None

    assert not presenter.start_fresh(GOOD, shown).written
    assert script(outputs).read_bytes() == resuming


def test_undo_never_overwrites_a_later_edit(presenter: TabPresenter, outputs: Path) -> None:
    done = presenter.resume(GOOD, EPOCH_2, presenter.show(GOOD, EPOCH_2, "").change)
    script(outputs).write_bytes(script(outputs).read_bytes() + b"# mine\n")

    undone = presenter.undo(GOOD, done.receipt)

    assert not undone.written
    assert undone.receipt == done.receipt
    assert script(outputs).read_bytes().endswith(b"# mine\n")


def test_a_second_press_of_undo_says_so(presenter: TabPresenter) -> None:
    assert "nothing to undo" in presenter.undo(GOOD, None).message


def test_a_write_that_fails_is_told(
    presenter: TabPresenter, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = presenter.show(GOOD, EPOCH_2, "").change
    before = script(outputs).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)

    done = presenter.resume(GOOD, EPOCH_2, shown)

    assert not done.written
    assert 'role="alert"' in done.message
    assert script(outputs).read_bytes() == before


def test_pressing_on_what_is_gone_is_a_message(presenter: TabPresenter, outputs: Path) -> None:
    shown = presenter.show(GOOD, EPOCH_2, "").change
    shutil.rmtree(outputs)

    for told in (
        presenter.resume(GOOD, EPOCH_2, shown).message,
        presenter.start_fresh(GOOD, shown).message,
        presenter.preview_fresh(GOOD)[0],
        *presenter.background.verify(GOOD, EPOCH_2),
    ):
        assert 'role="alert"' in told


@pytest.mark.parametrize("state", [None, Path("/x/my lora")], ids=["cleared", "set"])
def test_what_the_gym_tab_is_to_hold(presenter: TabPresenter, state: Path | None) -> None:
    values = presenter.carry(found(), ["", 16, "", False], GOOD, Written(state)).values

    assert values is not None
    name, box, save_state = values[:3]
    assert (name, save_state) == (GOOD, True)  # the script saves states, whatever it resumes from
    assert box == "" if state is None else "/x/my lora" in box and box != "/x/my lora"


# Reading every byte.


def test_verifying_tells_its_progress_and_then_nothing(presenter: TabPresenter) -> None:
    told = list(presenter.background.verify(GOOD, EPOCH_2))

    assert "Reading every byte of Epoch 2" in told[0]
    assert told[-1] == ""
    assert "bit" in presenter.show(GOOD, EPOCH_2, "").panel


def test_verifying_finds_what_a_look_cannot(presenter: TabPresenter, outputs: Path) -> None:
    weights = outputs / GOOD / EPOCH_2 / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 0x40
    weights.write_bytes(data)
    assert presenter.show(GOOD, EPOCH_2, "").resumes

    list(presenter.background.verify(GOOD, EPOCH_2))

    assert "weights-differ-from-lora" in presenter.show(GOOD, EPOCH_2, "").panel
    assert not presenter.show(GOOD, EPOCH_2, "").resumes


def test_the_same_is_not_read_twice_at_once_and_another_can_be(presenter: TabPresenter) -> None:
    first = presenter.background.verify(GOOD, EPOCH_2)
    next(first)

    assert "being verified already" in "".join(presenter.background.verify(GOOD, EPOCH_2))
    assert list(presenter.background.verify(GOOD, EPOCH_1))[-1] == ""
    first.close()
    assert list(presenter.background.verify(GOOD, EPOCH_2))[-1] == ""


def test_cancelling_what_is_not_read_is_nothing(presenter: TabPresenter) -> None:
    presenter.background.cancel(GOOD, EPOCH_2)
    assert list(presenter.background.verify(GOOD, EPOCH_2))[-1] == ""


# Several at once.


def test_many_threads_see_the_same(presenter: TabPresenter, monkeypatch: pytest.MonkeyPatch) -> None:
    # What other tests write meanwhile must not change what the page says of the disk.
    usage = shutil.disk_usage(presenter.outputs)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    expected = presenter.show(GOOD, EPOCH_2, "epoch:down")

    def look(number: int) -> bool:
        layout = ("", "sd-scripts", "accelerate-objects")[number % 3]
        view = presenter.show(GOOD, EPOCH_2, "epoch:down", layout)
        presenter.choices()
        return view.resumes == (layout != "accelerate-objects") and (bool(layout) or view == expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(look, range(48)))


def test_a_python_that_is_asked_again_holds_up_no_other_page(outputs: Path, tmp_path: Path) -> None:
    python = SlowPython(tmp_path / "slow" / "python")
    python.go_on()
    presenter = TabPresenter(outputs, python=python.path)
    before = presenter.show(GOOD, EPOCH_2, "")
    python.answers(accelerate="0.33.0")
    with ThreadPoolExecutor() as pool:
        first_page = pool.submit(presenter.show, GOOD, EPOCH_2, "")
        python.until_asked()
        second_page = presenter.show(GOOD, EPOCH_2, "")
        assert not first_page.done()
        assert second_page.panel == before.panel
        python.go_on()
        assert first_page.result(30).panel != before.panel
    assert presenter.show(GOOD, EPOCH_2, "").panel == first_page.result().panel


def test_of_many_that_press_at_once_one_writes(presenter: TabPresenter, outputs: Path) -> None:
    plans = [
        (state, presenter.show(GOOD, state, "").change) for state in (EPOCH_1, EPOCH_2, EPOCH_1, EPOCH_2)
    ]

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda plan: presenter.resume(GOOD, *plan), plans))

    wrote = [each for each in done if each.receipt is not None]
    assert len(wrote) == 1
    assert wrote[0].state_path is not None
    assert wrote[0].state_path.name in script(outputs).read_text()


# For programs.


def test_the_runs(presenter: TabPresenter) -> None:
    by_name = {run["run"]: run for run in api.runs(presenter)}

    assert by_name[RESUMED]["checkpoints"] == 6
    assert by_name[RESUMED]["latest_resumable"] == EPOCH_2
    assert by_name[DAMAGED]["headline"].startswith("Epoch 1 is ready.")


def test_a_checkpoint_has_no_key_that_a_client_takes_for_a_file(
    presenter: TabPresenter, outputs: Path
) -> None:
    checked = api.check(presenter, GOOD, EPOCH_2)

    assert checked["directory"] == str(outputs / GOOD / EPOCH_2)
    assert checked in api.checkpoint_table(presenter, GOOD)
    assert '"path":' not in json.dumps(checked)


@pytest.mark.parametrize("name", NOT_NAMES)
def test_names_are_compared_and_never_made_into_paths(
    presenter: TabPresenter, outputs: Path, name: str
) -> None:
    before = script(outputs).read_bytes()
    for ask in (api.checkpoint_table, presenter_diagnosis):
        with pytest.raises(UnknownName, match="There is no run"):
            ask(presenter, name)
    for act in (api.check, api.preview_resume, api.apply_resume):
        with pytest.raises(UnknownName, match="There is no run"):
            act(presenter, name, EPOCH_2)
        with pytest.raises(UnknownName, match="has no checkpoint"):
            act(presenter, GOOD, name)

    assert script(outputs).read_bytes() == before


def presenter_diagnosis(presenter: TabPresenter, name: str) -> object:
    return presenter.diagnosis_file(name)


def test_a_preview_and_then_the_change(presenter: TabPresenter, outputs: Path) -> None:
    before = script(outputs).read_bytes()
    shown = api.preview_resume(presenter, GOOD, EPOCH_2)
    assert script(outputs).read_bytes() == before

    applied = api.apply_resume(presenter, GOOD, EPOCH_2)

    assert shown["resumes"]
    assert "+  --resume" in shown["diff"]
    assert applied["applied"]
    assert applied["backup"] == "train.sh.bak"
    assert shlex.split(applied["command"]) == ["bash", f"outputs/{GOOD}/train.sh"]
    assert f"/{GOOD}/{EPOCH_2}" in script(outputs).read_text()


@pytest.mark.parametrize(("run", "state"), [(DAMAGED, EPOCH_2), (RESUMED, EPOCH_3)])
def test_what_does_not_resume_is_not_applied(
    presenter: TabPresenter, outputs: Path, run: str, state: str
) -> None:
    before = script(outputs, run).read_bytes()

    assert not api.preview_resume(presenter, run, state)["resumes"]
    applied = api.apply_resume(presenter, run, state)

    assert not applied["applied"]
    assert applied["reason"]
    assert script(outputs, run).read_bytes() == before


def test_a_script_that_is_not_understood_is_a_reason(presenter: TabPresenter, outputs: Path) -> None:
    script(outputs).unlink()

    assert "train.sh" in api.preview_resume(presenter, GOOD, EPOCH_2)["reason"]
    assert "train.sh" in api.apply_resume(presenter, GOOD, EPOCH_2)["reason"]


def test_names_that_are_no_utf_8_can_be_sent_and_sent_back(presenter: TabPresenter, outputs: Path) -> None:
    try:
        (outputs / GOOD).rename(outputs / "caf\udce9")
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system takes no names that are no UTF-8")

    json.dumps([api.runs(presenter), api.checkpoint_table(presenter, "caf\\udce9")]).encode()
    assert api.check(presenter, "caf\\udce9", EPOCH_2)["verdict"] == "ready"


def test_a_missing_outputs_folder_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputsFolderError, match="outputs"):
        api.runs(TabPresenter(tmp_path / "outputs"))


def test_the_diagnosis_is_a_zip_in_a_folder_of_its_own(presenter: TabPresenter) -> None:
    first, second = presenter.diagnosis_file(DAMAGED), presenter.diagnosis_file(DAMAGED)

    assert first.parent != second.parent
    with zipfile.ZipFile(first) as archive:
        assert any(name.endswith("diagnosis.md") for name in archive.namelist())


def test_versions_that_nobody_has_tried_are_tried_before_a_program_s_resume(
    presenter: TabPresenter, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = presenter.python.environment()
    assert isinstance(known, EnvironmentFacts)
    packages = tuple((name, "9.0" if name == "accelerate" else version) for name, version in known.packages)
    presenter = TabPresenter(outputs)
    monkeypatch.setattr(presenter.python, "environment", lambda: replace(known, packages=packages))
    item = presenter.checkpoint(presenter.run(GOOD), EPOCH_2)
    assert item.needs_rehearsal
    assert "It was not rehearsed to the end" in presenter.resume(GOOD, EPOCH_2, None).message

    done = api.apply_resume(presenter, GOOD, EPOCH_2)

    assert done["applied"]
    assert "rehearsal-passed" in [
        found.code for found in presenter.checkpoint(presenter.run(GOOD), EPOCH_2).findings
    ]


@pytest.mark.parametrize("ended", [RehearsalStatus.CANCELLED, None])
def test_a_program_s_resume_is_held_to_what_the_page_s_is(
    presenter: TabPresenter, outputs: Path, monkeypatch: pytest.MonkeyPatch, ended: RehearsalStatus | None
) -> None:
    """A rehearsal that is needed and was not finished, or not even begun, stops both."""
    known = presenter.python.environment()
    assert isinstance(known, EnvironmentFacts)
    packages = tuple((name, "9.0" if name == "accelerate" else version) for name, version in known.packages)
    presenter = TabPresenter(outputs)
    monkeypatch.setattr(presenter.python, "environment", lambda: replace(known, packages=packages))
    if ended is None:
        monkeypatch.setattr(presenter.background, "rehearse_unusual", lambda *_: iter(()))
    else:
        monkeypatch.setattr(background, "rehearse_state", lambda *_, **__: RehearsalOutcome(ended))
    before = script(outputs).read_bytes()

    by_program = api.apply_resume(presenter, GOOD, EPOCH_2)
    by_page = presenter.resume_shown(presenter.show(GOOD, EPOCH_2, ""))

    assert (by_program["applied"], by_page.written) == (False, False)
    assert by_program["reason"] == "It was not rehearsed to the end; nothing was changed."
    assert by_program["reason"] in by_page.message
    assert script(outputs).read_bytes() == before


def test_an_option_that_resumes_is_held_to_the_same(presenter: TabPresenter, outputs: Path) -> None:
    asked = (presenter.repairs.ask(GOOD, "", number, "", Choices())[1] for number in "123")
    question = next(each for each in asked if each and each.option and each.option.repair_plan is None)
    assert question.option is not None
    truncate(outputs / GOOD / question.option.checkpoint / "optimizer.bin")
    before = script(outputs).read_bytes()

    done = presenter.answer(GOOD, question)

    assert "does not resume" in done.message
    assert not done.written
    assert script(outputs).read_bytes() == before


def test_where_none_resumes_the_newest_that_can_be_mended_is_shown(
    presenter: TabPresenter, outputs: Path
) -> None:
    text = script(outputs).read_text(encoding="utf-8")
    script(outputs).write_text(text.replace("--network_dim 4", "--network_dim 8"), encoding="utf-8")

    view = presenter.show(GOOD, "", "epoch:down")

    newest = presenter.run(GOOD).checkpoints[0]
    assert newest.verdict.value == "needs-fix"
    assert (view.selected, view.resumes) == (newest.name, False)
    assert "Set --network_dim 4 in the train script again" in view.panel
