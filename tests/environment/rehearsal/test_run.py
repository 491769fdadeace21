"""Rehearsals with the real accelerate of this Python, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from checkpoint_core.audit.checks.rehearsal import findings_of
from checkpoint_core.audit.findings import Severity
from checkpoint_core.environment.facts import EnvironmentFacts
from checkpoint_core.environment.probing import probe
from checkpoint_core.environment.rehearsal.outcome import (
    Rehearsal,
    RehearsalOutcome,
    RehearsalStage,
    RehearsalStatus,
    Restored,
)
from checkpoint_core.environment.rehearsal.run import Limits, child_environment, plan_rehearsal, run_rehearsal
from checkpoint_core.states import layout
from checkpoint_core.states.facts import StateFacts
from checkpoint_core.states.layout import Layout
from tests.damage import (
    HOSTILE_PICKLES,
    add_custom_checkpoint,
    edit_train_state,
    empty,
    put_pickle,
    remove,
    truncate,
)
from tests.judging import judge_copy, judge_state
from tests.world import PROJECT, World

AMPLE = Limits(seconds=60, import_bytes=4_000_000_000, load_bytes=1_000_000_000)


@pytest.fixture(scope="session")
def here() -> EnvironmentFacts:
    """This Python as the one that trains."""
    asked = probe(sys.executable, "the tests' own")
    assert isinstance(asked, EnvironmentFacts)
    return asked


def planned(facts: StateFacts, environment: EnvironmentFacts) -> Rehearsal:
    plan = plan_rehearsal(facts, environment)
    assert isinstance(plan, Rehearsal), plan
    return plan


def rehearse(world: World, environment: EnvironmentFacts) -> RehearsalOutcome:
    return run_rehearsal(planned(judge_state(world).facts, environment))


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Every file's bytes, time and mode, and the folder's own."""
    own = folder.stat()
    files = {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode)
        for path in folder.iterdir()
    }
    return {**files, ".": (b"", own.st_mtime_ns, own.st_mode)}


def test_a_whole_state_is_loaded_by_the_real_accelerate_and_stays_as_it_is(
    world: World, here: EnvironmentFacts
) -> None:
    for path in [*world.latest.iterdir(), world.latest]:
        path.chmod(path.stat().st_mode & ~0o222)
    before = contents(world.latest)
    stages: list[RehearsalStage] = []
    outcome = run_rehearsal(planned(judge_state(world).facts, here), stages.append)

    assert (outcome.status, outcome.error) == (RehearsalStatus.LOADED, "")
    assert stages == list(RehearsalStage)
    assert contents(world.latest) == before
    assert dict(outcome.start) == {"current_epoch": 4, "current_step": 32}
    assert (
        dict(outcome.versions).items()
        >= {
            "torch": here.version("torch"),
            "accelerate": here.version("accelerate"),
        }.items()
    )
    assert outcome.random_states in (Restored.RESTORED, Restored.PARTLY)
    assert any("All optimizer states loaded successfully" in line for line in outcome.log_lines)
    assert outcome.import_seconds is not None
    assert 0 < outcome.import_seconds < outcome.seconds
    assert [found.code for found in findings_of(outcome)] == ["rehearsal-passed"]


FAILURES: dict[str, tuple[Callable[[Path], object], str, str, str, str]] = {
    "optimizer empty": (
        lambda state: empty(state / layout.OPTIMIZER), layout.OPTIMIZER, "EOFError", "", "rehearsal-failed",
    ),
    "weights truncated": (
        lambda state: truncate(state / layout.WEIGHTS_SAFE), layout.WEIGHTS_SAFE, "SafetensorError",
        "incomplete metadata", "rehearsal-failed",
    ),
    "weights missing": (
        lambda state: remove(state / layout.WEIGHTS_SAFE), layout.WEIGHTS_SAFE, "FileNotFoundError",
        "pytorch_model.bin", "rehearsal-failed",
    ),
    "step missing": (
        lambda state: edit_train_state(state, current_step=None), layout.TRAIN_STATE, "KeyError",
        "'current_step'", "rehearsal-failed-fixable",
    ),
    "stray object": (
        add_custom_checkpoint, layout.RANDOM_STATES, "RuntimeError", "Number of custom checkpoints",
        "rehearsal-failed-fixable",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_a_broken_state_fails_with_the_librarys_own_words(
    world: World, here: EnvironmentFacts, case: str
) -> None:
    damage, part, exception, words, code = FAILURES[case]
    damage(world.latest)
    report = judge_state(world)
    outcome = run_rehearsal(planned(report.facts, here))

    assert (outcome.status, outcome.stage) == (RehearsalStatus.FAILED, RehearsalStage.LOADING)
    assert (outcome.part, outcome.exception) == (part, exception)
    assert words in outcome.message
    assert any(frame.startswith("accelerator.py:") and "load_state" in frame for frame in outcome.frames)
    assert [found.code for found in findings_of(outcome)] == [code]
    confirmed = findings_of(outcome, report.findings)
    assert [(found.code, found.severity) for found in confirmed] == [("rehearsal-confirmed", Severity.INFO)]


def test_damaged_random_states_are_not_restored_and_nothing_else_is_wrong(
    world: World, here: EnvironmentFacts
) -> None:
    truncate(world.latest / layout.RANDOM_STATES)
    outcome = rehearse(world, here)

    assert (outcome.status, outcome.random_states) == (RehearsalStatus.LOADED, Restored.NOT_RESTORED)
    assert [found.code for found in findings_of(outcome)] == ["rehearsal-passed", "rehearsal-random-states"]
    assert [found.code for found in findings_of(outcome, judge_state(world).findings)] == ["rehearsal-passed"]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_registered_objects_are_loaded_too(
    registered_states: Path, tmp_path: Path, here: EnvironmentFacts, kind: str
) -> None:
    facts = judge_copy(registered_states / kind, tmp_path, Layout.ACCELERATE_OBJECTS).facts
    outcome = run_rehearsal(planned(facts, here))

    assert (outcome.status, outcome.error) == (RehearsalStatus.LOADED, "")
    assert any("Loading in 1 custom states" in line for line in outcome.log_lines)


def test_a_state_of_the_8_bit_optimizer_is_loaded(
    real_runs: Path, tmp_path: Path, here: EnvironmentFacts
) -> None:
    facts = judge_copy(real_runs / "accelerate-1.6.0-adamw8bit/tiny-lora-000002-state", tmp_path).facts
    outcome = run_rehearsal(planned(facts, here))

    assert (outcome.status, outcome.error) == (RehearsalStatus.LOADED, "")


@pytest.mark.parametrize("bomb", ["deep-nesting", "allowed-call-bomb"])
def test_a_pickle_that_exhausts_the_process_harms_nobody_else(
    world: World, here: EnvironmentFacts, bomb: str
) -> None:
    put_pickle(world.latest / layout.OPTIMIZER, HOSTILE_PICKLES[bomb])
    outcome = rehearse(world, here)

    assert outcome.status in (RehearsalStatus.FAILED, RehearsalStatus.CRASHED)
    assert findings_of(outcome)[0].severity in (Severity.ERROR, Severity.UNKNOWN)


# What changes meanwhile is not judged


def test_a_state_that_changed_after_the_plan_is_not_loaded(world: World, here: EnvironmentFacts) -> None:
    plan = planned(judge_state(world).facts, here)
    os.utime(world.latest / layout.OPTIMIZER)
    stages: list[RehearsalStage] = []
    outcome = run_rehearsal(plan, stages.append)

    assert outcome.status is RehearsalStatus.CHANGED
    assert RehearsalStage.CHECKING not in stages
    assert [found.code for found in findings_of(outcome)] == ["rehearsal-not-finished"]


def test_a_state_that_changes_after_the_load_has_no_verdict(world: World, here: EnvironmentFacts) -> None:
    def touch(stage: RehearsalStage) -> None:
        if stage is RehearsalStage.CHECKING:
            os.utime(world.latest / layout.OPTIMIZER)

    assert run_rehearsal(planned(judge_state(world).facts, here), touch).status is RehearsalStatus.CHANGED


# Processes that do not do as they should


class Started:
    """`subprocess.Popen` that remembers the process."""

    process: subprocess.Popen[bytes]

    def __call__(self, *args: object, **options: object) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(*args, **options)  # type: ignore[call-overload]
        return self.process


def interpreter(folder: Path, program: str) -> str:
    """A program that is called as the training interpreter would be."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{program}\n")
    path.chmod(0o755)
    return str(path)


def run_program(
    world: World, here: EnvironmentFacts, program: str, **options: object
) -> tuple[RehearsalOutcome, Started]:
    """Run a rehearsal whose interpreter is a program of the test's."""
    environment = replace(here, executable=interpreter(world.root, program))
    started = Started()
    limits = options.pop("limits", AMPLE)
    plan = planned(judge_state(world).facts, environment)
    return run_rehearsal(plan, limits=limits, popen=started, **options), started  # type: ignore[arg-type]


SLEEP = "import time\ntime.sleep(600)"


def test_a_program_that_takes_too_long_is_ended(world: World, here: EnvironmentFacts) -> None:
    outcome, started = run_program(world, here, SLEEP, limits=replace(AMPLE, seconds=0.3))

    assert outcome.status is RehearsalStatus.TIMED_OUT
    assert started.process.poll() is not None
    (only,) = findings_of(outcome)
    assert (only.code, only.severity) == ("rehearsal-not-finished", Severity.UNKNOWN)


@pytest.mark.parametrize("stage", ["importing", "building"])
def test_a_program_that_takes_too_much_memory_is_ended(
    world: World, here: EnvironmentFacts, stage: str
) -> None:
    program = f"""print('{{"stage": "{stage}"}}', flush=True)\nimport time\ntime.sleep(0.5)
taken = b"x" * 300_000_000\n{SLEEP}"""
    limits = Limits(60, import_bytes=200_000_000, load_bytes=150_000_000)
    outcome, started = run_program(world, here, program, limits=limits)

    assert (outcome.status, outcome.stage) == (RehearsalStatus.OUT_OF_MEMORY, RehearsalStage(stage))
    assert started.process.poll() is not None


def test_a_cancelled_rehearsal_ends_everything_that_it_started(world: World, here: EnvironmentFacts) -> None:
    note = world.root / "grandchild"
    program = f"""import subprocess, sys
grandchild = subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
open({str(note)!r}, "w").write(str(grandchild.pid))
print('{{"stage": "importing"}}', flush=True)\n{SLEEP}"""
    stages: list[RehearsalStage] = []
    outcome, started = run_program(
        world, here, program, on_stage=stages.append, cancelled=lambda: RehearsalStage.IMPORTING in stages
    )

    assert outcome.status is RehearsalStatus.CANCELLED
    assert findings_of(outcome) == ()
    assert started.process.poll() is not None
    assert has_ended(int(note.read_text()))


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or comes to be within some seconds."""
    for _ in range(200):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_chatter_is_bounded_and_a_crash_is_told(world: World, here: EnvironmentFacts) -> None:
    program = """import sys
print("no json", '["neither"]', '{"stage": "unheard of"}', "x" * 5_000_000, sep="\\n")
print("y" * 5_000_000, "the last words", file=sys.stderr)
sys.exit(7)"""
    outcome, _ = run_program(world, here, program)

    assert (outcome.status, outcome.stage) == (RehearsalStatus.CRASHED, RehearsalStage.STARTING)
    assert "status 7" in outcome.message
    assert outcome.error_output.endswith("the last words\n")
    assert len(outcome.error_output) <= 16 * 1024


def test_an_interpreter_that_is_gone_is_a_crash(world: World, here: EnvironmentFacts) -> None:
    plan = planned(judge_state(world).facts, replace(here, executable=str(world.root / "no-python")))
    outcome = run_rehearsal(plan)

    assert outcome.status is RehearsalStatus.CRASHED
    assert "no-python" in outcome.message


def test_an_environment_without_accelerate_is_to_blame_itself(
    world: World, here: EnvironmentFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "accelerate.py").write_text("raise ImportError('no accelerate for you')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "shadow"))
    outcome = rehearse(world, here)

    assert (outcome.status, outcome.stage) == (RehearsalStatus.FAILED, RehearsalStage.IMPORTING)
    assert outcome.error == "ImportError: no accelerate for you"
    assert [found.code for found in findings_of(outcome)] == ["rehearsal-failed-environment"]


def test_a_rehearsal_ends_when_the_process_that_started_it_is_killed(
    world: World, here: EnvironmentFacts
) -> None:
    program = f"""
import sys
from pathlib import Path
from checkpoint_core.environment.probing import probe
from checkpoint_core.audit.single_state import audit_state
from checkpoint_core.environment.rehearsal.run import plan_rehearsal, run_rehearsal
plan = plan_rehearsal(audit_state({str(world.latest)!r}).facts, probe(sys.executable, "test"))
import subprocess
def popen(*args, **options):
    process = subprocess.Popen(*args, **options)
    print(process.pid, flush=True)
    return process
run_rehearsal(plan, popen=popen)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    child = psutil.Process(pid)
    child.suspend()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    child.resume()

    assert has_ended(pid)


def test_the_rehearsal_inherits_the_environment_but_no_second_process_and_no_gpu() -> None:
    variables = {
        "PATH": "/bin", "PYTHONPATH": "/packages", "CUDA_VISIBLE_DEVICES": "0,1", "ACCELERATE_MIXED_PRECISION": "fp16",
        "WORLD_SIZE": "2", "LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2",
    }  # fmt: skip
    child = child_environment(variables)

    assert (child["PATH"], child["PYTHONPATH"]) == ("/bin", "/packages")
    assert (child["CUDA_VISIBLE_DEVICES"], child["ACCELERATE_USE_CPU"]) == ("", "true")
    assert not child.keys() & {
        "ACCELERATE_MIXED_PRECISION",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "OMPI_COMM_WORLD_SIZE",
    }


def test_the_working_folder_of_a_rehearsal_goes_with_it(world: World, here: EnvironmentFacts) -> None:
    note = world.root / "folder"
    program = f"""import os, tempfile
open("left", "w").close()
assert tempfile.gettempdir() == os.getcwd()
open({str(note)!r}, "w").write(os.getcwd())"""
    run_program(world, here, program)
    folder = Path(note.read_text())

    assert folder.name.startswith("rehearsal-")
    assert not folder.exists()


def test_limits_grow_with_the_state() -> None:
    small, large = Limits.for_size(0), Limits.for_size(1_000_000_000)

    assert small.seconds == 120
    assert large.seconds == 220
    assert large.load_bytes - small.load_bytes == 2_000_000_000


def test_planning_and_watching_import_no_torch() -> None:
    program = (
        "import sys, checkpoint_core.environment.rehearsal.run, checkpoint_core.audit.checks.rehearsal;"
        "print([name for name in ('torch', 'accelerate', 'gradio') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
