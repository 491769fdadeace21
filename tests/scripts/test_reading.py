"""A script on the disk to facts: its flags, what of them cannot be told, and where --resume leads."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.scripts.facts import ResumeTarget, ScriptFacts
from checkpoint_core.scripts.reading import read_script, resume_target, script_facts
from checkpoint_core.scripts.script import TrainScript
from checkpoint_core.scripts.tokens import Dialect

LAUNCH = "accelerate launch sd-scripts/flux_train_network.py"


def facts_of(arguments: str, launch: str = LAUNCH) -> ScriptFacts:
    return script_facts(TrainScript.parse(f"{launch} {arguments}\n".encode(), Dialect.SH), "train.sh")


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        ("--output_name cat", "output_name", "cat"),
        ("--output_dir '/a b'", "output_dir", "/a b"),
        ("--save_state", "save_state", True),
        ("--save_state_on_train_end", "save_state", True),
        ("", "save_state", False),
        ("--resume x --resume y", "resume", "y"),
        ('--resume ""', "resume", ""),
        ("--resume_from_huggingface", "resume_from_huggingface", True),
        ("--initial_epoch 3", "initial_epoch", 3),
        ("--initial_step=16", "initial_step", 16),
        ("--max_train_epochs 16", "max_train_epochs", 16),
        ("--max_train_steps 900", "max_train_steps", 900),
        ("--skip_until_initial_step", "skip_until_initial_step", True),
        ("--optimizer_type adafactor", "optimizer_type", "adafactor"),
        ("--lr_scheduler cosine", "lr_scheduler", "cosine"),
        ("--network_module networks.lora_flux", "network_module", "networks.lora_flux"),
        ("--config_file more.toml", "config_file", "more.toml"),
        ("--dataset_config dataset.toml", "config_file", None),
    ],
)
def test_the_flags_that_decide(arguments: str, field: str, value: object) -> None:
    facts = facts_of(arguments)
    assert getattr(facts, field) == value
    assert facts.unknown == ()


@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        ("", 1),
        ("--num_processes 2", 2),
        ("--num_processes=4", 4),
        ("--num-processes 3", 3),
        ("--num_processes two", 1),
    ],
)
def test_the_number_of_processes(launcher: str, processes: int) -> None:
    assert facts_of("", f"accelerate launch {launcher} train_network.py").num_processes == processes


@pytest.mark.parametrize(
    ("arguments", "flag", "reason"),
    [
        ('--resume "$STATE"', "--resume", "is decided only when the script runs"),
        ("--resume", "--resume", "has no value"),
        ("--resume --save_state", "--resume", "has no value"),
        ("--initial_epoch five", "--initial_epoch", "is 'five', which is no count"),
        ("--initial_epoch -1", "--initial_epoch", "is '-1', which is no count"),
        ("--initial_step 1.5", "--initial_step", "no count"),
        ("--max_train_epochs ''", "--max_train_epochs", "no count"),
        ('--max_train_steps="$N"', "--max_train_steps", "decided only"),
        ('--output_name "$NAME"', "--output_name", "decided only"),
        ("$EXTRA", "--initial_epoch", "$EXTRA in line 1 may hold further flags"),
    ],
)
def test_what_cannot_be_told_has_a_reason(arguments: str, flag: str, reason: str) -> None:
    why = facts_of(arguments).why_unknown(flag)
    assert why is not None
    assert reason in why
    assert not why.endswith(".")


def test_a_word_that_may_hold_flags_leaves_all_of_them_open() -> None:
    facts = facts_of("--initial_epoch 3 $EXTRA")
    flags = {flag for flag, _ in facts.unknown}
    assert {"--resume", "--save_state", "--initial_epoch", "--max_train_epochs", "--config_file"} <= flags
    assert len({reason for _, reason in facts.unknown}) == 1


def test_the_first_unknown_flag_of_several_is_told() -> None:
    facts = facts_of('--initial_epoch "$A" --initial_step "$B"')
    assert "--initial_step" in str(facts.why_unknown("--resume", "--initial_step", "--initial_epoch"))
    assert facts.why_unknown("--resume") is None


# Reading


def test_a_script_is_read_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "train.sh"
    path.write_text(f"{LAUNCH} --output_name cat\n")
    facts, problem = read_script(path)
    assert problem is None
    assert facts is not None
    assert (facts.file, facts.trainer) == ("train.sh", "sd-scripts/flux_train_network.py")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "Line 1"),
        (b"echo hello\n", "accelerate"),
        (b'accelerate launch "train.py\n', "Line 1"),
        (b"\xff\xfea\x00", "UTF-16"),
        (b"#" * (1 << 20) + b"\n", "larger than any train script"),
    ],
)
def test_a_script_that_is_none_gives_the_reason(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "train.sh"
    path.write_bytes(data)
    facts, problem = read_script(path)
    assert facts is None
    assert words in str(problem)


def test_a_script_that_cannot_be_opened_gives_the_reason(tmp_path: Path) -> None:
    assert read_script(tmp_path)[0] is None
    assert "could not be read" in str(read_script(tmp_path)[1])
    assert "could not be read" in str(read_script(tmp_path / "gone.sh")[1])


# Where --resume leads


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one state, its LoRA file, and accelerate's own folder."""
    run = tmp_path / "outputs" / "cat"
    for state in ("cat-000002-state", "checkpoints/checkpoint_0"):
        (run / state).mkdir(parents=True)
        (run / state / "optimizer.bin").touch()
    (run / "cat-000002.safetensors").touch()
    (run / "sample").mkdir()
    return run


def target(run: Path, resume: str | None, output_dir: str | None = None, **flags: object) -> ResumeTarget:
    script = replace(facts_of(""), resume=resume, output_dir=output_dir or str(run), **flags)  # type: ignore[arg-type]
    states = {name: run / name for name in ("cat-000002-state", "checkpoints/checkpoint_0")}
    return resume_target(script, run, states)


@pytest.mark.parametrize(
    ("resume", "kind", "state"),
    [
        (None, "none", None),
        ("", "empty", None),
        (" ", "empty", None),
        ("{run}/cat-000002-state", "state", "cat-000002-state"),
        ("{run}/cat-000002-state/", "state", "cat-000002-state"),
        ("{run}/checkpoints/checkpoint_0", "state", "checkpoints/checkpoint_0"),
        ("outputs/cat/cat-000002-state", "state", "cat-000002-state"),
        ("outputs/cat/../cat/cat-000002-state", "state", "cat-000002-state"),
        ("cat-000002-state", "missing", None),
        ("{run}/cat-000002.safetensors", "lora-file", "cat-000002-state"),
        ("{run}/sample", "run-folder", None),
        ("{run}", "run-folder", None),
        ("{run}/cat-000003-state", "missing", None),
        ("{run}/\udcff", "missing", None),
        ("x" * 9000, "missing", None),
    ],
)
def test_where_a_path_of_this_machine_leads(
    run: Path, resume: str | None, kind: str, state: str | None
) -> None:
    found = target(run, None if resume is None else resume.format(run=run))
    assert (found.kind, found.state_name) == (kind, state)


@pytest.mark.parametrize(
    ("output_dir", "resume", "kind"),
    [
        ("/workspace/fluxgym/outputs/cat", "/workspace/fluxgym/outputs/cat/cat-000002-state", "state"),
        (
            "/workspace/fluxgym/outputs/cat",
            "/workspace/fluxgym/outputs/cat/cat-000002.safetensors",
            "lora-file",
        ),
        # The same folder, seen from elsewhere: what is not here is not there.
        ("/workspace/fluxgym/outputs/cat", "/workspace/fluxgym/outputs/cat/cat-000009-state", "missing"),
        ("/workspace/fluxgym/outputs/cat", "/workspace/fluxgym/outputs/dog/dog-000001-state", "other-world"),
        ("/workspace/fluxgym/outputs/cat", "/workspace/fluxgym/outputs/cat/../dog/dog-state", "other-world"),
        # A script that was copied from another run does not speak of this one.
        ("/workspace/fluxgym/outputs/dog", "/workspace/fluxgym/outputs/dog/cat-000002-state", "other-world"),
        (r"C:\fluxgym\outputs\cat", r"C:\fluxgym\outputs\cat\cat-000002-state", "state"),
        (r"C:\fluxgym\outputs\cat", r"c:\FluxGym\outputs\CAT\cat-000002-state", "state"),
        (r"C:\fluxgym\outputs\cat", r"D:\saved\cat-000002-state", "other-world"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="on Windows the other world is this one")
def test_where_a_path_of_another_machine_leads(run: Path, output_dir: str, resume: str, kind: str) -> None:
    assert target(run, resume, output_dir).kind == kind


def test_a_relative_output_folder_is_fluxgym_s_whatever_the_working_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert target(run, str(tmp_path / "gone"), "outputs/cat").kind == "missing"
    assert target(run, "outputs/cat/cat-000002-state", "outputs/cat").state_name == "cat-000002-state"


@pytest.mark.parametrize("flag", ["--resume", "--resume_from_huggingface"])
def test_a_value_that_is_not_known_leads_nowhere_that_is_known(run: Path, flag: str) -> None:
    assert target(run, None, unknown=((flag, "only the shell knows"),)).kind == "unknown"


def test_a_name_on_the_hub_is_no_path(run: Path) -> None:
    assert target(run, "someone/cat", resume_from_huggingface=True).kind == "hub"


def test_no_script_leads_nowhere(run: Path) -> None:
    assert resume_target(None, run, {}) == ResumeTarget("none")
