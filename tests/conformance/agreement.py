"""Our verdict beside the trainer's answer, and which pairs agree; pure but for `judge`."""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from checkpoint_core.audit.findings import Severity, Verdict
from checkpoint_core.audit.reports import CheckpointReport
from checkpoint_core.audit.single_state import audit_state
from checkpoint_core.environment.facts import EnvironmentFacts
from tests.conformance.case import Case
from tests.conformance.cases import state_path
from tests.world import World


class Answer(enum.Enum):
    """What the trainer did."""

    #: An exception, before the first step or in it.
    FAILS = "fails"
    #: It trained, but from other values than were saved, or other epochs, or nothing at all.
    WRONG = "wrong"
    #: It trained rightly, but drew other random numbers, at another learning rate, or a part of an epoch again.
    DIFFERS = "differs"
    RIGHT = "right"


AGREES: Mapping[Verdict, frozenset[Answer]] = {
    Verdict.READY: frozenset({Answer.RIGHT}),
    Verdict.READY_WITH_WARNINGS: frozenset({Answer.RIGHT, Answer.DIFFERS}),
    Verdict.NEEDS_FIX: frozenset({Answer.FAILS, Answer.WRONG}),
    Verdict.DAMAGED: frozenset({Answer.FAILS, Answer.WRONG}),
    # Could not tell: no answer is against it, and all of them are counted.
    Verdict.UNKNOWN: frozenset(Answer),
    Verdict.SAVING: frozenset(),
}


@dataclass(frozen=True)
class Result:
    """One case under one release of accelerate; `why` is short, `codes` those that decide our verdict."""

    case: Case
    verdict: Verdict
    codes: tuple[str, ...]
    answer: Answer
    why: str

    @property
    def agrees(self) -> bool:
        """Whether the verdict foretells the answer."""
        return self.answer in AGREES[self.verdict]

    @property
    def is_grave(self) -> bool:
        """Whether somebody would lose work by the verdict: it promises what fails, or gives up what trains."""
        if self.verdict.resumes:
            return self.answer in (Answer.FAILS, Answer.WRONG)
        return self.verdict is Verdict.DAMAGED and not self.agrees


def environment(versions: Mapping[str, str]) -> EnvironmentFacts:
    """The interpreter that answered, as the project asks for it."""
    packages = tuple((name, versions[name]) for name in ("torch", "accelerate", "numpy", "safetensors"))
    return EnvironmentFacts(
        executable=sys.executable,
        source="the interpreter that answered",
        python=versions["python"],
        platform=versions["platform"],
        packages=packages,
    )


def judge(case: Case, world: World, context: EnvironmentFacts) -> CheckpointReport:
    """Our verdict."""
    return audit_state(state_path(case, world), layout=case.layout, deep=case.deep, environment=context)


def deciding_codes(report: CheckpointReport) -> tuple[str, ...]:
    """The codes of the findings that are as grave as the gravest."""
    gravest = report.findings[0].severity if report.findings else Severity.INFO
    if gravest is Severity.INFO:
        return ()
    return tuple(dict.fromkeys(found.code for found in report.findings if found.severity is gravest))


def answer(case: Case, seen: Mapping[str, Any]) -> tuple[Answer, str]:
    """Fold what the loader observed (`loader.Observed`) into an answer and its reason."""
    if seen["error"] is not None:
        stage = " in the first step" if seen["stage"] == "step" else ""
        return Answer.FAILS, str(seen["error"]).partition(":")[0] + stage
    if wrong := next((why for is_so, why in _wrong(case, seen) if is_so), None):
        return Answer.WRONG, wrong
    differing = [why for is_so, why in _differing(case, seen) if is_so]
    return (Answer.DIFFERS, ", ".join(differing)) if differing else (Answer.RIGHT, "")


def _wrong(case: Case, seen: Mapping[str, Any]) -> list[tuple[bool, str]]:
    rates_same = seen["rates"] == seen["wanted_rates"]
    return [
        (seen["epoch"] is None, "trains nothing"),
        (seen["epoch"] != case.epoch, f"epoch {seen['epoch']}"),
        (seen["weights"] == "other", "other weights"),
        (not seen["optimizer_same"], "other optimizer"),
        (not seen["schedule_same"], "other schedule"),
        (not seen["object_same"], "other object"),
        (not seen["finite"], "NaN"),
        (not any(seen["rates"]), "learning rate 0"),
        (seen["skipped"] > case.skip, "steps left out"),
        (rates_same and seen["weights"] == "same" and not seen["steps_same"], "other steps"),
    ]


def _differing(case: Case, seen: Mapping[str, Any]) -> list[tuple[bool, str]]:
    return [
        (seen["weights"] == "rounded", "weights rounded"),
        (bool(seen["lost"]), "random states"),
        (seen["rates"] != seen["wanted_rates"], "learning rate"),
        (seen["skipped"] < case.skip, "steps again"),
    ]
