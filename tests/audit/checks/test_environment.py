"""The state against the training interpreter: each finding, its sentence, and what it makes of the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.catalogue.states import finding
from checkpoint_core.audit.checks.environment import check_environment, in_environment, pip_install
from checkpoint_core.audit.findings import Finding, Severity, Subject, Verdict, deciding_findings
from checkpoint_core.audit.reports import CheckpointReport, RunReport
from checkpoint_core.environment.facts import Environment, EnvironmentFacts, EnvironmentProblem
from checkpoint_core.states.facts import OptimizerFacts, RandomStatesFacts, StateFacts
from checkpoint_core.states.layout import Layout
from tests.damage import (
    HOSTILE_PICKLES,
    add_process,
    calling_pickle,
    drop_rng_step,
    empty,
    put_pickle,
    remove,
    rewrite_torch_zip,
    rewrite_zip,
    truncate,
)
from tests.environments import environment
from tests.judging import codes, found, outcome
from tests.world import World

NEW = environment()
NOT_FOUND = EnvironmentProblem(
    "", "", "no interpreter found in env/, venv/, .venv/ of /gym; choose one under Options"
)
SILENT = EnvironmentProblem("/gym/env/bin/python", "env/", "it did not answer within 20 seconds")
PIP = "/gym/env/bin/python -m pip install -U"
RANDOM_STATES = "random_states_0.pkl"


def audited(world: World, there: Environment, layout: Layout | None = None) -> RunReport:
    return Auditor(world.outputs, layout, environment=lambda: there).audit_run(world.run_name)


def judged(world: World, there: Environment, layout: Layout | None = None) -> CheckpointReport:
    return audited(world, there, layout).checkpoint(world.latest.name)


def own(report: CheckpointReport) -> list[Finding]:
    """The findings about the environment."""
    return [each for each in report.findings if each.subject is Subject.ENVIRONMENT]


def sentences(finding: Finding) -> tuple[str, str, str]:
    return finding.message, finding.effect, finding.cure


def renamed_for_numpy_1(path: Path) -> None:
    """A file as numpy 1 names its objects in it."""

    def edit(members: dict[str, bytes]) -> dict[str, bytes]:
        return {name: data.replace(b"numpy._core.", b"numpy.core.") for name, data in members.items()}

    rewrite_zip(path, edit)


def plain_numbers(state: Path) -> None:
    """Random states without a numpy object in them."""

    def transform(states: dict[str, object]) -> None:
        kind, key, *rest = states["numpy_random_seed"]  # type: ignore[misc]
        states["numpy_random_seed"] = (kind, key.tolist(), *rest)  # type: ignore[has-type]

    rewrite_torch_zip(state / RANDOM_STATES, transform)


# A good state


@pytest.mark.parametrize(
    "there",
    [
        None,
        NEW,
        environment(accelerate="1.1.1"),
        environment(accelerate="0.33.0", torch="2.5.1"),
        environment(accelerate="0.31.0", torch="2.0.1+cu118"),
        environment(transformers=None, bitsandbytes=None),
    ],
)
def test_nothing_is_found_where_the_state_loads_whole(world: World, there: Environment) -> None:
    run = audited(world, there)
    report = run.checkpoint(world.latest.name)
    assert (report.verdict, own(report), run.findings) == (Verdict.READY, [], ())
    assert run.environment is there


def test_the_famous_error_is_told_before_it_happens(world: World) -> None:
    report = judged(world, environment(accelerate="0.33.0"))
    (decides,) = deciding_findings(report.findings)
    assert outcome(report) == ("needs-fix", ["environment-needs-step"])
    assert (decides.subject, decides.severity) == (Subject.ENVIRONMENT, Severity.FIXABLE)
    assert (decides.file, report.concerns) == (RANDOM_STATES, (Subject.ENVIRONMENT,))
    assert sentences(decides) == (
        "This environment (accelerate 0.33.0, torch 2.13.0) stops at random_states_0.pkl: torch refuses the numpy "
        "array in that file, and accelerate lets it through only since 1.1.",
        "The trainer stops in load_state with KeyError: 'step', whatever else the checkpoint holds.",
        f"Upgrade accelerate: run {PIP} 'accelerate>=1.1' in a terminal. Or rewrite random_states_0.pkl with “step” "
        "and plain numbers in it, which loses nothing.",
    )


@pytest.mark.parametrize("accelerate", ["0.25.0", "0.31.0", "0.34.2", "1.0.1"])
def test_random_states_that_are_lost_silently_are_told(world: World, accelerate: str) -> None:
    report = judged(world, environment(accelerate=accelerate))
    assert outcome(report) == ("ready-with-warnings", ["environment-loses-random-states"])
    assert sentences(own(report)[0]) == (
        f"This environment (accelerate {accelerate}, torch 2.13.0) does not restore the random states: torch refuses "
        "the numpy array in that file, and accelerate lets it through only since 1.1.",
        "It says “Could not load random states” and trains on from the right weights, but the image order and "
        "noise differ.",
        f"No action is needed. To restore them too, run {PIP} 'accelerate>=1.1' in a terminal.",
    )


@pytest.mark.parametrize("accelerate", ["0.25.0", "0.33.0", "1.0.1", "1.15.0"])
def test_plain_numbers_load_everywhere(world: World, accelerate: str) -> None:
    plain_numbers(world.latest)
    for numpy in ("1.24.4", "1.26.4", "2.4.6"):
        report = judged(world, environment(accelerate=accelerate, numpy=numpy))
        assert outcome(report) == ("ready", [])


@pytest.mark.parametrize(
    ("of_numpy_1", "versions", "why", "cure"),
    [
        (True, {}, "it was saved with numpy 1, and numpy 2.4.6 calls the array in it by another name",
         "rewrite random_states_0.pkl with plain numbers in it, which loses nothing"),
        (False, {"numpy": "1.26.4"},
         "it was saved with numpy 2, and numpy 1.26.4 calls the array in it by another name",
         "rewrite random_states_0.pkl with plain numbers in it, which loses nothing"),
        (True, {"numpy": "1.24.4"}, "numpy 1.24.4 is too old for accelerate to let its array through",
         f"run {PIP} 'numpy>=1.25,<2' in a terminal"),
        (False, {"numpy": "1.24.4"},
         "it was saved with numpy 2, and numpy 1.24.4 calls the array in it by another name",
         "rewrite random_states_0.pkl with plain numbers in it, which loses nothing"),
        # An upgrade of accelerate alone would not help.
        (True, {"accelerate": "1.0.1"},
         "torch refuses the numpy array in that file, and accelerate lets it through only since 1.1",
         "rewrite random_states_0.pkl with plain numbers in it, which loses nothing"),
        (False, {"accelerate": "1.0.1", "torch": "2.5.1", "numpy": "1.24.4"},
         "it was saved with numpy 2, and numpy 1.24.4 calls the array in it by another name",
         "rewrite random_states_0.pkl with plain numbers in it, which loses nothing"),
    ],
)  # fmt: skip
def test_the_other_numpy(
    world: World, of_numpy_1: bool, versions: dict[str, str], why: str, cure: str
) -> None:
    if of_numpy_1:
        renamed_for_numpy_1(world.latest / RANDOM_STATES)
    report = judged(world, environment(**versions))
    assert outcome(report) == ("ready-with-warnings", ["environment-loses-random-states"])
    (told,) = own(report)
    assert told.message.endswith(f"does not restore the random states: {why}.")
    assert told.cure == f"No action is needed. To restore them too, {cure}."


# Random states with something wrong


@pytest.mark.parametrize("torch", ["2.5.1", "2.13.0"])
def test_random_states_without_step(world: World, torch: str) -> None:
    drop_rng_step(world.latest)
    assert outcome(judged(world, None)) == ("ready-with-warnings", ["random-states-no-step"])
    assert outcome(judged(world, environment(torch=torch))) == ("ready", [])

    report = judged(world, environment(accelerate="0.33.0", torch=torch))
    assert outcome(report) == ("needs-fix", ["environment-needs-step"])
    why = {
        "2.5.1": "it needs “step” from that file, and accelerate 0.31 or older saved it without",
        "2.13.0": "torch refuses the numpy array in that file, and accelerate lets it through only since 1.1",
    }
    assert own(report)[0].message.endswith(f"stops at random_states_0.pkl: {why[torch]}.")


@pytest.mark.parametrize(("kind", "damage"), [("missing", remove), ("empty", empty), ("truncated", truncate)])
def test_broken_random_states(world: World, kind: str, damage: Callable[[Path], None]) -> None:
    damage(world.latest / RANDOM_STATES)
    report = judged(world, NEW)
    assert outcome(report) == ("ready-with-warnings", [f"random-states-{kind}"])
    told = found(report, f"random-states-{kind}")
    assert sentences(told)[1:] == (
        "Training continues from the right weights, but the image order and noise differ from an "
        "uninterrupted training.",
        "No action is needed. What is lost with them cannot be restored.",
    )

    report = judged(world, environment(accelerate="0.32.1", torch="2.5.1"))
    assert outcome(report) == ("needs-fix", ["environment-needs-step", f"random-states-{kind}"])
    assert report.concerns == (Subject.ENVIRONMENT,)
    assert own(report)[0].message.endswith(
        "stops at random_states_0.pkl: it needs “step” from that file, which is missing or broken."
    )
    assert own(report)[0].cure.endswith(
        "Or write a new random_states_0.pkl with “step” in it: the saved random states are lost, and the image "
        "order and noise differ."
    )


@pytest.mark.parametrize(
    "there", [None, NEW, environment(accelerate="1.0.1", torch="2.5.1"), NOT_FOUND, SILENT]
)
def test_hostile_random_states_are_never_called_nothing_to_do(world: World, there: Environment) -> None:
    put_pickle(world.latest / RANDOM_STATES, HOSTILE_PICKLES["os-system"])
    told = found(judged(world, there), "random-states-hostile")
    assert told.severity is Severity.FIXABLE
    assert told.cure.startswith("Do not resume from it as it is. Move the file away")
    assert "runs that code" in told.effect


@pytest.mark.parametrize("file", [RANDOM_STATES, "optimizer.bin", "scheduler.bin"])
def test_code_behind_many_names_is_hostile_where_an_old_torch_loads_unchecked(
    world: World, file: str
) -> None:
    harmless = b"".join(b"cmine\nObject%d\n" % number for number in range(60))
    put_pickle(world.latest / file, b"\x80\x02(" + harmless + b"cos\nsystem\nt.")
    report = judged(world, environment(accelerate="1.0.1", torch="2.5.1"))
    codes = {each.code for each in report.findings if each.file == file}
    assert codes & {"random-states-hostile", "optimizer-foreign", "scheduler-foreign"}
    assert "environment-loads-unchecked" not in codes


# Files that are whole, and refused


def with_names(facts: StateFacts, *names: str) -> StateFacts:
    assert isinstance(facts.optimizer, OptimizerFacts)
    return replace(facts, optimizer=replace(facts.optimizer, names=frozenset(names)))


@pytest.mark.parametrize(
    ("version", "versions", "refused", "requirements"),
    [
        ("2", {"accelerate": "1.0.1"}, "numpy._core.multiarray._reconstruct, numpy.ndarray", "'accelerate>=1.1'"),
        ("1", {"accelerate": "1.0.1"}, "numpy.core.multiarray._reconstruct, numpy.ndarray",
         "'accelerate>=1.1' 'numpy>=1.25,<2'"),
        ("1", {}, "numpy.core.multiarray._reconstruct", "'numpy>=1.25,<2'"),
        ("2", {"numpy": "1.26.4"}, "numpy._core.multiarray._reconstruct", "'numpy>=2'"),
        ("2", {"accelerate": "1.6.0", "torch": "2.3.1", "numpy": "1.24.4"},
         "numpy._core.multiarray._reconstruct", "'numpy>=2'"),
    ],
)  # fmt: skip
def test_numpy_objects_in_the_optimizer(
    world: World, version: str, versions: dict[str, str], refused: str, requirements: str
) -> None:
    module = {"1": "numpy.core", "2": "numpy._core"}[version]
    facts = with_names(judged(world, None).facts, f"{module}.multiarray._reconstruct", "numpy.ndarray")
    there = environment(**versions)
    (told,) = (each for each in check_environment(facts, there, None) if each.file == "optimizer.bin")
    assert (told.code, told.severity, told.subject) == (
        "environment-refuses-file", Severity.FIXABLE, Subject.ENVIRONMENT
    )  # fmt: skip
    assert sentences(told) == (
        f"This environment (accelerate {there.version('accelerate')}, torch {there.version('torch')}) refuses "
        f"{refused} in optimizer.bin.",
        "The trainer stops before the first step: “Weights only load failed”, or “No module named 'numpy._core'”. "
        "The file itself is whole.",
        f"Install the versions that take it: run {PIP} {requirements} in a terminal.",
    )


def test_numpy_objects_that_the_environment_takes(world: World) -> None:
    facts = with_names(judged(world, None).facts, "numpy._core.multiarray._reconstruct", "numpy.ndarray")
    for there in (NEW, environment(accelerate="1.0.1", torch="2.5.1")):
        assert list(check_environment(facts, there, None)) == []


@pytest.mark.parametrize(
    ("there", "code", "verdict"),
    [
        (None, "optimizer-foreign", "damaged"),
        (NOT_FOUND, "optimizer-foreign", "damaged"),
        (NEW, "optimizer-foreign", "damaged"),
        (environment(accelerate="1.0.1"), "optimizer-foreign", "damaged"),
        (environment(accelerate="1.0.1", torch="2.5.1"), "environment-loads-unchecked", "unknown"),
        (environment(accelerate="1.1.0", torch="2.3.1"), "environment-loads-unchecked", "unknown"),
    ],
)
def test_objects_that_are_not_known_here(world: World, there: Environment, code: str, verdict: str) -> None:
    put_pickle(world.latest / "optimizer.bin", calling_pickle("some.library", "Moments", 1))
    report = judged(world, there)
    assert (report.verdict.value, report.findings[0].code) == (verdict, code)
    assert report.findings[0].message.endswith("some.library.Moments.")


@pytest.mark.parametrize("name", ["os-system", "builtins-eval", "getattr-walk"])
def test_what_runs_code_is_never_called_merely_unknown(world: World, name: str) -> None:
    put_pickle(world.latest / "optimizer.bin", HOSTILE_PICKLES[name])
    report = judged(world, environment(accelerate="1.0.1", torch="2.5.1"))
    assert report.verdict is Verdict.DAMAGED
    assert "environment-loads-unchecked" not in codes(report)


@pytest.mark.parametrize(
    ("names", "hostile", "code"),
    [
        (("some.library.Moments", "posix.system"), {"optimizer.bin"}, "optimizer-foreign"),
        (("some.library.Moments",), {"optimizer.bin"}, "optimizer-foreign"),
        (("some.library.Moments, posix.system",), set(), "environment-loads-unchecked"),
    ],
)
def test_the_reader_s_flag_decides_what_is_hostile(
    names: tuple[str, ...], hostile: set[str], code: str
) -> None:
    """Neither a list of names, which may be cut, nor a comma in one."""
    there = environment(accelerate="1.0.1", torch="2.5.1")
    foreign = finding("optimizer-foreign", file="optimizer.bin", detail=", ".join(names), evidence=names)
    assert [each.code for each in in_environment([foreign], there, frozenset(hostile))] == [code]


def test_damage_stays_damage_in_every_environment(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    expected = {NEW: ["optimizer-truncated"], environment(accelerate="0.33.0"): [
        "optimizer-truncated", "environment-needs-step"
    ]}  # fmt: skip
    for there, told in expected.items():
        assert outcome(judged(world, there)) == ("damaged", told)
    assert judged(world, environment(accelerate="0.33.0")).concerns == (Subject.STATE,)


# Packages


@pytest.mark.parametrize("package", ["torch", "accelerate", "safetensors", "numpy"])
def test_a_package_that_is_not_there_is_all_that_is_told(world: World, package: str) -> None:
    there = environment(**{"accelerate": "0.33.0", package: None})
    report = judged(world, there)
    assert outcome(report) == ("needs-fix", ["environment-lacks-package"])
    assert sentences(own(report)[0]) == (
        f"{package} is not installed in the training interpreter (/gym/env/bin/python).",
        "The training stops at once: it cannot be imported. The checkpoint is not to blame.",
        f"Install it: run {PIP} {package} in a terminal.",
    )


def test_every_package_that_is_not_there_is_told(world: World) -> None:
    report = judged(world, environment(torch=None, accelerate=None))
    assert codes(report) == ["environment-lacks-package"] * 2


@pytest.mark.parametrize(
    ("executable", "command"),
    [
        ("/gym/env/bin/python", "/gym/env/bin/python -m pip install -U 'accelerate>=1.1' torch"),
        ("/my gym/env/bin/python", "'/my gym/env/bin/python' -m pip install -U 'accelerate>=1.1' torch"),
        (r"C:\my gym\env\Scripts\python.exe",
         r'"C:\my gym\env\Scripts\python.exe" -m pip install -U "accelerate>=1.1" "torch"'),
    ],
)  # fmt: skip
def test_a_command_can_be_pasted_into_the_shell_of_its_system(executable: str, command: str) -> None:
    assert pip_install(environment(executable), "accelerate>=1.1", "torch") == command


# Processes and devices


def test_more_processes_than_random_states(world: World) -> None:
    world.edit_script(
        lambda text: text.replace("accelerate launch", "accelerate launch --num_processes 3", 1)
    )
    report = judged(world, NEW)
    told = found(report, "environment-processes")
    assert (told.severity, own(report)) == (Severity.WARNING, [told])
    assert sentences(told) == (
        "The training will run 3 processes, but random states were saved for 1.",
        "The processes without saved random states draw other numbers.",
        "No action is needed. As many processes as before restore all of them.",
    )

    plain_numbers(world.latest)
    add_process(world.latest)
    told = found(judged(world, environment(accelerate="0.33.0")), "environment-processes-stop")
    assert told.severity is Severity.FIXABLE
    assert sentences(told) == (
        "The training will run 3 processes, but random states were saved for 2.",
        "accelerate 0.33.0 stops with KeyError: 'step' in every process that finds none.",
        f"Set --num_processes 2 in the train script, or upgrade accelerate: run {PIP} 'accelerate>=1.1' in a "
        "terminal.",
    )
    add_process(world.latest, 2)
    assert own(judged(world, environment(accelerate="0.33.0"))) == []


@pytest.mark.parametrize(
    ("saved", "gpus", "told"),
    [
        (1, ("A", "B"), "The checkpoint holds random states of 1 GPU; the training will see 2."),
        (2, ("A",), "The checkpoint holds random states of 2 GPUs; the training will see 1."),
        (1, (), "The checkpoint holds random states of 1 GPU; the training will see none."),
        (2, ("A", "B"), None),
        (1, None, None),
        (0, ("A",), None),
        (0, (), None),
    ],
)
def test_another_number_of_devices_is_information(
    world: World, saved: int, gpus: tuple[str, ...] | None, told: str | None
) -> None:
    facts = judged(world, None).facts
    assert isinstance(facts.random_states, RandomStatesFacts)
    facts = replace(facts, random_states=replace(facts.random_states, cuda_count=saved))
    there = replace(NEW, gpus=gpus)
    findings = [(each.code, each.severity, each.message) for each in check_environment(facts, there, None)]
    assert findings == ([("environment-gpu-count", Severity.INFO, told)] if told else [])


def test_versions_that_were_not_tried_are_information(world: World) -> None:
    report = judged(world, environment(accelerate="1.16.0"))
    assert outcome(report) == ("ready", [])
    (told,) = own(report)
    assert (told.code, told.severity) == ("environment-unusual", Severity.INFO)
    assert sentences(told) == (
        "The training's versions are unusual: accelerate 1.16.0 is outside the versions that were tried (0.25 to "
        "1.15).",
        "Whether it loads the checkpoint as other versions do was not tried.",
        "Press “Rehearse resume” to try it; this is also done before the train script is changed.",
    )


# Nothing known


def test_no_environment_found_is_a_finding_of_the_run_and_a_warning_at_each_state(world: World) -> None:
    run = audited(world, NOT_FOUND)
    report = run.checkpoint(world.latest.name)
    assert outcome(report) == ("ready-with-warnings", ["environment-unknown"])
    (of_run,) = run.findings
    assert (of_run.code, of_run.severity, of_run.subject) == (
        "environment-unknown", Severity.UNKNOWN, Subject.ENVIRONMENT
    )  # fmt: skip
    assert own(report) == [replace(of_run, severity=Severity.WARNING)]
    assert sentences(of_run) == (
        "The training interpreter is not known: no interpreter found in env/, venv/, .venv/ of /gym; choose one under "
        "Options.",
        "The checkpoints were judged by their files and the train script alone. accelerate 0.32 and 0.33 would stop "
        "with KeyError: 'step'.",
        "Choose the training interpreter: “Training interpreter” under Options in the tab, --python PATH on the "
        "command line, or the variable FLUXGYM_PYTHON.",
    )


def test_an_environment_that_does_not_answer_leaves_the_verdict_open(world: World) -> None:
    run = audited(world, SILENT)
    report = run.checkpoint(world.latest.name)
    assert outcome(report) == ("unknown", ["environment-no-answer"])
    assert (report.concerns, run.findings) == ((Subject.ENVIRONMENT,), ())
    assert own(report)[0].message == (
        "The training interpreter (/gym/env/bin/python) could not be queried: it did not answer within 20 seconds."
    )
    assert own(report)[0].effect == "Whether it can load this checkpoint is not known."
    truncate(world.latest / "optimizer.bin")
    assert judged(world, SILENT).verdict is Verdict.DAMAGED


@pytest.mark.parametrize("there", [NOT_FOUND, SILENT])
def test_what_is_said_about_versions_stays_where_none_are_known(world: World, there: Environment) -> None:
    drop_rng_step(world.latest)
    assert "random-states-no-step" in codes(judged(world, there))
    remove(world.latest / RANDOM_STATES)
    assert "0.32 and 0.33 stop" in found(judged(world, there), "random-states-missing").effect


@pytest.mark.parametrize("accelerate", ["0.33.0", "1.15.0"])
def test_an_empty_directory_says_nothing_about_the_environment(world: World, accelerate: str) -> None:
    for path in world.latest.iterdir():
        remove(path)
    report = judged(world, environment(accelerate=accelerate))
    assert (report.verdict, own(report)) == (Verdict.DAMAGED, [])


def test_an_environment_that_changes_is_judged_anew(world: World) -> None:
    there: list[EnvironmentFacts] = [environment(accelerate="0.33.0")]
    auditor = Auditor(world.outputs, environment=lambda: there[-1])
    before = auditor.audit_run(world.run_name)
    there.append(NEW)
    after = auditor.audit_run(world.run_name)
    assert {each.verdict for each in before.checkpoints} == {Verdict.NEEDS_FIX}
    assert {each.verdict for each in after.checkpoints} == {Verdict.READY}
