"""Whose fault a failed rehearsal is: told only where it can be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from checkpoint_core.audit.catalogue.rehearsal import REHEARSAL
from checkpoint_core.audit.catalogue.states import CATALOGUE
from checkpoint_core.audit.checks.rehearsal import findings_of
from checkpoint_core.audit.findings import Finding, Severity, Subject, Verdict, fold
from checkpoint_core.environment.rehearsal.outcome import (
    RehearsalOutcome,
    RehearsalStage,
    RehearsalStatus,
    Restored,
    read_account,
)
from checkpoint_core.states import layout

VERSIONS = (("python", "3.10.6"), ("torch", "2.7.1"), ("accelerate", "0.33.0"))
LOADED = RehearsalOutcome(
    RehearsalStatus.LOADED,
    RehearsalStage.CHECKING,
    seconds=2.13,
    versions=VERSIONS,
    random_states=Restored.RESTORED,
)


def failed(exception: str, message: str, part: str | None, *frames: str, **changes: Any) -> RehearsalOutcome:
    outcome = RehearsalOutcome(
        RehearsalStatus.FAILED, RehearsalStage.LOADING, message, exception, frames, part, versions=VERSIONS
    )
    return replace(outcome, **changes)


NO_STEP = failed("KeyError", "'step'", layout.RANDOM_STATES, "accelerator.py:3156 in load_state")


def only(outcome: RehearsalOutcome, *known: Finding) -> Finding:
    (found,) = findings_of(outcome, known)
    return found


def test_a_state_that_loads_is_said_to_with_the_versions() -> None:
    found = only(LOADED)

    assert (found.code, found.severity) == ("rehearsal-passed", Severity.INFO)
    assert (
        found.message
        == "The real Accelerator.load_state loaded it in 2.1 s (accelerate 0.33.0, torch 2.7.1)."
    )


def test_cuda_alone_is_no_loss_but_all_random_states_are() -> None:
    assert [found.code for found in findings_of(replace(LOADED, random_states=Restored.PARTLY))] == [
        "rehearsal-passed"
    ]
    _, lost = findings_of(replace(LOADED, random_states=Restored.NOT_RESTORED))
    assert (lost.code, lost.severity, lost.subject) == (
        "rehearsal-random-states", Severity.WARNING, Subject.ENVIRONMENT,
    )  # fmt: skip


def test_the_famous_error_is_the_environments() -> None:
    found = only(NO_STEP)

    assert (found.code, found.severity, found.subject, found.file) == (
        "rehearsal-failed-environment", Severity.FIXABLE, Subject.ENVIRONMENT, layout.RANDOM_STATES,
    )  # fmt: skip
    assert "KeyError: 'step'" in found.message
    assert "accelerate>=1.1" in found.cure
    assert found.evidence == "accelerator.py:3156 in load_state"


def test_another_missing_key_is_not_the_famous_error() -> None:
    other = failed("KeyError", "'step'", layout.OPTIMIZER, "adamw.py:90 in __setstate__")

    assert only(other).code == "rehearsal-failed-unclear"


READ_ERRORS = {
    "zip": (
        "RuntimeError",
        "PytorchStreamReader failed reading zip archive: failed finding central directory",
    ),
    "short zip": ("OSError", "[Errno 22] Invalid argument"),
    "empty": ("EOFError", "Ran out of input"),
    "weights": (
        "SafetensorError",
        "Error while deserializing header: incomplete metadata, file not fully covered",
    ),
    "pickle": ("UnpicklingError", "pickle data was truncated"),
    "no pickle": ("UnpicklingError", "Weights only load failed. … Unsupported operand 80"),
    "missing": (
        "FileNotFoundError",
        "[Errno 2] No such file or directory: '/gym/outputs/cat/c-state/optimizer.bin'",
    ),
}


@pytest.mark.parametrize("case", READ_ERRORS)
def test_what_the_libraries_cannot_read_is_the_states(case: str) -> None:
    found = only(failed(*READ_ERRORS[case], layout.OPTIMIZER, "serialization.py:807 in __init__"))

    assert (found.code, found.severity, found.subject, found.file) == (
        "rehearsal-failed", Severity.ERROR, Subject.STATE, layout.OPTIMIZER,
    )  # fmt: skip


UNCLEAR = {
    "another object": ("UnpicklingError", "Weights only load failed. … Unsupported global: GLOBAL numpy.core.x"),
    "newer dtype": ("SafetensorError", "Error while deserializing header: invalid JSON: unknown variant `F4`"),
    "a disk": ("OSError", "[Errno 5] Input/output error"),
    "no right": ("PermissionError", "[Errno 13] Permission denied: '/gym/optimizer.bin'"),
    "another file": ("FileNotFoundError", "[Errno 2] No such file or directory: '/usr/lib/libcuda.so'"),
    "sizes": ("ValueError", "loaded state dict contains a parameter group that doesn't match the size of optimizer's"),
    "shapes": ("RuntimeError", "Error(s) in loading state_dict for Module: size mismatch for x.lora_down.weight"),
    "memory": ("MemoryError", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR)
def test_everything_else_cannot_be_told(case: str) -> None:
    found = only(failed(*UNCLEAR[case], layout.OPTIMIZER, "serialization.py:807 in __init__"))

    assert (found.code, found.severity) == ("rehearsal-failed-unclear", Severity.UNKNOWN)


def test_an_invalid_argument_elsewhere_cannot_be_told_either() -> None:
    assert (
        only(failed("OSError", "[Errno 22] Invalid argument", layout.OPTIMIZER)).code
        == "rehearsal-failed-unclear"
    )


@pytest.mark.parametrize("stage", [RehearsalStage.BUILDING, RehearsalStage.CHECKING])
def test_a_failure_outside_the_load_cannot_be_told(stage: RehearsalStage) -> None:
    found = only(failed("RuntimeError", "the stand-in's own", None, stage=stage))

    assert found.code == "rehearsal-failed-unclear"
    assert stage.value in found.message


@pytest.mark.parametrize("exception", ["JSONDecodeError", "KeyError", "TypeError", "UnicodeDecodeError"])
def test_a_broken_train_state_can_be_written_anew(exception: str) -> None:
    found = only(failed(exception, "anything", layout.TRAIN_STATE))

    assert (found.code, found.severity, found.file) == (
        "rehearsal-failed-fixable", Severity.FIXABLE, layout.TRAIN_STATE,
    )  # fmt: skip
    assert '{"current_epoch"' in found.cure


def test_stray_objects_can_be_moved_away_but_none_cannot() -> None:
    counted = (
        "Number of custom checkpoints in folder /x does not match …:\n\tFound checkpoints: {}\n\tRegistered"
    )
    stray = only(failed("RuntimeError", counted.format(1), layout.RANDOM_STATES))
    none = only(failed("RuntimeError", counted.format(0), layout.RANDOM_STATES))

    assert (stray.code, stray.file) == ("rehearsal-failed-fixable", layout.CUSTOM_OBJECT)
    assert none.code == "rehearsal-failed-unclear"


def test_what_cannot_be_imported_is_the_environments() -> None:
    missing = failed("ModuleNotFoundError", "No module named 'torch'", None, stage=RehearsalStage.IMPORTING)
    later = failed("ImportError", "No module named 'x'", layout.OPTIMIZER)

    assert only(missing).code == "rehearsal-failed-environment"
    assert "install" in only(missing).cure
    assert only(later).code == "rehearsal-failed-unclear"


def known(code: str, file: str | None, **fields: object) -> Finding:
    return CATALOGUE[code].finding(file=file, detail="…", **fields)


def test_a_failure_that_a_check_explains_leaves_its_weight_and_its_cure() -> None:
    """Lost weights that the LoRA file replaces stay fixable, though their load fails."""
    rebuildable = replace(known("weights-truncated", layout.WEIGHTS_SAFE), severity=Severity.FIXABLE)
    outcome = failed("SafetensorError", "header too small", layout.WEIGHTS_SAFE)

    confirmed = only(outcome, rebuildable)
    assert (confirmed.code, confirmed.severity) == ("rehearsal-confirmed", Severity.INFO)
    assert fold([rebuildable, confirmed]) is Verdict.NEEDS_FIX
    assert fold(findings_of(outcome)) is Verdict.DAMAGED


@pytest.mark.parametrize(
    ("code", "file"),
    [
        ("optimizer-truncated", layout.OPTIMIZER),
        ("learning-rate-zero", layout.SCHEDULER),
        ("random-states-missing", layout.RANDOM_STATES),
    ],
)
def test_a_finding_about_something_else_explains_nothing(code: str, file: str) -> None:
    outcome = failed("EOFError", "Ran out of input", layout.SCHEDULER)

    assert only(outcome, known(code, file)).code == "rehearsal-failed"


@pytest.mark.parametrize(
    "status",
    [
        RehearsalStatus.TIMED_OUT,
        RehearsalStatus.OUT_OF_MEMORY,
        RehearsalStatus.CRASHED,
        RehearsalStatus.CHANGED,
    ],
)
def test_a_rehearsal_without_an_end_is_never_shown_as_fine(status: RehearsalStatus) -> None:
    outcome = RehearsalOutcome(status, message="a reason", error_output="noise\nthe last line\n")
    found = only(outcome)

    assert (found.code, found.severity) == ("rehearsal-not-finished", Severity.UNKNOWN)
    assert ("changed meanwhile" if status is RehearsalStatus.CHANGED else "a reason") in found.message
    assert found.evidence == "the last line"


def test_a_cancelled_rehearsal_says_nothing() -> None:
    assert findings_of(RehearsalOutcome(RehearsalStatus.CANCELLED)) == ()


def test_a_long_or_many_lined_error_is_told_in_one_short_line() -> None:
    found = only(failed("RuntimeError", "x" * 1_000 + "\nsecond line", layout.OPTIMIZER))

    assert "x" * 150 in found.message
    assert len(found.message) < 450
    assert "second" not in found.message


def test_every_finding_of_a_rehearsal_is_in_the_catalogue() -> None:
    assert {entry.code for entry in REHEARSAL} <= CATALOGUE.keys()


@pytest.mark.parametrize(
    "account",
    [
        {},
        {"status": "fine"},
        {"status": ["loaded"]},
        {
            "status": "crashed",
            "frames": "no list",
            "versions": [1],
            "start": {"x": "y"},
            "peak_bytes": "many",
        },
    ],
)
def test_a_strange_account_is_a_crash(account: dict[str, Any]) -> None:
    outcome = read_account(account, RehearsalStage.LOADING)

    assert outcome.status is RehearsalStatus.CRASHED
    assert (outcome.frames, outcome.versions, outcome.start, outcome.peak_bytes) == ((), (), (), None)


@pytest.mark.parametrize(
    ("restored", "line", "expected"),
    [
        (["python", "numpy", "torch"], "All random states loaded successfully", Restored.RESTORED),
        (["python", "numpy", "torch"], "[RANK 0] Could not load random states", Restored.PARTLY),
        (["python"], "Could not load random states", Restored.NOT_RESTORED),
        ([], "Could not load random states", Restored.NOT_RESTORED),
    ],
)
def test_what_became_of_the_random_states(restored: list[str], line: str, expected: Restored) -> None:
    account = {"status": "loaded", "restored": restored, "log_lines": [line]}

    assert read_account(account, RehearsalStage.CHECKING).random_states is expected


def test_a_log_that_is_too_long_to_be_kept_hides_no_random_states() -> None:
    account = {"status": "loaded", "restored": ["python", "numpy", "torch"], "gave_up": True}
    account["log_lines"] = ["Loading states from a checkpoint"] * 100

    assert read_account(account, RehearsalStage.CHECKING).random_states is Restored.PARTLY
