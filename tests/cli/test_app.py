from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from checkpoint_core.cli import app
from checkpoint_core.report.table import COLUMNS
from tests.damage import edit_train_state, flip_tensor_byte, remove, truncate
from tests.environments import executable_script, install, make_environment
from tests.world import PROJECT, World

FIELDS = {"run", "state", "path", "layout", "epoch", "step", "size_bytes", "saved_at", "verdict", "findings"}
FINDING_FIELDS = {"code", "severity", "subject", "file", "message", "effect", "cure"}


class Done:
    """How a command ended: exit status and both outputs."""

    def __init__(self, *arguments: object) -> None:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "80"})
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """What was printed, whatever the line breaks."""
        return " ".join(self.out.split())


def test_scan_lists_every_checkpoint_with_its_verdict(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    done = Done("scan", world.outputs)

    assert done.code == 0
    assert "Epoch 3 is ready. Epoch 4, the latest, is damaged" in done.words
    assert re.search(r"^Damaged +persian-cat-000004-state +4 +32 ", done.out, re.MULTILINE)
    assert re.search(r"^Ready +persian-cat-000003-state +3 +24 ", done.out, re.MULTILINE)
    assert max(len(line) for line in done.out.splitlines()) <= 80


def test_scan_json_is_all_there_is_on_stdout(world: World) -> None:
    done = Done("scan", world.outputs, "--json")
    scan = done.json

    assert (scan["schema_version"], scan["kind"]) == (1, "scan")
    assert [item["epoch"] for item in scan["checkpoints"]] == [4, 3, 2, 1]
    assert all(item.keys() >= FIELDS for item in scan["checkpoints"])
    assert all(found.keys() >= FINDING_FIELDS for item in scan["checkpoints"] for found in item["findings"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", scan["checkpoints"][0]["saved_at"])
    assert scan["runs"][0]["latest_resumable"] == world.latest.name
    assert done.err == ""


def test_scan_csv_is_the_table(world: World) -> None:
    rows = list(csv.DictReader(io.StringIO(Done("scan", world.outputs, "--csv").out)))

    assert list(rows[0]) == list(COLUMNS)
    assert [row["state"] for row in rows] == [world.state(epoch).name for epoch in (4, 3, 2, 1)]


def test_scan_can_look_at_one_run(world: World) -> None:
    shutil.copytree(world.run, world.outputs / "other")

    assert {item["run"] for item in Done("scan", world.outputs, "--json").json["checkpoints"]} == {
        "other",
        world.run_name,
    }
    assert {item["run"] for item in Done("scan", world.outputs, "--run", "other", "--json").json["runs"]} == {
        "other"
    }


def test_scan_fails_when_a_run_has_nothing_left(world: World) -> None:
    shutil.copytree(world.run, world.outputs / "other")
    for epoch in (1, 2, 3, 4):
        truncate(world.state(epoch) / "optimizer.bin")

    assert Done("scan", world.outputs).code == 1
    assert Done("scan", world.outputs, "--run", "other").code == 0


def test_scan_of_a_folder_without_checkpoints_resumes_nothing(tmp_path: Path) -> None:
    (tmp_path / "sample").mkdir()
    done = Done("scan", tmp_path)

    assert done.code == 1
    assert "There are no runs in" in done.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{outputs}/gone"], "There is no folder"),
        (["{outputs}", "--run", "gone"], "There is no run 'gone'"),
        (["{outputs}", "--run", ".."], "There is no run '..'"),
        (["{outputs}", "--json", "--csv"], "not both"),
        (["{outputs}", "--layout", "other"], "accelerate-objects"),
        ([], "OUTPUTS"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(world: World, arguments: list[str], sentence: str) -> None:
    done = Done("scan", *(argument.format(outputs=world.outputs) for argument in arguments))

    assert done.code == 2
    assert done.out == ""
    assert sentence in done.err
    assert "Traceback" not in done.err


def test_check_tells_cause_effect_and_cure(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    done = Done("check", world.latest)

    assert done.code == 1
    assert done.out.startswith(f"Damaged: {world.latest}\n")
    assert "Damage: optimizer.bin is truncated" in done.words
    assert "[optimizer-truncated] Training: The trainer stops before the first step" in done.words
    assert "Fix: Resume from an older checkpoint of this run that is ready." in done.words


def test_check_json_is_one_checkpoint(world: World) -> None:
    done = Done("check", world.latest, "--json")

    assert done.code == 0
    assert done.json.keys() >= FIELDS | {"schema_version", "kind"}
    assert done.json["verdict"] == "ready"
    scanned = Done("scan", world.outputs, "--json").json
    own = {"schema_version": 1, "kind": "check", "environment": scanned["runs"][0]["environment"]}
    assert done.json == {**scanned["checkpoints"][0], **own}


def test_check_of_a_path_that_is_no_state_has_the_same_form(world: World) -> None:
    done = Done("check", world.lora(3), "--json")

    assert done.code == 1
    assert done.json.keys() == Done("check", world.latest, "--json").json.keys()
    assert [done.json[key] for key in ("epoch", "step", "size_bytes", "saved_at")] == [None] * 4
    assert done.json["findings"][0]["code"] == "path-lora-file"
    assert str(world.state(3)) in done.json["findings"][0]["cure"]


def test_check_cannot_tell_while_a_checkpoint_is_written(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    remove(world.latest / "random_states_0.pkl")
    os.utime(world.latest / "optimizer.bin")
    done = Done("check", world.latest)

    assert done.code == 2
    assert done.out.startswith("Being saved: ")


def test_check_judges_with_another_script(world: World, tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text(world.script.read_text().replace("--max_train_epochs 8", "--max_train_epochs 4"))

    assert Done("check", world.latest, "--script", script).code == 1
    assert Done("check", world.latest, "--script", tmp_path / "gone.sh").code == 2


def test_check_reads_every_byte_when_asked(world: World) -> None:
    assert "[weights-match-lora]" in Done("check", world.latest, "--deep").out
    flip_tensor_byte(world.latest / "model.safetensors", offset=3)

    assert Done("check", world.latest).code == 0
    assert Done("check", world.latest, "--deep").code == 1


def test_the_progress_bar_is_on_stderr(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = Done("check", world.latest, "--deep", "--json")

    assert "Reading every byte" in done.err
    assert done.json["verdict"] == "ready"


def test_cancelling_ends_cleanly(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["checkpoint_core.cli.app"], "audit_state", interrupted)
    done = Done("check", world.latest, "--deep")

    assert (done.code, done.out) == (2, "")
    assert done.err.strip() == "Cancelled."


def given_to_the_trainer(world: World) -> list[str]:
    """What bash hands to `accelerate` when it runs the script from FluxGym's folder."""
    command = 'accelerate() { printf "%s\\n" "$@"; }; . "$0"'
    done = subprocess.run(
        ["bash", "-c", command, str(world.script)], cwd=world.root, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def resume_argument(world: World) -> str | None:
    words = given_to_the_trainer(world)
    return words[words.index("--resume") + 1] if "--resume" in words else None


def test_resume_takes_the_latest_that_resumes(world: World) -> None:
    before = world.script.read_bytes()
    truncate(world.latest / "optimizer.bin")
    done = Done("resume", world.run)

    assert done.code == 0
    assert resume_argument(world) == str(world.state(3))
    assert "Passed over: persian-cat-000004-state, damaged: optimizer.bin is truncated" in done.out
    assert f'+  --resume "{world.state(3)}"' in done.out
    assert f"Backup: {world.script}.bak" in done.out
    assert f"To train, run this in {world.root}, with" in done.out
    assert 'bash "outputs/persian-cat/train.sh"' in done.out
    assert Path(f"{world.script}.bak").read_bytes() == before


def test_the_command_that_resume_names_runs(world: World) -> None:
    command = Done("resume", world.run).out.splitlines()[-1]
    fake = world.root / "bin" / "accelerate"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, shell=True, cwd=world.root, env=environment, capture_output=True, text=True
    )

    assert str(world.latest) in done.stdout.splitlines()


def test_resume_takes_the_one_that_is_named(world: World) -> None:
    assert Done("resume", world.run, "--state", world.state(2).name).code == 0
    assert resume_argument(world) == str(world.state(2))


def test_resume_understands_a_completed_path(world: World) -> None:
    assert Done("resume", f"{world.run}/", "--state", f"{world.state(2)}/").code == 0
    assert resume_argument(world) == str(world.state(2))


def test_resume_twice_writes_once(world: World) -> None:
    Done("resume", world.run)
    once = world.script.read_bytes()
    done = Done("resume", world.run, "--latest")

    assert done.code == 0
    assert "nothing was written" in done.out
    assert world.script.read_bytes() == once
    assert not Path(f"{world.script}.bak.1").exists()


def test_resume_can_be_undone_and_done_again(world: World) -> None:
    before = world.script.read_bytes()
    Done("resume", world.run)
    after = world.script.read_bytes()

    assert Done("resume", world.run, "--undo").code == 0
    assert world.script.read_bytes() == before
    assert Done("resume", world.run, "--undo").code == 0
    assert world.script.read_bytes() == after


def test_start_fresh_removes_the_flag(world: World) -> None:
    before = world.script.read_bytes()
    Done("resume", world.run)

    assert Done("resume", world.run, "--fresh").code == 0
    assert world.script.read_bytes() == before


@pytest.mark.parametrize(
    "how", [["--latest"], ["--fresh"], ["--undo"], ["--state", "persian-cat-000001-state"]]
)
def test_a_dry_run_shows_and_writes_nothing(world: World, how: list[str]) -> None:
    Done("resume", world.run, "--state", world.state(2).name)
    before = {path: path.read_bytes() for path in world.run.iterdir() if path.is_file()}
    done = Done("resume", world.run, *how, "--dry-run")

    assert done.code == 0
    assert "--- a/train.sh" in done.out
    assert "Dry run: nothing was written." in done.out
    assert {path: path.read_bytes() for path in world.run.iterdir() if path.is_file()} == before


def test_a_checkpoint_that_does_not_resume_is_refused_with_its_findings(world: World) -> None:
    before = world.script.read_bytes()
    edit_train_state(world.latest, current_step=8)
    done = Done("resume", world.run, "--state", world.latest.name)

    assert done.code == 1
    assert "[position-relative]" in done.out
    assert "Refused" in done.err
    assert world.script.read_bytes() == before


def test_a_run_with_nothing_left_is_refused_with_the_reasons(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        truncate(world.state(epoch) / "optimizer.bin")
    done = Done("resume", world.run)

    assert done.code == 1
    assert done.out.count("Passed over: ") == 4
    assert "None of the checkpoints resumes as it is" in done.err


def test_a_state_deeper_in_the_run_is_written_with_its_own_path(world: World) -> None:
    inner = world.run / "checkpoints" / "checkpoint_0"
    inner.parent.mkdir()
    shutil.copytree(world.latest, inner)
    for epoch in (1, 2, 3, 4):
        shutil.rmtree(world.state(epoch))

    assert Done("resume", world.run).code == 0
    assert resume_argument(world) == str(inner)


def test_a_script_of_another_machine_keeps_its_own_paths(world: World) -> None:
    world.edit_script(lambda text: text.replace(str(world.root), "/workspace/fluxgym"))
    done = Done("resume", world.run)

    assert "Note: The script names the run's folder as /workspace/fluxgym/outputs/persian-cat" in done.out
    assert resume_argument(world) == "/workspace/fluxgym/outputs/persian-cat/persian-cat-000004-state"


@pytest.mark.parametrize("how", ["--latest", "--fresh", "--undo"])
def test_without_a_script_there_is_nothing_to_write_into(world: World, how: str) -> None:
    world.script.unlink()
    done = Done("resume", world.run, how)

    assert done.code == 1
    assert "Start training" in done.err


@pytest.mark.parametrize("text", [None, "accelerate launch $EVERYTHING\n"])
def test_a_script_that_cannot_be_edited_is_refused(world: World, text: str | None) -> None:
    world.script.unlink()
    if text is not None:
        world.script.write_text(text)
    done = Done("resume", world.run)

    assert done.code == 1
    assert "Refused: " in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{run}/gone"], "There is no folder"),
        (["{run}", "--state", "gone"], "It has: persian-cat-000004-state, "),
        (["{run}", "--latest", "--fresh"], "only one"),
        (["{run}", "--undo"], "nothing to undo"),
        (["{outputs}/sample"], "is not a run's folder"),
        (["{outputs}"], "Give one of them: persian-cat."),
    ],
)
def test_a_wrong_resume_is_told_in_a_sentence(world: World, arguments: list[str], sentence: str) -> None:
    (world.outputs / "sample").mkdir()
    done = Done("resume", *(argument.format(run=world.run, outputs=world.outputs) for argument in arguments))

    assert done.code == 2
    assert sentence in done.err
    assert "Traceback" not in done.err


def test_report_writes_one_zip(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = Done("report", world.run)
    (path,) = tmp_path.glob("persian-cat-diagnosis-*.zip")

    assert done.code == 0
    assert f"Written: {path.name}" in done.out
    with zipfile.ZipFile(path) as archive:
        assert {name.rpartition("/")[2] for name in archive.namelist()} >= {"diagnosis.md", "diagnosis.json"}


def test_report_never_overwrites(world: World, tmp_path: Path) -> None:
    path = tmp_path / "mine.zip"
    path.write_text("mine")
    done = Done("report", world.run, "-o", path)

    assert done.code == 2
    assert "exists already" in done.err
    assert path.read_text() == "mine"


def test_report_takes_a_folder_and_refuses_a_missing_one(world: World, tmp_path: Path) -> None:
    assert Done("report", world.run, "-o", tmp_path / "no" / "x.zip").code == 2
    assert Done("report", world.run, "-o", tmp_path).code == 0
    assert len(list(tmp_path.glob("persian-cat-diagnosis-*.zip"))) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows allows no such name")
def test_a_name_can_command_no_terminal_and_is_no_markup(world: World) -> None:
    name = "[red]x[bold]\x1b[2J\r\n-000004-state"
    world.latest.rename(world.run / name)
    for done in (
        Done("scan", world.outputs),
        Done("check", world.run / name),
        Done("resume", world.run, "--dry-run"),
    ):
        assert not set("\x1b\r") & set(done.out + done.err)
        assert "[red]x[bold]\\x1b[2J" in done.out.replace("\n", "").replace(" ", "")


@pytest.mark.skipif(os.name == "nt", reason="names of bytes exist on POSIX only")
def test_a_name_that_is_no_text_is_no_trouble(world: World) -> None:
    world.latest.rename(world.run / os.fsdecode(b"caf\xe9-000004-state"))

    assert "caf\\xe9-000004-state" in Done("scan", world.outputs).out
    assert Done("scan", world.outputs, "--json").json["checkpoints"][0]["state"] == "caf\udce9-000004-state"


def test_a_terminal_of_another_encoding_gets_escapes(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    done = subprocess.run(
        [sys.executable, "-m", "checkpoint_core", "check", str(world.root / "none")],
        cwd=PROJECT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )

    assert done.returncode == 1
    assert b"\\u201cTried to find" in done.stdout


@pytest.mark.parametrize("command", [[], ["scan"], ["check"], ["resume"], ["report"]])
def test_the_help_fits_and_says_what_the_exit_status_means(command: list[str]) -> None:
    done = Done(*command, "--help")

    assert done.code == 0
    assert "Exit status: 0 " in done.words
    assert max(len(line) for line in done.out.splitlines()) <= 80


def test_the_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; import checkpoint_core.cli.app;"
        "print([name for name in ('torch', 'accelerate', 'gradio', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


# The training interpreter


@pytest.fixture
def old_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment with nothing but the metadata of packages, in which a good state stops the training."""
    monkeypatch.delenv("FLUXGYM_PYTHON")
    versions = {"accelerate": "0.33.0", "torch": "2.6.0", "numpy": "2.4.6", "safetensors": "0.8.0"}
    return make_environment(tmp_path / "env", **versions)


def test_check_judges_for_the_python_that_is_named(world: World, old_accelerate: Path) -> None:
    done = Done("check", world.latest, "--python", old_accelerate)

    assert done.code == 1
    assert "This environment (accelerate 0.33.0, torch 2.6.0) stops at random_states_0.pkl" in done.words
    assert Done("check", world.latest, "--python", sys.executable).code == 0


def test_check_judges_for_the_package_that_python_path_puts_first(
    world: World, old_accelerate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "first", "accelerate", "1.6.0")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "first"))

    assert Done("check", world.latest, "--python", old_accelerate).code == 0


@pytest.mark.parametrize("relative", [False, True])
def test_scan_takes_an_environments_folder_for_its_python(
    world: World, old_accelerate: Path, relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(old_accelerate.parents[2])
    folder = old_accelerate.parents[1]
    done = Done("scan", world.outputs, "--json", "--python", folder.name if relative else folder)

    assert done.code == 1
    assert done.json["runs"][0]["environment"]["executable"] == str(old_accelerate)
    assert {item["verdict"] for item in done.json["checkpoints"]} == {"needs-fix"}


def test_the_environment_in_fluxgyms_folder_is_found(world: World, old_accelerate: Path) -> None:
    (world.root / "env").symlink_to(old_accelerate.parents[1])

    assert Done("scan", world.outputs).code == 1
    assert Done("check", world.latest).code == 1
    done = Done("resume", world.run, "--dry-run")
    assert done.code == 1
    assert "Refused" in done.out + done.err


@pytest.mark.parametrize("command", ["scan", "check", "resume", "report"])
def test_a_python_that_is_not_there_is_wrong_usage(world: World, command: str) -> None:
    place = {"scan": world.outputs, "check": world.latest}.get(command, world.run)
    done = Done(command, place, "--python", world.root / "gone/python")

    assert (done.code, done.out) == (2, "")
    assert "There is no Python" in done.err
    assert "Give the path of one, or of its environment's folder." in " ".join(done.err.split())


def test_a_python_that_does_not_answer_leaves_the_answer_open(world: World) -> None:
    silent = executable_script(world.root / "env/bin/python", "exit 3")
    done = Done("check", world.latest, "--python", silent)

    assert done.code == 2
    assert "could not be queried: it stopped with status 3." in done.words
    assert Done("scan", world.outputs, "--python", silent).code == 2


def test_a_python_can_be_named_as_the_shell_names_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "the-python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    done = Done("check", world.latest, "--python", "the-python", "--json")

    assert done.json["environment"]["executable"] == str(tmp_path / "the-python")
    assert Done("check", world.latest, "--python", "no-python-of-that-name").code == 2
