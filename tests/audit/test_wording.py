"""The words that tab, report and command line share."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from checkpoint_core.audit.catalogue.states import finding
from checkpoint_core.audit.findings import Subject, Verdict
from checkpoint_core.audit.reports import CheckpointReport, RunReport
from checkpoint_core.audit.single_state import audit_state
from checkpoint_core.audit.wording import (
    VERDICT_WORDS,
    environment_line,
    headline,
    judgement,
    note,
    phrase,
    run_summary,
    title,
    title_inside,
)
from checkpoint_core.environment.facts import EnvironmentFacts, EnvironmentProblem
from tests.damage import drop_rng_step, edit_train_state, remove, truncate
from tests.judging import audit_world, judge_state, outcome
from tests.world import World


def at(report: CheckpointReport, **position: int | None) -> CheckpointReport:
    """The checkpoint, told to stand elsewhere."""
    launch = replace(report.launch, position=replace(report.position, **position))  # type: ignore[arg-type]
    return replace(report, launch=launch)


def test_every_verdict_has_its_words(world: World) -> None:
    report = judge_state(world)
    assert set(VERDICT_WORDS) == set(Verdict)
    sentences = {phrase(replace(report, verdict=verdict)) for verdict in Verdict}
    assert len(sentences) == len(Verdict)


def test_the_one_thing_to_know(world: World) -> None:
    assert note(judge_state(world)) == ""
    truncate(world.latest / "optimizer.bin")
    remove(world.latest / "random_states_0.pkl")
    assert note(judge_state(world)).startswith("optimizer.bin is truncated: ")


def test_a_checkpoint_is_called_by_its_epoch_its_step_or_its_name(world: World) -> None:
    assert title(judge_state(world)) == "Epoch 4"
    shutil.copytree(world.state(2), world.run / "the good one")
    shutil.copytree(world.state(2), world.run / f"{world.run_name}-step00000016-state")
    run = audit_world(world)
    assert title(run.checkpoint("the good one")) == "the good one"
    assert title(run.checkpoint(f"{world.run_name}-step00000016-state")) == "Step 16"
    nested = world.run / "checkpoints" / "checkpoint_0"
    shutil.copytree(world.state(2), nested)
    assert title(audit_world(world).checkpoint("checkpoints/checkpoint_0")) == "checkpoints/checkpoint_0"


def test_a_large_step_is_grouped(world: World) -> None:
    shutil.copytree(world.state(2), world.run / f"{world.run_name}-step00000016-state")
    report = audit_world(world).checkpoint(f"{world.run_name}-step00000016-state")
    assert title(at(report, step=12500)) == "Step 12,500"
    assert title(at(report, step=None)) == "Epoch 2"


def test_an_epoch_s_state_whose_epoch_is_not_known_keeps_its_name(world: World) -> None:
    report = judge_state(world)
    assert title(at(report, epoch=None)) == world.latest.name


def test_headline_of_a_healthy_run(world: World) -> None:
    assert headline(audit_world(world)) == "Epoch 4, the latest, is ready."


def test_headline_when_the_latest_is_damaged(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    told = headline(audit_world(world))
    assert told.startswith("Epoch 3 is ready. Epoch 4, the latest, is damaged: optimizer.bin is truncated: ")


def test_headline_when_the_best_has_warnings(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    drop_rng_step(world.state(3))
    assert headline(audit_world(world)).startswith(
        "Epoch 3 is ready, with warnings. Epoch 4, the latest, is damaged: "
    )


def test_headline_when_nothing_resumes(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        edit_train_state(world.state(epoch), current_step=None)
    assert headline(audit_world(world)) == (
        "None of the 4 checkpoints resumes as it is. "
        "Epoch 4, the latest, needs a fix: train_state.json has no current_step."
    )


def test_headline_without_checkpoints_says_what_to_do(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        shutil.rmtree(world.state(epoch))
    run = audit_world(world)
    assert headline(run) == f"{run.findings[0].message} {run.findings[0].cure}"
    assert headline(replace(run, findings=())) == "There are no checkpoints yet."


@pytest.mark.parametrize(
    ("code", "inside"),
    [
        ("save-in-progress", "is being saved: this checkpoint is being written right now."),
        ("state-empty", "is being saved: the directory is empty"),
        ("check-crashed", "is being saved: a check could not be completed"),
    ],
)
def test_a_reason_goes_on_in_the_sentence(world: World, code: str, inside: str) -> None:
    report = replace(judge_state(world), verdict=Verdict.SAVING, findings=(finding(code),))
    assert inside in phrase(report)


def test_names_keep_their_capitals_inside_a_sentence(world: World) -> None:
    report = judge_state(world)
    for message in ("NaN was found.", "LoRA is gone.", "MyCat-000004.safetensors is new.", "x"):
        told = replace(finding("check-crashed"), message=message)
        sentence = phrase(replace(report, findings=(told,)))
        assert sentence.endswith(f": {message}"), sentence


def test_a_run_at_a_glance(world: World) -> None:
    assert run_summary(audit_world(world)) == "4 checkpoints, epoch 4 ready"
    for epoch in (2, 3, 4):
        shutil.rmtree(world.state(epoch))
    assert run_summary(audit_world(world)) == "1 checkpoint, epoch 1 ready"
    remove(world.state(1) / "optimizer.bin")
    assert run_summary(audit_world(world)) == "1 checkpoint, none ready"
    shutil.rmtree(world.state(1))
    assert run_summary(audit_world(world)) == "no checkpoints"


def test_a_name_is_not_made_small_at_a_glance(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        world.state(epoch).rename(world.run / f"Copy {epoch}")
    run: RunReport = audit_world(world)
    newest: CheckpointReport = run.checkpoints[0]
    assert newest.name in run_summary(run)
    assert title_inside(newest) == newest.name


def in_environment(world: World, **versions: str) -> CheckpointReport:
    """The world's latest state, judged for a Python with these versions."""
    packages = {
        "torch": "2.13.0",
        "accelerate": "1.15.0",
        "numpy": "2.4.6",
        "safetensors": "0.8.0",
        **versions,
    }
    environment = EnvironmentFacts(
        "/gym/env/bin/python",
        "env/ in FluxGym's folder",
        "3.10.13",
        "Linux",
        tuple(packages.items()),
        gpus=(),
    )
    return audit_state(world.latest, environment=environment)


def test_a_judgement_names_whom_it_concerns(world: World) -> None:
    assert judgement(in_environment(world)) == "It will resume."
    blocked = in_environment(world, accelerate="0.33.0")
    assert blocked.concerns == (Subject.ENVIRONMENT,)
    assert judgement(blocked) == "The checkpoint is fine; this environment cannot load it as it is."

    world.edit_script(lambda text: text.replace("--network_dim 4", "--network_dim 8"))
    assert judgement(in_environment(world)) == "The checkpoint is fine; the train script does not fit it."
    both = in_environment(world, accelerate="0.33.0")
    assert both.concerns == (Subject.SCRIPT, Subject.ENVIRONMENT)
    assert judgement(both) == "The checkpoint is fine; neither train script nor environment fits it."

    truncate(world.latest / "optimizer.bin")
    assert judgement(in_environment(world, accelerate="0.33.0")) == (
        "This checkpoint is damaged: it cannot be resumed."
    )


def test_nothing_is_promised_for_an_environment_that_was_not_found(world: World) -> None:
    report = audit_state(world.latest, environment=EnvironmentProblem("", "", "there is none"))
    assert outcome(report) == ("ready-with-warnings", ["environment-unknown"])
    assert judgement(report) == (
        "It will resume, as far as its files and the train script show. The training interpreter is not known."
    )


def test_a_checkpoint_with_a_flaw_of_its_own_is_not_called_fine(world: World) -> None:
    remove(world.latest / "random_states_0.pkl")
    report = in_environment(world, accelerate="0.33.0")
    assert (
        judgement(report) == "The checkpoint itself can be resumed; this environment cannot load it as it is."
    )
    assert "KeyError: 'step'" in report.findings[0].effect


def test_the_training_environment_in_one_line(world: World) -> None:
    line = environment_line(in_environment(world).environment)
    assert line == (
        "Python 3.10.13 with accelerate 1.15.0, torch 2.13.0 (no CUDA; no GPU seen): /gym/env/bin/python, env/ in "
        "FluxGym's folder; it lacks transformers and diffusers, which sd-scripts needs"
    )
    assert environment_line(EnvironmentProblem("", "", "no interpreter found")) == "No interpreter found."
    assert environment_line(None) == ""
