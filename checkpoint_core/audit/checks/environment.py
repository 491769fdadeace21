"""The state against the training interpreter: what its versions do with files that are themselves in order."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace

from checkpoint_core.audit.catalogue.states import finding
from checkpoint_core.audit.findings import Finding, FindingKind, Severity, StatePart
from checkpoint_core.environment import (
    TRAINING_PACKAGES,
    Environment,
    EnvironmentFacts,
    EnvironmentProblem,
    RandomStates,
    is_older,
    is_unusual,
    loads_weights_only,
    random_states,
    refused_names,
    saved_by_numpy_2,
    with_version,
)
from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.states import (
    RANDOM_STATES_PATTERN,
    CustomObjectFacts,
    Layout,
    OptimizerFacts,
    RandomStatesFacts,
    Reading,
    SchedulerFacts,
    StateFacts,
    layout,
)
from checkpoint_core.text import counted
from checkpoint_core.trainer import optimizer_of

_ACCELERATE = "accelerate>=1.1"
#: What accelerate's ``load_state`` itself imports.
_NEEDED = ("torch", "accelerate", "safetensors", "numpy")


def check_environment(
    facts: StateFacts, environment: Environment, script: ScriptFacts | None
) -> Iterator[Finding]:
    """Every finding about the environment that would load the state; none where nobody asked for it."""
    if isinstance(environment, EnvironmentProblem):
        yield _not_known(environment)
    elif environment is not None and facts.files and not facts.problem:
        lacking = tuple(name for name in _needed(environment, script) if environment.version(name) is None)
        # What versions do cannot be told of packages that are not there.
        yield from _lacking(environment, lacking) if lacking else _loading(facts, environment, script)


def _needed(environment: EnvironmentFacts, script: ScriptFacts | None) -> tuple[str, ...]:
    """What a resume needs there: the optimizer's package too, in a Python that has what sd-scripts needs otherwise."""
    known = optimizer_of(script) if script else None
    trains = all(environment.version(name) for name in TRAINING_PACKAGES)
    return (*_NEEDED, known[0].package) if known and trains else _NEEDED


def _loading(
    facts: StateFacts, environment: EnvironmentFacts, script: ScriptFacts | None
) -> Iterator[Finding]:
    yield from _random_states(facts, environment)
    yield from _refused(facts, environment)
    yield from _processes(facts, environment, script)
    yield from _gpus(facts, environment)
    if reason := is_unusual(environment):
        yield finding("environment-unusual", reason=reason)


def _not_known(problem: EnvironmentProblem) -> Finding:
    if problem.executable:
        return finding("environment-no-answer", python=problem.executable, reason=problem.reason)
    # Files and script were judged all the same, so the checkpoint is not beyond judging; the run's finding says more.
    return replace(finding("environment-unknown", reason=problem.reason), severity=Severity.WARNING)


def check_run_environment(environment: Environment) -> Iterator[Finding]:
    """What to know about a run's environment as a whole."""
    if isinstance(environment, EnvironmentProblem) and not environment.executable:
        yield finding("environment-unknown", reason=environment.reason)


def _lacking(environment: EnvironmentFacts, packages: Iterable[str]) -> Iterator[Finding]:
    for package in packages:
        yield finding(
            "environment-lacks-package",
            package=package,
            python=environment.executable,
            command=pip_install(environment, package),
        )


def pip_install(environment: EnvironmentFacts, *requirements: str) -> str:
    """The command that installs into that environment, for the shell of its system."""
    if "\\" in environment.executable:
        wanted = " ".join(f'"{requirement}"' for requirement in requirements)
        return f'"{environment.executable}" -m pip install -U {wanted}'
    return shlex.join([environment.executable, "-m", "pip", "install", "-U", *requirements])


def _random_states(facts: StateFacts, environment: EnvironmentFacts) -> Iterator[Finding]:
    reading = facts.random_states
    outcome = random_states(reading, environment)
    lost = not isinstance(reading, RandomStatesFacts)
    if outcome is RandomStates.RESTORED or (outcome is RandomStates.LOST and lost):
        return  # fine, or a finding about the file itself
    code = "environment-needs-step" if outcome is RandomStates.STOPS else "environment-loses-random-states"
    rewrite = (
        f"write a new {layout.RANDOM_STATES} with “step” in it: the saved random states are lost, and "
        "the image order and noise differ"
        if lost
        else f"rewrite {layout.RANDOM_STATES} with “step” and plain numbers in it, which loses nothing"
    )
    yield finding(
        code,
        file=layout.RANDOM_STATES,
        **_versions(environment),
        reason=_why(reading, environment),
        command=pip_install(environment, _ACCELERATE),
        rewrite=rewrite,
        cure=_restoring(reading, environment),
    )


def _versions(environment: EnvironmentFacts) -> dict[str, str]:
    return {name: environment.version(name) or "none" for name in ("accelerate", "torch")}


def _why(reading: object, environment: EnvironmentFacts) -> str:
    """Why an environment does not restore random states."""
    if not isinstance(reading, RandomStatesFacts):
        return "it needs “step” from that file, which is missing or broken"
    refused = refused_names(reading.names, environment)
    if not refused:
        return "it needs “step” from that file, and accelerate 0.31 or older saved it without"
    if loads_weights_only(environment):
        if is_older(environment, "accelerate", "1.1"):
            return "torch refuses the numpy array in that file, and accelerate lets it through only since 1.1"
        if is_older(environment, "numpy", "1.25") and not saved_by_numpy_2(reading.names):
            return f"numpy {environment.version('numpy')} is too old for accelerate to let its array through"
    saved = "2" if saved_by_numpy_2(reading.names) else "1"
    present = environment.version("numpy")
    return f"it was saved with numpy {saved}, and numpy {present} calls the array in it by another name"


def _restoring(reading: Reading[RandomStatesFacts], environment: EnvironmentFacts) -> str:
    """How to get random states restored that this environment loses."""
    for package, version, requirement in (
        ("accelerate", "1.1", _ACCELERATE),
        ("numpy", "1.25", "numpy>=1.25,<2"),  # unbounded it would be numpy 2, which calls the array otherwise
    ):
        better = with_version(environment, package, version)
        if (
            is_older(environment, package, version)
            and random_states(reading, better) is RandomStates.RESTORED
        ):
            return f"run {pip_install(environment, requirement)} in a terminal"
    return f"rewrite {layout.RANDOM_STATES} with plain numbers in it, which loses nothing"


def _refused(facts: StateFacts, environment: EnvironmentFacts) -> Iterator[Finding]:
    """Whole files that some version loads and this one refuses."""
    readings: list[tuple[str, object]] = [
        (layout.OPTIMIZER, facts.optimizer),
        (layout.SCHEDULER, facts.scheduler),
    ]
    if facts.layout is Layout.ACCELERATE_OBJECTS and is_older(environment, "accelerate", "1.1"):
        readings.append((layout.CUSTOM_OBJECT, facts.custom_object))
    for file, reading in readings:
        if not isinstance(reading, (OptimizerFacts, SchedulerFacts, CustomObjectFacts)):
            continue
        if refused := refused_names(reading.names, environment):
            yield finding(
                "environment-refuses-file",
                file=file,
                evidence=refused,
                **_versions(environment),
                command=pip_install(environment, *_taking(reading.names, environment)),
            )


def _taking(names: frozenset[str], environment: EnvironmentFacts) -> Iterator[str]:
    """The requirements of an environment that takes these objects."""
    if is_older(environment, "accelerate", "1.1"):
        yield _ACCELERATE
        environment = with_version(environment, "accelerate", "1.1")
    if refused_names(names, environment):
        yield "numpy>=2" if saved_by_numpy_2(names) else "numpy>=1.25,<2"


def _processes(
    facts: StateFacts, environment: EnvironmentFacts, script: ScriptFacts | None
) -> Iterator[Finding]:
    """Each process loads a random states file of its own (accelerate ``checkpointing.py``)."""
    saved = sum(1 for entry in facts.files if RANDOM_STATES_PATTERN.match(entry.name))
    processes = script.num_processes if script else 1
    if not saved or processes <= saved:
        return
    stops = random_states(None, environment) is RandomStates.STOPS
    yield finding(
        "environment-processes-stop" if stops else "environment-processes",
        processes=processes,
        saved=saved,
        **_versions(environment),
        command=pip_install(environment, _ACCELERATE),
    )


def _gpus(facts: StateFacts, environment: EnvironmentFacts) -> Iterator[Finding]:
    reading = facts.random_states
    saved = reading.cuda_count if isinstance(reading, RandomStatesFacts) else 0
    if saved and environment.gpus is not None and saved != len(environment.gpus):
        gpus = counted(saved, "GPU")
        yield finding("environment-gpu-count", saved=gpus, visible=len(environment.gpus) or "none")


def in_environment(
    findings: Iterable[Finding], environment: Environment, hostile: frozenset[str] = frozenset()
) -> Iterator[Finding]:
    """Findings about files, told for the environment where it is known: what depends on versions is then decided.

    :param hostile: the files that name code to run.
    """
    known = environment if isinstance(environment, EnvironmentFacts) else None
    for found in findings:
        # What runs code is hostile everywhere.
        unknown = found.kind is FindingKind.FOREIGN and found.file not in hostile
        if unknown and _loads_unchecked(found, known):
            yield finding("environment-loads-unchecked", file=found.file, detail=found.evidence)
        elif known is None:
            yield found
        else:
            yield from _decided(found)


def _decided(found: Finding) -> Iterator[Finding]:
    about_random_states = found.part is StatePart.RANDOM_STATES
    if about_random_states and found.kind is FindingKind.NO_STEP:
        return  # the environment needs it, and a finding of its own says so, or it does not
    told_so = found.severity in (Severity.WARNING, Severity.FIXABLE) and found.kind is not FindingKind.HOSTILE
    if about_random_states and told_so:
        cure = _FRESH if found.severity is Severity.FIXABLE else f"No action is needed. {_WAY_BACK}"
        yield replace(found, effect=_ORDER_LOST, cure=cure)
    else:
        yield found


_ORDER_LOST = (
    "Training continues from the right weights, but the image order and noise differ from an uninterrupted "
    "training."
)
_FRESH = "Write a new random_states_0.pkl with “step” in it; the saved random states are lost."
_WAY_BACK = "What is lost with them cannot be restored."


def _loads_unchecked(found: Finding, environment: EnvironmentFacts | None) -> bool:
    """Whether accelerate would load objects that are not known here.

    It loads registered objects unchecked since 1.1 (``load_custom_state``: ``weights_only=False``).
    """
    if environment is None:
        return found.file == layout.CUSTOM_OBJECT
    unchecked = found.file == layout.CUSTOM_OBJECT and not is_older(environment, "accelerate", "1.1")
    return unchecked or not loads_weights_only(environment)
