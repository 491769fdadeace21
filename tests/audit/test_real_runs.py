"""What the real trainer wrote is judged as the real resume went: every state of every run in the archive.

The runs were trained by the unedited sd-scripts, some of them killed in the middle of a save; `verdict` and
`code` are what happened when the trainer was told to resume from the state, with the run's own script.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor, audit_outputs
from checkpoint_core.audit.findings import Severity
from checkpoint_core.audit.reports import AuditReport, CheckpointReport, find_latest_resumable
from checkpoint_core.audit.wording import headline
from checkpoint_core.states.facts import OptimizerFacts, WeightsFacts

EPOCH_1, EPOCH_2, EPOCH_3 = (f"tiny-lora-{epoch:06d}-state" for epoch in (1, 2, 3))
EPOCH_4, EPOCH_5, LAST = "tiny-lora-000004-state", "tiny-lora-000005-state", "tiny-lora-state"
FINISHED_RUNS = ("accelerate-0.33.0-adafactor", "accelerate-1.6.0-adafactor", "accelerate-1.6.0-adamw8bit")

#: Run, state, verdict, deciding code. The finished runs' scripts were set from four epochs to three after the
#: training, so both of their last states are past the end.
EXPECTED = [
    *((run, EPOCH_1, "ready", None) for run in FINISHED_RUNS),
    *((run, EPOCH_2, "ready", None) for run in FINISHED_RUNS),
    *((run, EPOCH_3, "needs-fix", "run-finished") for run in FINISHED_RUNS),
    *((run, LAST, "needs-fix", "run-finished") for run in FINISHED_RUNS),
    ("resumed-once", EPOCH_1, "ready", None),
    ("resumed-once", EPOCH_2, "ready", None),
    ("resumed-once", EPOCH_3, "needs-fix", "position-relative"),
    ("resumed-once", EPOCH_4, "needs-fix", "position-relative"),
    ("resumed-once", EPOCH_5, "needs-fix", "position-relative"),
    ("resumed-once", LAST, "needs-fix", "position-relative"),
    ("killed-after-json", EPOCH_1, "ready", None),
    ("killed-after-json", EPOCH_2, "damaged", "save-interrupted"),
    ("killed-in-optimizer", EPOCH_1, "ready", None),
    ("killed-in-optimizer", EPOCH_2, "damaged", "save-interrupted"),
    ("killed-in-rng", EPOCH_1, "ready", None),
    ("killed-in-rng", EPOCH_2, "ready-with-warnings", "random-states-empty"),
    ("killed-while-overwriting", EPOCH_1, "ready", None),
    ("killed-while-overwriting", EPOCH_2, "damaged", "mixed-saves"),
]


@pytest.fixture(scope="module")
def report(real_runs: Path) -> AuditReport:
    return audit_outputs(real_runs)


def decides(checkpoint: CheckpointReport) -> str | None:
    """The code of the finding that decides, or None when nothing but information was found."""
    first = checkpoint.findings[0]
    return None if first.severity is Severity.INFO else first.code


@pytest.mark.parametrize(("run", "state", "verdict", "code"), EXPECTED)
def test_each_state_is_judged_as_its_resume_went(
    report: AuditReport, run: str, state: str, verdict: str, code: str | None
) -> None:
    checkpoint = report.run(run).checkpoint(state)
    assert (checkpoint.verdict.value, decides(checkpoint)) == (verdict, code)


def test_no_state_of_the_archive_is_left_out(report: AuditReport) -> None:
    found = {(run.name, checkpoint.name) for run in report.runs for checkpoint in run.checkpoints}
    assert found == {(run, state) for run, state, _, _ in EXPECTED}


@pytest.mark.parametrize(
    ("run", "latest", "passed_over"),
    [
        *((run, EPOCH_2, [LAST, EPOCH_3]) for run in FINISHED_RUNS),
        ("resumed-once", EPOCH_2, [LAST, EPOCH_5, EPOCH_4, EPOCH_3]),
        ("killed-after-json", EPOCH_1, [EPOCH_2]),
        ("killed-in-optimizer", EPOCH_1, [EPOCH_2]),
        ("killed-in-rng", EPOCH_2, []),
        ("killed-while-overwriting", EPOCH_1, [EPOCH_2]),
    ],
)
def test_the_newest_that_resumes(report: AuditReport, run: str, latest: str, passed_over: list[str]) -> None:
    found = find_latest_resumable(report.run(run))
    assert found.checkpoint is not None
    assert found.checkpoint.name == latest
    assert [name for name, _ in found.passed_over] == passed_over


def test_a_second_resume_would_repeat_epochs_and_the_cure_names_the_right_one(report: AuditReport) -> None:
    run = report.run("resumed-once")
    state = run.checkpoint(EPOCH_4)
    position = state.position
    assert (position.epoch, position.step, position.current_step, position.lifetime_step) == (4, 32, 16, 32)
    assert (position.start_epoch, position.next_epoch) == (3, 5)
    assert "--initial_epoch 5" in state.findings[0].cure
    assert "current_step in train_state.json to 32" in state.findings[0].cure


def test_the_finished_and_resumed_state_is_told_as_both(report: AuditReport) -> None:
    codes = [found.code for found in report.run("resumed-once").checkpoint(LAST).findings]
    assert codes[:2] == ["position-relative", "run-finished"]


@pytest.mark.parametrize(
    ("run", "family"),
    [("accelerate-1.6.0-adafactor", "adafactor"), ("accelerate-1.6.0-adamw8bit", "adamw8bit")],
)
def test_the_contents_are_told(report: AuditReport, run: str, family: str) -> None:
    facts = report.run(run).checkpoint(EPOCH_2).facts
    assert isinstance(facts.weights, WeightsFacts)
    assert isinstance(facts.optimizer, OptimizerFacts)
    assert (facts.weights.rank, facts.weights.keys_are_lora, facts.optimizer.family) == (4, True, family)
    assert facts.optimizer.param_count == facts.weights.trained_count
    assert facts.optimizer.step == 16


def test_the_headlines_say_the_one_thing_to_know(report: AuditReport) -> None:
    assert headline(report.run("killed-after-json")).startswith(
        "Epoch 1 is ready. Epoch 2, the latest, is damaged: the save was interrupted:"
    )
    assert headline(report.run("killed-in-rng")) == (
        "Epoch 2, the latest, is ready, with warnings: random_states_0.pkl is empty (0 bytes)."
    )


@pytest.mark.parametrize("run", [*FINISHED_RUNS, "resumed-once"])
def test_every_byte_of_a_clean_run_is_good_and_its_weights_are_the_lora_files(
    real_runs: Path, run: str
) -> None:
    auditor = Auditor(real_runs)
    for checkpoint in auditor.audit_run(run).checkpoints:
        verified = auditor.verify(run, checkpoint.name)
        assert verified.verdict is checkpoint.verdict
        assert "weights-match-lora" in [found.code for found in verified.findings]


def test_the_cure_of_a_relative_state_makes_it_ready(real_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(real_runs / "resumed-once", tmp_path / "outputs" / "resumed-once")
    script = tmp_path / "outputs" / "resumed-once" / "train.sh"
    script.write_text(script.read_text().replace("--save_state", "--save_state \\\n  --initial_epoch 5"))
    run = audit_outputs(tmp_path / "outputs").run("resumed-once")
    assert run.checkpoint(EPOCH_4).verdict.value == "ready"
    assert decides(run.checkpoint(EPOCH_3)) == "script-initial-epoch"


def test_a_killed_save_is_still_being_written_for_a_minute(real_runs: Path) -> None:
    run, state = "killed-in-optimizer", EPOCH_2
    saved_ns = audit_outputs(real_runs).run(run).checkpoint(state).facts.saved_ns
    for seconds, verdict in ((5, "saving"), (300, "damaged")):
        auditor = Auditor(real_runs, clock=lambda seconds=seconds: saved_ns + seconds * 10**9)  # type: ignore[misc]
        assert auditor.audit_run(run).checkpoint(state).verdict.value == verdict


def test_reading_the_archive_writes_nothing(real_runs: Path) -> None:
    def stamps() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in real_runs.rglob("*")}

    before = stamps()
    audit_outputs(real_runs)
    assert stamps() == before
