from __future__ import annotations

import io
import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.reports import AuditReport, RunReport
from checkpoint_core.recovery.options import RecoveryPlan
from checkpoint_core.recovery.planning import plan_recovery
from checkpoint_core.report.collect import diagnosis_for, redactor_here, small_files
from checkpoint_core.report.diagnosis import Diagnosis, build_report
from checkpoint_core.report.json_schema import SCHEMA_VERSION, check_json, checkpoint_json, scan_json
from checkpoint_core.report.redaction import Redactor
from checkpoint_core.report.versions import Versions
from checkpoint_core.training.log.files import JournalLine, open_log, write_journal
from checkpoint_core.training.record import ProcessState, TrainingRecord, write_record
from tests.damage import nan_in_optimizer, remove, truncate
from tests.world import World

MADE_NS = 1_767_225_600_123_456_789
VERSIONS = Versions(
    "3.10.13", "/home/jo/env/bin/python", "Linux", (("torch", "2.6.0"), ("gradio", None)), "a" * 40
)


def audited(world: World) -> RunReport:
    return Auditor(world.outputs).audit_run(world.run_name)


def report_of(run: RunReport, redactor: Redactor = Redactor()) -> Diagnosis:  # noqa: B008 - frozen
    return build_report(run, VERSIONS, dict(small_files(run)), redactor, MADE_NS, recovery_of(run))


def recovery_of(run: RunReport) -> RecoveryPlan:
    auditor = Auditor(run.facts.path.parent)
    return plan_recovery(auditor, auditor.audit_run(run.name))


def scanned(report: AuditReport) -> dict[str, Any]:
    return scan_json(report, {run.name: recovery_of(run) for run in report.runs})


def diagnosed(world: World) -> Diagnosis:
    run = audited(world)
    return diagnosis_for(run, recovery_of(run))


def members(report: Diagnosis) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(report.zip_bytes)) as archive:
        assert archive.testzip() is None
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def section(markdown: str, title: str) -> str:
    return re.split(r"\n###? ", markdown.split(f"\n{title}", 1)[1])[0]


def test_the_answer_comes_first(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    lines = report_of(audited(world)).markdown.splitlines()

    assert lines[0] == "# Diagnosis of the run `persian-cat`"
    assert lines[2].startswith(
        "**Epoch 3 is ready. Epoch 4, the latest, is damaged: optimizer.bin is truncated"
    )
    assert lines[6] == "1. Resume from Epoch 3 (persian-cat-000003-state): it will resume as it is."
    assert "- `persian-cat-000004-state`: damaged: optimizer.bin is truncated" in "\n".join(lines[6:12])


def test_every_finding_stands_as_cause_effect_and_cure(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    run = audited(world)
    told = section(report_of(run).markdown, "### `persian-cat-000004-state`: damaged")
    found = run.checkpoints[0].findings[0]

    assert f"(`{found.code}`, error)" in told
    assert f"- What happens to the training: {found.effect}" in told
    assert f"- Fix: {found.cure}" in told


def test_the_files_stand_in_the_order_of_the_save_with_their_distances(real_runs: Path) -> None:
    run = Auditor(real_runs).audit_run("killed-while-overwriting")
    told = section(report_of(run).markdown, "### `tiny-lora-000002-state`: damaged")
    rows = [line.split(" | ") for line in told.splitlines() if line.startswith("| `")]

    assert {row[0] for row in rows[-2:]} == {"| `train_state.json`", "| `model.safetensors`"}
    assert rows[0][3] == "0.000 s |"
    assert float(rows[-1][3].removesuffix(" s |")) > 1000


def test_a_second_resume_that_would_go_wrong_can_be_read_off_the_numbers(real_runs: Path) -> None:
    markdown = report_of(Auditor(real_runs).audit_run("resumed-once")).markdown
    told = section(markdown, "## Where each checkpoint stands")

    assert "| `tiny-lora-000004-state` | 4 | 4 | 16 | 32 | 32 | 4 | 16 | 8 | 3 | 5 |" in told
    assert "- `tiny-lora-000004-state` **would continue at epoch 3 instead of 5.**" in told
    assert "`tiny-lora-000002-state` **would" not in told
    assert "--initial_epoch 7" in section(markdown, "## What to do")


def test_the_versions_stand_with_what_is_not_installed(world: World) -> None:
    told = section(report_of(audited(world)).markdown, "## Versions")

    assert "| torch | `2.6.0` |" in told
    assert "| gradio | not installed |" in told
    assert f"| sd-scripts, the folder that trains next | {'a' * 40} |" in told


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("", "The script has no `--resume`"),
        (' \\\n  --resume ""', 'The script says `--resume ""`'),
        (
            ' \\\n  --resume "{latest}"',
            "leads to a state directory, the checkpoint `persian-cat-000004-state`",
        ),
        (' \\\n  --resume "{run}/gone"', "leads to nothing: `"),
        (' \\\n  --resume "{run}"', "leads to a folder that is no state directory: `"),
        (' \\\n  --resume "{run}/persian-cat-000001.safetensors"', "leads to a LoRA file"),
    ],
)
def test_where_the_script_resumes_from_is_said(world: World, flag: str, sentence: str) -> None:
    text = world.script.read_text().rstrip()
    world.script.write_text(text + flag.format(latest=world.latest, run=world.run))

    assert sentence in section(report_of(audited(world)).markdown, "## The train script")


def test_the_script_and_the_data_set_are_in_the_text(world: World) -> None:
    told = section(report_of(audited(world)).markdown, "## The train script")

    assert world.script.read_text().rstrip("\n") in told
    assert (world.run / "dataset.toml").read_text().rstrip("\n") in told
    assert "The disk has " in told


def test_a_script_that_is_not_understood_is_given_with_the_reason(world: World) -> None:
    world.script.write_text("accelerate launch $EVERYTHING\n")
    told = section(report_of(audited(world)).markdown, "## The train script")

    assert "It was not understood: " in told
    assert "accelerate launch $EVERYTHING" in told


def test_a_run_without_anything_gets_a_report_too(tmp_path: Path) -> None:
    (tmp_path / "outputs" / "empty").mkdir(parents=True)
    report = report_of(Auditor(tmp_path / "outputs").audit_run("empty"))

    assert "There are none." in report.markdown
    assert "The run has no train script." in report.markdown
    assert json.loads(report.json)["checkpoints"] == []
    assert set(members(report)) == {"diagnosis.md", "diagnosis.json"}


def test_the_zip_holds_both_texts_and_the_small_files_and_no_weights(world: World) -> None:
    report = report_of(audited(world))
    files = members(report)

    assert files["diagnosis.md"].decode() == report.markdown
    assert files["diagnosis.json"].decode() == report.json
    assert files["files/train.sh"] == world.script.read_bytes()
    state_file = "persian-cat-000002-state/train_state.json"
    assert files[f"files/{state_file}"] == (world.run / state_file).read_bytes()
    assert {name.rpartition(".")[2] for name in files} == {"md", "json", "sh", "toml", "txt"}
    assert report.file_name == "persian-cat-diagnosis-20260101T000000Z.zip"


def test_the_same_report_has_the_same_bytes(world: World) -> None:
    run = audited(world)

    assert report_of(run).zip_bytes == report_of(run).zip_bytes


def test_every_number_in_the_json_is_json(world: World) -> None:
    nan_in_optimizer(world.latest)
    document = json.loads(report_of(audited(world)).json, parse_constant=pytest.fail)

    assert document["schema_version"] == SCHEMA_VERSION
    assert document["kind"] == "diagnosis"
    assert [row["launch_epoch"] for row in document["cross_check"]] == [5, 4, 3, 2]


def test_a_changed_dataset_moves_where_the_trainer_would_go_on(world: World) -> None:
    """With twice the images' repeats an epoch has twice the steps: step 32 lies in the third, not behind the fourth."""
    config = world.run / "dataset.toml"
    text = config.read_text()
    repeats = int(re.search(r"num_repeats = (\d+)", text)[1])  # type: ignore[index]
    config.write_text(text.replace(f"num_repeats = {repeats}", f"num_repeats = {2 * repeats}"))
    run = audited(world)
    rows = json.loads(report_of(run).json)["cross_check"]

    assert [row["launch_epoch"] for row in rows] == [item.launch.start_epoch for item in run.checkpoints]
    assert [row["launch_epoch"] for row in rows] == [3, 2, 2, 1]


def test_a_checkpoint_is_the_same_object_everywhere(world: World) -> None:
    report = Auditor(world.outputs, clock=lambda: MADE_NS).audit()
    run = report.run(world.run_name)
    document, scan = json.loads(report_of(run).json), scanned(report)
    alone: dict[str, Any] = check_json(run.checkpoints[0])

    assert (
        document["checkpoints"] == scan["checkpoints"] == [checkpoint_json(item) for item in run.checkpoints]
    )
    own = {"schema_version", "kind", "environment"}
    assert {key: value for key, value in alone.items() if key not in own} == scan["checkpoints"][0]
    assert alone["environment"] == scan["runs"][0]["environment"]


def test_every_field_is_documented(world: World) -> None:
    text = (Path(__file__).parents[2] / "docs" / "report-schema.md").read_text(encoding="utf-8")
    truncate(world.latest / "optimizer.bin")
    document = json.loads(report_of(audited(world)).json)
    scan = scanned(Auditor(world.outputs).audit())

    missing = {key for key in (*_keys(document), *_keys(scan)) if f"`{key}`" not in text}
    assert missing - {name for name in missing if name.endswith((".sh", ".toml", ".txt"))} == set()


def _keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for entry in value.values() for key in _keys(entry)}
    return {key for entry in value for key in _keys(entry)} if isinstance(value, list) else set()


SECRETS = ("hf_" + "Zz9" * 10, "0123456789abcdef" * 2 + "89abcdef", "jo.doe", "p4ssw0rd")


def plant_secrets(world: World) -> None:
    token, key, user, password = SECRETS
    home = f"/home/{user}"
    world.edit_script(
        lambda text: (
            f"export HF_TOKEN={token}\n# C:\\Users\\{user}\\x wandb login {key}\n"
            + text.rstrip()
            + f' \\\n  --huggingface_token "{token}" \\\n  --wandb_api_key={key} \\\n  --resume "{home}/gone/{token}"\n'
        )
    )
    (world.run / "sample_prompts.txt").write_text(f"a cat {home} Bearer {password}\n")
    with (world.run / "dataset.toml").open("a") as file:
        file.write(f"# https://{user}:{password}@host/x\ncache = '/Users/{user}/cache'\n")
    (world.state(2) / "train_state.json").write_text(
        json.dumps({"current_epoch": 2, "current_step": 16, "note": f"HF_TOKEN={password} {home}"})
    )
    shutil.copytree(world.state(1), world.run / f"{token}-000009-state")
    (world.latest / f"WANDB_API_KEY={key}").write_text("")


def test_no_secret_gets_out_by_any_way(world: World) -> None:
    plant_secrets(world)
    report = report_of(audited(world), Redactor(homes=("/home/jo.doe",), users=("jo.doe",)))
    outputs = [report.file_name.encode(), report.markdown.encode(), report.json.encode()]
    outputs += [data for item in members(report).items() for data in (item[0].encode(), item[1])]

    for secret in SECRETS:
        assert [data for data in outputs if secret.encode() in data] == []
    assert b"[redacted]" in outputs[1]
    assert b"[redacted]" in members(report)["files/train.sh"]


def test_the_user_of_this_machine_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "LOGNAME": "ann"}.items():
        monkeypatch.setenv(name, value)

    assert redactor_here().text(f"{tmp_path}/x /media/ann/y") == "~/x /media/[user]/y"
    assert str(tmp_path) not in diagnosed(world).markdown


HOSTILE = "x`|<img src=x onerror=alert(1)>\n# owned\x1b[31m"


@pytest.mark.skipif(os.name == "nt", reason="Windows allows no such name")
def test_names_from_the_disk_are_no_markup(world: World) -> None:
    world.state(1).rename(world.run / HOSTILE)
    world.run.rename(world.outputs / HOSTILE)
    run = Auditor(world.outputs).audit_run(HOSTILE)
    report = report_of(run)
    outside_code = [line for line in report.markdown.splitlines() if "<img" in line and "`" not in line]

    assert "\n# owned" not in report.markdown
    assert "\x1b" not in report.markdown
    assert outside_code == []
    assert json.loads(report.json)["run"]["run"] == HOSTILE
    assert "/" not in report.file_name
    assert all(name.isprintable() and not set('|<>:"?*\\') & set(name) for name in members(report))


@pytest.mark.skipif(os.name == "nt", reason="names of bytes exist on POSIX only")
def test_names_that_are_no_text_go_through(world: World) -> None:
    world.latest.rename(world.run / os.fsdecode(b"caf\xe9-000004-state"))
    report = report_of(audited(world))

    assert "caf\\xe9-000004-state" in report.markdown
    assert json.loads(report.json)["checkpoints"][0]["state"] == "caf\udce9-000004-state"
    assert "files/caf_xe9-000004-state/train_state.json" in members(report)


def test_two_names_never_share_a_place_in_the_zip(world: World) -> None:
    run = audited(world)
    report = build_report(
        run, VERSIONS, {"a?b": b"1", "a*b": b"2", "A_B": b"3"}, Redactor(), MADE_NS, recovery_of(run)
    )

    assert {data for name, data in members(report).items() if name.startswith("files/")} == {b"1", b"2", b"3"}


def test_what_is_large_or_binary_or_elsewhere_is_left_out(world: World, tmp_path: Path) -> None:
    (world.run / "sample_prompts.txt").write_text("x" * (64 * 1024 + 1))
    (world.run / "dataset.toml").write_bytes(b"\0\1\2")
    secret = tmp_path / "secret.txt"
    secret.write_text("not yours")
    for link in (world.run / "train.bat", world.latest / "train_state.json"):
        link.unlink(missing_ok=True)
        link.symlink_to(secret)
    report = report_of(audited(world))

    assert set(members(report)) == {"diagnosis.md", "diagnosis.json", "files/train.sh"} | {
        f"files/persian-cat-00000{epoch}-state/train_state.json" for epoch in (1, 2, 3)
    }
    assert b"not yours" not in b"".join(members(report).values())


def test_a_file_in_the_place_of_a_folder_harms_no_report(world: World) -> None:
    (world.run / "dataset.toml").unlink()
    (world.run / "dataset.toml").mkdir()

    assert "files/dataset.toml" not in members(report_of(audited(world)))


def test_sd_scripts_commit_is_read_beside_the_trainer(world: World) -> None:
    git = world.root / "sd-scripts" / ".git"
    git.mkdir(parents=True)
    (git / "HEAD").write_text("b" * 40)

    assert json.loads(diagnosed(world).json)["trainer_commits"]["folder"] == "b" * 40


def test_the_ways_on_and_the_repairs_stand_in_the_report(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    auditor = Auditor(world.outputs)
    run = auditor.audit_run(world.run_name)
    (world.run / "repairs.json").write_text('{"repairs": []}')

    report = diagnosis_for(run, plan_recovery(auditor, run))

    document = json.loads(report.json)
    assert [option["kind"] for option in document["recovery"]["ways"]] == [
        "repair",
        "older",
        "warm-start",
        "fresh",
    ]
    assert "## Recovery options" in report.markdown
    assert "1. **Repair epoch 4 and resume** (recommended)" in report.markdown
    assert "files/repairs.json" in document["small_files"]


def test_the_last_training_and_its_journal_stand_in_the_report(world: World) -> None:
    home = Path(os.path.expanduser("~"))
    record = TrainingRecord(
        ProcessState.FATAL, "here", started_ns=MADE_NS, attempt=2, message="The disk is full."
    )
    write_record(world.run, record)
    write_journal(world.run, JournalLine(MADE_NS, "crashed", f"Killed in {home}/x."))
    with open_log(world.run) as log:
        log.write(b"x" * 70_000 + f"\nOSError in {home}/outputs\n".encode())

    report = diagnosed(world)

    training = json.loads(report.json)["training"]
    assert (training["status"], training["attempt"], training["message"]) == ("fatal", 2, "The disk is full.")
    assert [line["kind"] for line in training["journal"]] == ["crashed"]
    assert "## The last training" in report.markdown
    assert "Crashed. The disk is full." in report.markdown
    assert members(report)["files/training/train.log"].startswith(b"OSError in ")
    assert str(home).encode() not in b"".join(members(report).values())


def test_a_report_of_a_run_that_was_never_started_here_has_no_training(world: World) -> None:
    report = diagnosed(world)
    assert json.loads(report.json)["training"] is None
    assert "## The last training" not in report.markdown


def test_what_to_do_is_what_the_recovery_options_recommend(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    document = json.loads(diagnosed(world).json)
    best = document["recovery"]["ways"][0]

    assert best["recommended"]
    assert f"({best['checkpoint']})" in document["run"]["next_steps"][0]
