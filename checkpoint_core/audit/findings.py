"""Finding with its kind and part, Severity, Verdict, and the fold from findings to one verdict."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Set
from dataclasses import dataclass


class Severity(enum.Enum):
    """What a finding does to the training, worst last except for the two that are not about damage."""

    #: Worth knowing, changes nothing.
    INFO = "info"
    #: Trains rightly, but something differs.
    WARNING = "warning"
    #: Would fail or train wrongly; a cure is known that keeps the training state.
    FIXABLE = "fixable"
    #: Will not resume, or would train wrongly, and no cure keeps the training state.
    ERROR = "error"
    #: Could not be told; never shown as fine.
    UNKNOWN = "unknown"
    #: The files are being written at this moment.
    SAVING = "saving"


class Subject(enum.Enum):
    """Whom a finding concerns."""

    STATE = "state"
    SCRIPT = "script"
    ENVIRONMENT = "environment"
    RUN = "run"


class FindingKind(enum.Enum):
    """What is the matter, whichever file it is the matter with; rules ask for this and never read a code."""

    MISSING = "missing"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    #: It names objects outside the allow-list.
    FOREIGN = "foreign"
    #: Among its objects is one that runs code.
    HOSTILE = "hostile"
    UNREADABLE = "unreadable"
    #: A format or a size that is not read here.
    UNSUPPORTED = "unsupported"
    #: Text that is not what the trainer would read there.
    BROKEN = "broken"
    #: Tensors whose names do not belong together.
    NAMES_BROKEN = "names-broken"
    #: The step that the trainer or accelerate asks for is not in it.
    NO_STEP = "no-step"
    INCOMPLETE = "incomplete"
    #: It does not fit another file of the state.
    MISMATCH = "mismatch"
    #: Nobody here saved it.
    STRAY = "stray"
    #: The last files of a save were never written.
    INTERRUPTED = "interrupted"
    #: Files of two saves.
    MIXED = "mixed"
    OLDER = "older"
    BYTES_CHANGED = "bytes-changed"
    NOT_FINITE = "not-finite"
    DIFFERENT = "differ-from-lora"
    #: This environment stops over a file without a step, or refuses a file that is whole.
    NEEDS_STEP = "needs-step"
    REFUSED = "refuses-file"
    #: What a rehearsal did.
    REHEARSAL = "rehearsal"


class StatePart(enum.Enum):
    """The part of a state that a finding is about; the value begins its codes."""

    WEIGHTS = "weights"
    OPTIMIZER = "optimizer"
    SCHEDULER = "scheduler"
    RANDOM_STATES = "random-states"
    CUSTOM_OBJECT = "custom-object"
    TRAIN_STATE = "train-state"


#: A file's bytes are there and cannot be used.
DAMAGED_BYTES = frozenset({FindingKind.EMPTY, FindingKind.TRUNCATED, FindingKind.CORRUPT})
#: Nothing of a file can be used, as if it had never been saved.
LOST = DAMAGED_BYTES | {FindingKind.MISSING}


class Verdict(enum.Enum):
    """The one word about a checkpoint."""

    READY = "ready"
    READY_WITH_WARNINGS = "ready-with-warnings"
    NEEDS_FIX = "needs-fix"
    DAMAGED = "damaged"
    SAVING = "saving"
    UNKNOWN = "unknown"

    @property
    def resumes(self) -> bool:
        """Whether training can go on from it as it stands."""
        return self in (Verdict.READY, Verdict.READY_WITH_WARNINGS)


@dataclass(frozen=True)
class Finding:
    """One thing noticed: a stable code, and in words the cause, what it does to the training, and the cure.

    ``file`` is a file name inside the state directory (or the script's), ``evidence`` the raw observation, for people.
    Rules go by ``kind``, ``part`` and ``names`` (the objects, files or tensors that the evidence lists).
    """

    code: str
    severity: Severity
    subject: Subject
    message: str
    effect: str
    cure: str
    file: str | None = None
    evidence: str = ""
    kind: FindingKind | None = None
    part: StatePart | None = None
    names: tuple[str, ...] = ()

    def is_one_of(self, part: StatePart, kinds: Set[FindingKind]) -> bool:
        """Whether it tells one of these kinds of that part."""
        return self.part is part and self.kind in kinds


#: Which verdict each severity leads to, the strongest first: certain damage outweighs doubt, and doubt
#: outweighs a fix, because nobody can promise that the fix is enough.
_FOLD = (
    (Severity.SAVING, Verdict.SAVING),
    (Severity.ERROR, Verdict.DAMAGED),
    (Severity.UNKNOWN, Verdict.UNKNOWN),
    (Severity.FIXABLE, Verdict.NEEDS_FIX),
    (Severity.WARNING, Verdict.READY_WITH_WARNINGS),
)


def fold(findings: Iterable[Finding]) -> Verdict:
    """The verdict that a set of findings adds up to; none at all is ``ready``."""
    severities = {finding.severity for finding in findings}
    for severity, verdict in _FOLD:
        if severity in severities:
            return verdict
    return Verdict.READY


def deciding_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings of the severity that decides the verdict; none where it is ``ready``."""
    findings = tuple(findings)
    severities = {finding.severity for finding in findings}
    deciding = next((severity for severity, _ in _FOLD if severity in severities), None)
    return tuple(finding for finding in findings if finding.severity is deciding)


def by_weight(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings with the one that decides the verdict first, otherwise in their given order."""
    order = {severity: rank for rank, (severity, _) in enumerate(_FOLD)}
    return tuple(sorted(findings, key=lambda finding: order.get(finding.severity, len(order))))
