"""Our verdict foretells what the real accelerate does, on every case of the conformance suite.

The variable ACCELERATE_VERSIONS names a folder of further releases of accelerate (see
tests/conformance/__main__.py); those that are not there are skipped, the installed one never is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from checkpoint_core.audit.findings import Verdict
from checkpoint_core.cli.exit_codes import ExitCode
from tests.conformance.__main__ import DOCUMENT, versions_here
from tests.conformance.agreement import AGREES, Answer, Result, answer
from tests.conformance.case import Case
from tests.conformance.cases import CASES, state_path
from tests.conformance.document import document
from tests.conformance.workbench import BESIDE, Releases, Workbench, installed
from tests.world import PROJECT

RELEASES = Releases.from_environment()
VERSIONS = tuple(dict.fromkeys((*BESIDE, installed())))
BY_NAME = {case.name: case for case in CASES}


@pytest.fixture(scope="session")
def bench(shared_dir: Path) -> Workbench:
    """All bases and cases, made by the first process that asks; their scripts name the folder, so it is not moved."""
    folder = shared_dir / "conformance"
    made = Workbench(folder, RELEASES)
    with FileLock(shared_dir / "conformance.lock"):
        if not (folder / "made").exists():
            made.make()
            (folder / "made").touch()
    return made


def results(bench: Workbench, version: str) -> tuple[Result, ...]:
    """The results of a release, worked out by the first process that asks."""
    if not RELEASES.has(version):
        pytest.skip(f"accelerate {version} is not in the folder that ACCELERATE_VERSIONS names")
    kept = bench.folder / f"results-{version}.json"
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            rows = [
                (seen.case.name, seen.verdict.value, seen.codes, seen.answer.value, seen.why)
                for seen in bench.results(version, bench.cases())
            ]
            kept.write_text(json.dumps(rows), encoding="utf-8")
    return tuple(
        Result(BY_NAME[name], Verdict(verdict), tuple(codes), Answer(told), why)
        for name, verdict, codes, told, why in json.loads(kept.read_text(encoding="utf-8"))
    )


def told(result: Result) -> str:
    codes = ", ".join(result.codes)
    return f"{result.case.name}: {result.verdict.value} ({codes}), but it {result.answer.value} {result.why}"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_verdict_foretells_what_the_trainer_does(bench: Workbench, version: str) -> None:
    seen = results(bench, version)
    assert len(seen) > 350
    assert [told(result) for result in seen if not result.agrees and not result.case.accepted] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_good_states_train_right_or_the_environment_is_blamed(bench: Workbench, version: str) -> None:
    good = [seen for seen in results(bench, version) if seen.case.group == "good states"]
    assert len(good) > 12
    for seen in good:
        assert all(code.startswith("environment-") for code in seen.codes), told(seen)
        assert seen.answer is Answer.RIGHT or seen.codes, told(seen)


def test_a_difference_that_has_a_reason_is_still_one(bench: Workbench) -> None:
    seen = results(bench, installed())
    assert [result.case.name for result in seen if result.case.accepted and result.agrees] == []


def test_every_row_of_the_catalogue_that_a_processor_can_show_has_a_case() -> None:
    shown = {case.row for case in CASES}
    rows = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 21a 24 25 26 27 28 29 29a 30 32 33 34 35 36 36a 36b"
    assert set(rows.split()) <= shown


def test_names_and_folders_of_cases_are_unique() -> None:
    assert len({case.slug for case in CASES}) == len(CASES) == len(BY_NAME)


def test_the_document_is_that_of_this_run(bench: Workbench) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    here = f"torch {versions_here()['torch']} and\nnumpy {versions_here()['numpy']}"
    if here not in text or f" {installed()}, on" not in text:
        pytest.skip("the document was written with other releases than these")
    seen = {version: results(bench, version) for version in VERSIONS}
    assert document(seen, versions_here()) == text


# Through the command line

EXIT_CODES = {
    Verdict.READY: ExitCode.RESUMES,
    Verdict.READY_WITH_WARNINGS: ExitCode.RESUMES,
    Verdict.NEEDS_FIX: ExitCode.DOES_NOT,
    Verdict.DAMAGED: ExitCode.DOES_NOT,
    Verdict.UNKNOWN: ExitCode.COULD_NOT_TELL,
}


@pytest.mark.parametrize(
    "name",
    [
        "good states: newest accelerate",
        "good states: newest accelerate, every byte read",
        "killed saves: 4 files whole",
        "killed saves: 2 files whole, half of optimizer.bin",
        "mixed saves: 2 newer files of another training",
        "contents: NaN in the optimizer",
        "no state: a LoRA file",
        "after a resume: two epochs later",
        "after the end: a finished run",
        "registered objects: bin, as saved",
        "optimizer.bin: a directory in its place",
        "train_state.json: no current_step",
        "script: --network_dim 8",
        "script: adafactor, then adamw",
        "dataset: an image added",
    ],
)
def test_the_command_line_says_the_same(bench: Workbench, name: str) -> None:
    seen = next(result for result in results(bench, installed()) if result.case.name == name)
    done = check(bench, seen.case)
    assert json.loads(done.stdout)["verdict"] == seen.verdict.value
    assert done.returncode == EXIT_CODES[seen.verdict]


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("good states: newest accelerate", Verdict.READY),
        ("random_states_0.pkl: 0 bytes", Verdict.READY_WITH_WARNINGS),
        ("registered objects: safetensors, as saved", Verdict.READY),
    ],
)
def test_a_rehearsal_does_not_change_a_right_verdict(bench: Workbench, name: str, verdict: Verdict) -> None:
    done = check(bench, BY_NAME[name], "--rehearse")
    told = json.loads(done.stdout)
    assert (told["verdict"], told["rehearsal"]["status"]) == (verdict.value, "loaded")
    assert done.returncode == EXIT_CODES[verdict]


def check(bench: Workbench, case: Case, *further: str) -> subprocess.CompletedProcess[str]:
    """Judge a case with this interpreter as the training interpreter, and with the script where it has one."""
    world = bench.world(case)
    script = ["--script", str(world.script)] if case.layout is None else ["--layout", case.layout.value]
    deep = ["--deep"] if case.deep else []
    command = [sys.executable, "-m", "checkpoint_core", "check", str(state_path(case, world)), "--json"]
    return subprocess.run(
        [*command, *script, "--python", sys.executable, *deep, *further],
        cwd=PROJECT, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip


# The fold


RIGHT = {
    "stage": "step", "error": None, "epoch": 5, "skipped": 0, "weights": "same", "optimizer_same": True,
    "schedule_same": True, "object_same": True, "lost": [], "rates": [8e-4, 8e-4], "wanted_rates": [8e-4, 8e-4],
    "steps_same": True, "finite": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (Answer.RIGHT, "")),
        ({"error": "KeyError: 'step'", "stage": "load"}, (Answer.FAILS, "KeyError")),
        ({"error": "KeyError: 'betas'"}, (Answer.FAILS, "KeyError in the first step")),
        ({"epoch": None}, (Answer.WRONG, "trains nothing")),
        ({"epoch": 3}, (Answer.WRONG, "epoch 3")),
        ({"weights": "other", "lost": ["numpy"]}, (Answer.WRONG, "other weights")),
        ({"optimizer_same": False}, (Answer.WRONG, "other optimizer")),
        ({"schedule_same": False}, (Answer.WRONG, "other schedule")),
        ({"object_same": False}, (Answer.WRONG, "other object")),
        ({"finite": False}, (Answer.WRONG, "NaN")),
        ({"rates": [0.0, 0.0]}, (Answer.WRONG, "learning rate 0")),
        ({"rates": [0.0, 1e-5]}, (Answer.DIFFERS, "learning rate")),
        ({"steps_same": False}, (Answer.WRONG, "other steps")),
        ({"skipped": 3}, (Answer.WRONG, "steps left out")),
        ({"weights": "rounded", "steps_same": False}, (Answer.DIFFERS, "weights rounded")),
        ({"lost": ["numpy", "torch"]}, (Answer.DIFFERS, "random states")),
    ],
)
def test_what_was_observed_is_folded_into_an_answer(
    changes: dict[str, object], expected: tuple[Answer, str]
) -> None:
    assert answer(Case("good: one"), {**RIGHT, **changes}) == expected


def test_steps_of_an_epoch_trained_again_are_a_difference() -> None:
    assert answer(Case("good: one", skip=4), RIGHT) == (Answer.DIFFERS, "steps again")
    assert answer(Case("good: one", skip=4), {**RIGHT, "skipped": 4})[0] is Answer.RIGHT


@pytest.mark.parametrize(
    ("verdict", "did", "agrees", "grave"),
    [
        (Verdict.READY, Answer.RIGHT, True, False),
        (Verdict.READY, Answer.DIFFERS, False, False),
        (Verdict.READY, Answer.FAILS, False, True),
        (Verdict.READY_WITH_WARNINGS, Answer.DIFFERS, True, False),
        (Verdict.READY_WITH_WARNINGS, Answer.WRONG, False, True),
        (Verdict.NEEDS_FIX, Answer.DIFFERS, False, False),
        (Verdict.DAMAGED, Answer.WRONG, True, False),
        (Verdict.DAMAGED, Answer.RIGHT, False, True),
        (Verdict.UNKNOWN, Answer.WRONG, True, False),
        (Verdict.SAVING, Answer.RIGHT, False, False),
    ],
)
def test_which_pairs_agree(verdict: Verdict, did: Answer, agrees: bool, grave: bool) -> None:
    result = Result(Case("good: one"), verdict, (), did, "")
    assert (result.agrees, result.is_grave) == (agrees, grave)
    assert set(AGREES) == set(Verdict)
