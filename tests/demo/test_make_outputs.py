"""The sample FluxGym folder: complete, made again without losing anything, and refusing others' folders."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.demo import make_outputs
from checkpoint_core.demo.make_outputs import MARKER, NotOurFolder, main, make_sample_outputs
from checkpoint_core.demo.runs import DAMAGED, NEEDS_FIX, READY, SAMPLES, WARNINGS, SampleRun
from tests.world import STATE_FILES

RUNS = {run.name: run for run in SAMPLES}


@pytest.fixture
def gym(sample_template: Path, tmp_path: Path) -> Path:
    """A copy of the sample folder, times kept; the paths in its scripts are the template's."""
    shutil.copytree(sample_template, tmp_path / "gym")
    return tmp_path / "gym"


def run_dir(gym: Path, run: SampleRun) -> Path:
    return gym / "outputs" / run.name


def states_of(gym: Path, run: SampleRun) -> list[str]:
    found = sorted(run_dir(gym, run).glob("*-state"), key=lambda path: path.stat().st_mtime_ns)
    return [path.name for path in found]


def everything(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_samples_show_every_verdict_that_lasts() -> None:
    shown = {verdict for run in SAMPLES for verdict in run.verdicts.values()}
    assert shown == {READY, WARNINGS, NEEDS_FIX, DAMAGED}


@pytest.mark.parametrize("run", SAMPLES, ids=lambda run: run.lora_name)
def test_a_run_has_the_states_that_are_listed(gym: Path, run: SampleRun) -> None:
    assert set(states_of(gym, run)) == set(run.verdicts)


@pytest.mark.parametrize("run", SAMPLES, ids=lambda run: run.lora_name)
def test_a_run_s_script_is_whole_for_bash(gym: Path, run: SampleRun) -> None:
    text = (run_dir(gym, run) / "train.sh").read_text(encoding="utf-8")
    stand_in = 'accelerate() { printf "%s\\0" "$@"; }\n'
    done = subprocess.run(["bash", "-c", stand_in + text], capture_output=True, check=True)
    arguments = done.stdout.decode().split("\0")[:-1]
    output_dir = Path(arguments[arguments.index("--output_dir") + 1])
    assert output_dir.name == run.name
    assert arguments[arguments.index("--output_name") + 1] == run.lora_name
    assert ("--save_state" in arguments) == bool(run.verdicts)


@pytest.mark.parametrize("run", SAMPLES, ids=lambda run: run.lora_name)
def test_a_run_s_images_are_named_as_the_trainer_names_them(gym: Path, run: SampleRun) -> None:
    images = sorted(path.name for path in (run_dir(gym, run) / "sample").iterdir())
    assert len(images) == run.trained // run.every
    by_step = run.name in ("cat-toy", "no-states-yet")
    first = f"{run.every * 8:06d}" if by_step else f"e{run.every:06d}"
    assert images[0].startswith(f"{run.lora_name}_{first}_00_2026")


def test_only_the_accidents_shown_have_happened(gym: Path) -> None:
    incomplete = set()
    for run in SAMPLES:
        for name in run.verdicts:
            state = run_dir(gym, run) / name
            assert sorted(path.name for path in state.iterdir()) == sorted(STATE_FILES)
            sound = run_dir(gym, RUNS["persian-miniature"]) / "persian-miniature-000004-state"
            for file in ("optimizer.bin", "random_states_0.pkl"):
                if (state / file).stat().st_size != (sound / file).stat().st_size:
                    incomplete.add((name, file))
    assert incomplete == {
        ("cat-toy-000008-state", "optimizer.bin"),
        ("old-lighthouse-000003-state", "random_states_0.pkl"),
    }


def test_the_audit_finds_what_is_shown(sample_template: Path) -> None:
    report = Auditor(sample_template / "outputs").audit()
    found = {
        run.name: {checkpoint.name: checkpoint.verdict.value for checkpoint in run.checkpoints}
        for run in report.runs
    }
    assert found == {run.name: dict(run.verdicts) for run in SAMPLES}


def test_the_resumed_run_counts_steps_from_its_resume(gym: Path) -> None:
    run = run_dir(gym, RUNS["night-city"])
    records = {
        path.parent.name: json.loads(path.read_text()) for path in run.glob("*-state/train_state.json")
    }
    assert records["night-city-000002-state"] == {"current_epoch": 2, "current_step": 16}
    assert records["night-city-000004-state"] == {"current_epoch": 4, "current_step": 16}


def test_the_mixed_state_holds_newer_weights_than_its_optimizer(gym: Path) -> None:
    state = run_dir(gym, RUNS["watercolor-fox"]) / "watercolor-fox-000003-state"
    times = {name: (state / name).stat().st_mtime for name in STATE_FILES}
    assert times["train_state.json"] <= times["model.safetensors"]
    assert times["model.safetensors"] - times["random_states_0.pkl"] == pytest.approx(36_000, abs=1)


@pytest.mark.parametrize("run", SAMPLES, ids=lambda run: run.lora_name)
def test_saves_are_dated_in_order_and_written_within_a_second(gym: Path, run: SampleRun) -> None:
    assert states_of(gym, run) == list(run.verdicts)
    for name, verdict in run.verdicts.items():
        state = run_dir(gym, run) / name
        times = [(state / file).stat().st_mtime for file in STATE_FILES]
        saved = datetime.fromtimestamp(max(times), timezone.utc)
        assert run.started < saved < run.started + timedelta(days=1)
        if verdict != DAMAGED or run.name == "cat-toy":
            assert times == sorted(times)
            assert times[-1] - times[0] < 1


def test_runs_differ_in_when_they_were_trained() -> None:
    starts = [run.started for run in SAMPLES]
    assert starts == sorted(set(starts), reverse=True)


def test_made_again_it_is_the_same_and_keeps_what_others_put_in(gym: Path) -> None:
    notes = gym / "outputs" / "cat-toy" / "notes.txt"
    notes.write_text("mine")
    (gym / "outputs" / "my-own-run" / "empty").mkdir(parents=True)
    before = everything(gym)
    (gym / "outputs" / "cat-toy" / "train.sh").write_text("edited")
    shutil.rmtree(gym / "outputs" / "night-city")
    make_sample_outputs(gym)
    after = everything(gym)
    assert after.keys() == before.keys()
    assert notes.read_text() == "mine"
    # Weights and optimizers are the same numbers each time; sessions and dates in LoRA files are not.
    for name, data in before.items():
        if name.endswith(("/optimizer.bin", "/model.safetensors", "/train_state.json")):
            assert after[name] == data, name


def test_what_a_broken_off_making_left_is_made_anew(gym: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_outputs, "SAMPLES", (RUNS["paper-crane"],))
    marker = gym / MARKER
    record = json.loads(marker.read_text())
    record["files"] = [name for name in record["files"] if "/paper-crane/" not in name]
    marker.write_text(json.dumps({**record, "unfinished": "paper-crane"}))
    leftover = gym / "outputs" / "paper-crane" / "paper-crane-000009-state"
    leftover.mkdir()
    make_sample_outputs(gym)
    assert not leftover.exists()
    assert set(states_of(gym, RUNS["paper-crane"])) == set(RUNS["paper-crane"].verdicts)


def test_a_folder_of_somebody_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == (
        f"{tmp_path} is not empty and was not made by this program; nothing was changed. "
        "Name a new or an empty folder."
    )
    assert everything(tmp_path) == {"thesis.txt": b"mine"}


def test_a_run_of_somebody_else_with_a_sample_s_name_is_refused(
    gym: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_outputs, "SAMPLES", (RUNS["cat-toy"],))
    script = gym / "outputs" / "cat-toy" / "train.sh"
    record = json.loads((gym / MARKER).read_text())
    record["files"].remove("outputs/cat-toy/train.sh")
    (gym / MARKER).write_text(json.dumps(record))
    script.write_text("mine")
    with pytest.raises(NotOurFolder, match="cat-toy was not made by this program; rename it first"):
        make_sample_outputs(gym)
    assert script.read_text() == "mine"


def test_a_marker_that_points_outside_removes_nothing_there(
    gym: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_outputs, "SAMPLES", ())
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "kept.txt").write_text("mine")
    (gym / "link").symlink_to(linked)
    record = json.loads((gym / MARKER).read_text())
    record["files"] += ["../outside.txt", "link/kept.txt", str(outside)]
    (gym / MARKER).write_text(json.dumps(record))
    make_sample_outputs(gym)
    assert outside.read_text() == (linked / "kept.txt").read_text() == "mine"


def test_a_folder_of_any_name_gives_scripts_that_bash_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(RUNS["night-city"], finish=lambda run, folder: None)
    monkeypatch.setattr(make_outputs, "SAMPLES", (run,))
    gym = tmp_path / 'Zoë\'s "gym" $HOME `x`'
    make_sample_outputs(gym)
    text = (run_dir(gym, run) / "train.sh").read_text(encoding="utf-8")
    stand_in = 'accelerate() { printf "%s\\0" "$@"; }\n'
    arguments = subprocess.run(["bash", "-c", stand_in + text], capture_output=True, check=True).stdout.split(
        b"\0"
    )
    resume = arguments[arguments.index(b"--resume") + 1].decode()
    assert Path(resume) == run_dir(gym, run) / "night-city-000002-state"
    assert Path(resume).is_dir()


def test_a_name_that_the_file_system_refuses_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_outputs, "SAMPLES", (replace(SAMPLES[0], name="x" * 300),))
    assert make_sample_outputs(tmp_path / "gym") == []
