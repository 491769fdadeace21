"""The run as a whole: its script, where --resume points, what could not be read, the disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.checks.run_level import check_run
from checkpoint_core.audit.context import RunFacts
from checkpoint_core.audit.findings import Severity
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.formats.reader import DamageKind
from checkpoint_core.states.facts import Damage
from tests.judging import audit_world, found
from tests.world import World


def run_codes(world: World) -> list[str]:
    return [each.code for each in audit_world(world).findings]


def with_flags(world: World, flags: str) -> None:
    world.edit_script(lambda text: text.rstrip("\n \\") + f" \\\n  {flags}\n")


def without_states(world: World) -> None:
    for state in world.run.glob("*-state"):
        shutil.rmtree(state)


def test_nothing_is_found_about_the_valid_run(world: World) -> None:
    assert run_codes(world) == []


def test_a_script_that_saves_no_states(world: World) -> None:
    world.edit_script(lambda text: text.replace("--save_state", ""))
    assert run_codes(world) == ["no-save-state"]
    without_states(world)
    assert run_codes(world) == ["no-states-not-saved"]
    assert found(audit_world(world), "no-states-not-saved").file == "train.sh"


def test_states_at_the_end_of_training_count_as_saved(world: World) -> None:
    world.edit_script(lambda text: text.replace("--save_state", "--save_state_on_train_end"))
    assert run_codes(world) == []


def test_a_run_that_has_not_saved_yet(world: World) -> None:
    without_states(world)
    assert run_codes(world) == ["no-states-yet"]


@pytest.mark.parametrize("states", [True, False])
def test_a_run_without_a_script(world: World, states: bool) -> None:
    world.script.unlink()
    if not states:
        without_states(world)
    assert run_codes(world) == ["no-script"] + ["no-states-yet"] * (not states)


def test_a_script_that_is_not_understood_is_quoted_with_its_line(world: World) -> None:
    world.script.write_text('echo "never closed\n')
    report = audit_world(world)
    assert [each.code for each in report.findings] == ["script-not-understood"]
    assert "Line 1" in report.findings[0].message
    assert report.facts.script is None


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ('""', "resume-empty"),
        ('"  "', "resume-empty"),
        ("{run}/persian-cat-000009-state", "resume-missing"),
        ("outputs/persian-cat/persian-cat-000009-state", "resume-missing"),
        ("{run}/persian-cat-000002.safetensors", "resume-lora-file"),
        ("{run}", "resume-run-folder"),
        ("outputs", "resume-run-folder"),
        (r"'C:\fluxgym\outputs\persian-cat\persian-cat-000002-state'", "resume-other-world"),
        ("{run}/persian-cat-000002-state", None),
        ("outputs/persian-cat/persian-cat-000002-state/", None),
        ("/" + "x" * 5000, "resume-missing"),
    ],
)
def test_where_the_resume_flag_points(world: World, value: str, code: str | None) -> None:
    with_flags(world, f"--resume {value.format(run=world.run)}")
    assert run_codes(world) == ([code] if code else [])


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("{outputs}/first/first-000012-state", "resume-other-run"),
        ("outputs/first/first-000012-state", "resume-other-run"),
        ("{run}/../first/first-000012-state", "resume-other-run"),
        ("/workspace/fluxgym/outputs/first/first-000012-state", "resume-other-run"),
        (r"'D:\fluxgym\outputs\first\first-000012-state'", "resume-other-run"),
        ("{outputs}/first", "resume-other-run"),
        ("/workspace/fluxgym/outputs/persian-cat/persian-cat-000002-state", "resume-missing"),
        ("/data/outputs/backups/outputs/persian-cat/persian-cat-000002-state", "resume-missing"),
        ("{outputs}/linked/persian-cat-000002-state", None),
        ("/elsewhere/states/first-000012-state", "resume-missing"),
    ],
)
def test_a_resume_from_another_run_is_told(world: World, value: str, code: str | None) -> None:
    shutil.copytree(world.state(2), world.outputs / "first" / "first-000012-state")
    (world.outputs / "linked").symlink_to(world.run)
    with_flags(world, f"--resume {value.format(run=world.run, outputs=world.outputs)}")

    assert run_codes(world) == ([code] if code else [])


def test_two_machines_paths_of_one_run_are_not_another_run(world: World) -> None:
    world.edit_script(lambda text: text.replace(str(world.outputs), "/workspace/fluxgym/outputs"))
    with_flags(world, "--resume /workspace/fluxgym/outputs/persian-cat/persian-cat-000002-state")
    assert run_codes(world) == []

    world.edit_script(
        lambda text: text.replace("persian-cat/persian-cat-000002-state", "first/first-000002-state")
    )
    assert run_codes(world) == ["resume-other-run"]
    assert "“first”" in audit_world(world).findings[0].message


def test_the_folder_that_a_renamed_run_s_script_saves_into_is_not_another_run(world: World) -> None:
    world.edit_script(lambda text: text.replace("outputs/persian-cat", "outputs/old-name"))
    with_flags(world, f"--resume {world.outputs}/old-name/persian-cat-000002-state")
    assert "resume-other-run" not in run_codes(world)


@pytest.mark.parametrize(
    ("flags", "codes"),
    [
        ("--network_weights {outputs}/first/first.safetensors", ["weights-other-run"]),
        ("--network_weights {outputs}/first/first.safetensors --initial_epoch 13", ["weights-other-run"]),
        ("--network_weights {run}/persian-cat-000002.safetensors --initial_epoch 3", []),
        ("--network_weights /loras/base.safetensors", []),
        # What is resumed from overwrites the weights.
        ("--network_weights {outputs}/first/first.safetensors --resume {run}/persian-cat-000002-state", []),
        ("--initial_epoch 13", ["initial-epoch-alone"]),
        ("--initial_epoch 1", []),
        ("--initial_epoch 13 --resume {run}/persian-cat-000002-state", []),
        ("--initial_epoch 13 $MORE", None),
    ],
)
def test_what_a_training_begins_with(world: World, flags: str, codes: list[str] | None) -> None:
    with_flags(world, flags.format(run=world.run, outputs=world.outputs))
    found_codes = run_codes(world)
    if codes is None:
        assert "initial-epoch-alone" not in found_codes
    else:
        assert found_codes == codes


def test_the_state_of_a_lora_file_is_named(world: World) -> None:
    with_flags(world, f"--resume {world.lora(2)}")
    assert f"{world.state(2).name} is the state of the same save" in audit_world(world).findings[0].cure
    shutil.rmtree(world.state(2))
    assert audit_world(world).findings[0].cure == "Choose a checkpoint here."


def test_the_line_of_an_empty_resume_is_named(world: World) -> None:
    with_flags(world, '--resume ""')
    line = 1 + world.script.read_text().splitlines().index('  --resume ""')
    assert f"(line {line})" in audit_world(world).findings[0].message


def test_a_resume_from_the_hub(world: World) -> None:
    with_flags(world, "--resume someone/cat --resume_from_huggingface")
    assert run_codes(world) == ["resume-from-hub"]


# What the script may say besides


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ('--resume "$STATE"', "--resume"),
        ("--resume $STATE", "--initial_epoch"),  # unquoted, it may hold further flags
        ('--resume="$STATE"', "--resume"),
        ('--initial_epoch "$N"', "--initial_epoch"),
        ("--max_train_epochs ten", "--max_train_epochs"),
        ("--resume", "--resume"),
        ("$EXTRA", "--resume"),
    ],
)
def test_a_flag_that_cannot_be_told_is_named_with_its_reason(world: World, flags: str, named: str) -> None:
    with_flags(world, flags)
    report = audit_world(world)
    assert [each.code for each in report.findings] == ["script-flag-unknown"]
    (only,) = report.findings
    assert only.severity is Severity.UNKNOWN
    assert named in only.message
    assert " in line " in only.message
    assert not only.message.endswith("..")
    assert only.file == "train.sh"


def test_reasons_are_told_once_each(world: World) -> None:
    with_flags(world, '--initial_epoch "$A" --resume "$B"')
    messages = [each.message for each in audit_world(world).findings]
    assert len(messages) == 2
    assert ["for --initial_epoch is" in messages[0], "for --resume is" in messages[1]] == [True, True]


def test_hidden_flags_are_not_said_to_be_missing(world: World) -> None:
    world.edit_script(lambda text: text.replace("--save_state", "$SAVE"))
    assert run_codes(world) == ["script-flag-unknown"]
    without_states(world)
    assert run_codes(world) == ["no-states-yet", "script-flag-unknown"]


@pytest.mark.parametrize("spelling", ["--config_file more.toml", "--config_file=more.toml"])
def test_flags_from_a_file_are_not_passed_over_in_silence(world: World, spelling: str) -> None:
    with_flags(world, spelling)
    report = audit_world(world)
    assert [(each.code, each.severity) for each in report.findings] == [
        ("script-config-file", Severity.WARNING)
    ]
    assert "--config_file more.toml" in report.findings[0].message


def test_a_config_file_may_hold_the_flag_that_is_missing(world: World) -> None:
    world.edit_script(lambda text: text.replace("--save_state", "--config_file more.toml"))
    assert run_codes(world) == ["script-config-file"]


def test_the_dataset_s_configuration_is_no_config_file(world: World) -> None:
    assert "--dataset_config" in world.script.read_text()
    assert "script-config-file" not in run_codes(world)


# The disk


@pytest.fixture
def facts(stepped: RunReport) -> RunFacts:
    return stepped.facts


def free(facts: RunFacts, share: Callable[[int], int | None]) -> list[str]:
    largest = max(state.size_bytes for state in facts.states)
    return [each.code for each in check_run(replace(facts, free_bytes=share(largest)))]


def test_room_for_the_next_save(facts: RunFacts) -> None:
    assert free(facts, lambda size: 2 * size) == []
    assert free(facts, lambda size: 2 * size - 1) == ["disk-space-low"]
    assert free(facts, lambda _: 0) == ["disk-space-low"]
    assert free(facts, lambda _: None) == []
    assert [each.code for each in check_run(replace(facts, states=(), free_bytes=0))] == ["no-states-yet"]


def test_an_unreadable_run_is_told_and_nothing_is_guessed(facts: RunFacts) -> None:
    closed = replace(facts, script=None, problem=Damage(DamageKind.UNREADABLE, "Permission denied"))
    (only,) = check_run(closed)
    assert (only.code, only.severity) == ("run-unreadable", Severity.UNKNOWN)
    assert "Permission denied" in only.message


def test_one_broken_run_does_not_hide_another(world: World) -> None:
    other = world.outputs / "other"
    other.mkdir()
    (other / "train.sh").write_bytes(b"\xff\xfe\x00")
    report = Auditor(world.outputs).audit()
    assert [each.code for each in report.run("other").findings] == ["script-not-understood", "no-states-yet"]
    assert report.run(world.run_name).findings == ()
