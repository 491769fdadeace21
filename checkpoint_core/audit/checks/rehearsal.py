"""The outcome of a rehearsal to findings; pure.

A failure is blamed on the state only where the libraries could not read one of its files, and on the environment only
where a version is known to behave so. Everything else cannot be told: the stand-in may be to blame, or the machine.
"""

from __future__ import annotations

from collections.abc import Iterable

from checkpoint_core.audit.catalogue.rehearsal import REHEARSAL
from checkpoint_core.audit.findings import LOST, Finding, FindingKind, Severity
from checkpoint_core.environment import RehearsalOutcome, RehearsalStage, RehearsalStatus, Restored
from checkpoint_core.states import (
    CUSTOM_OBJECT,
    OPTIMIZER,
    RANDOM_STATES,
    SCHEDULER,
    TRAIN_STATE,
    WEIGHTS_PICKLED,
    WEIGHTS_SAFE,
)

_ENTRIES = {entry.code: entry for entry in REHEARSAL}
_MAX_ERROR = 200

_UPGRADE = "Upgrade: pip install -U 'accelerate>=1.1' in the training environment"
_INSTALL = "Repair the training environment: install what cannot be imported there"
_REWRITE = 'Rewrite train_state.json as {"current_epoch": …, "current_step": …}'
_MOVE_AWAY = "Move what the trainer did not save itself out of the directory (custom_checkpoint_….pkl)"

#: What sd-scripts' hook raises for a train_state.json that is no JSON, or has no current_step.
_HOOK_ERRORS = frozenset({"JSONDecodeError", "UnicodeDecodeError", "KeyError", "TypeError"})
#: accelerate ``accelerator.py``, ``load_state``, after everything else is loaded.
_COUNTED = "Number of custom checkpoints in folder"
#: Findings that say why a file does not load; others are about what is in it.
_EXPLAINING = LOST | {
    FindingKind.FOREIGN, FindingKind.BROKEN, FindingKind.NAMES_BROKEN, FindingKind.INTERRUPTED, FindingKind.NO_STEP,
    FindingKind.NEEDS_STEP, FindingKind.REFUSED, FindingKind.MISMATCH, FindingKind.STRAY,
}  # fmt: skip
_FILES = (WEIGHTS_SAFE, WEIGHTS_PICKLED, OPTIMIZER, SCHEDULER, CUSTOM_OBJECT)


def findings_of(outcome: RehearsalOutcome, known: Iterable[Finding] = ()) -> tuple[Finding, ...]:
    """What an outcome means for the state; a cancelled rehearsal means nothing.

    :param known: what the checks have found. A failure that one of them explains is information only: it neither
        adds to its weight nor takes away its cure.
    """
    known = tuple(known)
    if outcome.status is RehearsalStatus.CANCELLED:
        return ()
    if outcome.status is RehearsalStatus.REFUSED:
        return (_finding("rehearsal-refused", outcome, reason=outcome.message),)
    if outcome.status is RehearsalStatus.LOADED:
        return (_finding("rehearsal-passed", outcome), *_random_states(outcome, known))
    if outcome.status is RehearsalStatus.FAILED:
        return (_failure(outcome, known),)
    reason = "its files changed meanwhile" if outcome.status is RehearsalStatus.CHANGED else outcome.message
    return (_finding("rehearsal-not-finished", outcome, reason=reason or "it ended without a word"),)


def _finding(code: str, outcome: RehearsalOutcome, file: str | None = None, **fields: object) -> Finding:
    versions = dict(outcome.versions)
    named = [f"{name} {versions[name]}" for name in ("accelerate", "torch") if name in versions]
    return _ENTRIES[code].finding(
        file=file,
        evidence=_evidence(outcome),
        error=_shortened(outcome.error),
        versions=", ".join(named) or "versions not known",
        seconds=f"{outcome.seconds:.1f}",
        **fields,
    )


def _evidence(outcome: RehearsalOutcome) -> str:
    """Where it was raised, or else the last line that was printed."""
    printed = outcome.error_output.strip().splitlines()
    return _shortened(next(iter([*outcome.frames[-1:], *printed[-1:]]), ""))


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_ERROR else f"{text[:_MAX_ERROR]}…"


def _random_states(outcome: RehearsalOutcome, known: tuple[Finding, ...]) -> tuple[Finding, ...]:
    said = any(found.file == RANDOM_STATES and found.severity is not Severity.INFO for found in known)
    if outcome.random_states is not Restored.NOT_RESTORED or said:
        return ()
    return (_finding("rehearsal-random-states", outcome, RANDOM_STATES),)


def _failure(outcome: RehearsalOutcome, known: tuple[Finding, ...]) -> Finding:
    file = _file(outcome)
    if outcome.stage is RehearsalStage.LOADING and any(_explains(found, file) for found in known):
        return _finding("rehearsal-confirmed", outcome, file)
    if cure := _environment_cure(outcome):
        return _finding("rehearsal-failed-environment", outcome, file or "the import", cure=cure)
    if outcome.stage is not RehearsalStage.LOADING or file is None:
        return _finding("rehearsal-failed-unclear", outcome, file or f"the stage “{outcome.stage.value}”")
    if cure := _state_cure(outcome, file):
        return _finding("rehearsal-failed-fixable", outcome, file, cure=cure)
    return _finding(
        "rehearsal-failed" if _is_unreadable(outcome) else "rehearsal-failed-unclear", outcome, file
    )


def _file(outcome: RehearsalOutcome) -> str | None:
    """The file that a failure is about: the one that the exception names, else the one that was being loaded."""
    if outcome.message.startswith(_COUNTED):
        return CUSTOM_OBJECT
    if outcome.exception == "FileNotFoundError":
        return next((name for name in _FILES if outcome.message.rstrip("'\"").endswith(name)), None)
    return outcome.part


def _explains(found: Finding, file: str | None) -> bool:
    """Whether a check has said why that file does not load; a save that was cut off is of no single file."""
    if found.severity not in (Severity.ERROR, Severity.FIXABLE) or found.kind not in _EXPLAINING:
        return False
    weights = (WEIGHTS_SAFE, WEIGHTS_PICKLED)  # the one is missed where the other was looked for
    return found.file in (file, None) or (found.file in weights and file in weights)


def _environment_cure(outcome: RehearsalOutcome) -> str | None:
    if outcome.stage in (RehearsalStage.STARTING, RehearsalStage.IMPORTING) and outcome.exception in (
        "ModuleNotFoundError",
        "ImportError",
    ):
        return _INSTALL
    # accelerate 0.32 and 0.33 (``accelerator.py``, ``load_state``) read the key of a file that they failed to load.
    last = outcome.frames[-1] if outcome.frames else ""
    if (outcome.exception, outcome.message) == ("KeyError", "'step'") and last.endswith(" in load_state"):
        return _UPGRADE
    return None


def _state_cure(outcome: RehearsalOutcome, file: str) -> str | None:
    if file == TRAIN_STATE and outcome.exception in _HOOK_ERRORS:
        return _REWRITE
    # None found is another matter: then one is missing.
    counted = outcome.message.startswith(_COUNTED) and "Found checkpoints: 0" not in outcome.message
    return _MOVE_AWAY if counted else None


def _is_unreadable(outcome: RehearsalOutcome) -> bool:
    """Whether the libraries could not make out what a file holds, which no other version could either."""
    name, message = outcome.exception, outcome.message
    if name in ("EOFError", "FileNotFoundError"):
        return True
    if name == "SafetensorError":
        return "unknown variant" not in message  # a dtype that a newer safetensors may know
    if name == "UnpicklingError":
        # Of the refusals of a weights-only load, the others may be another version's way to see a whole file.
        return "Weights only load failed" not in message or "Unsupported operand" in message
    if name == "OSError":
        # torch's zip reader looks before the beginning of a file that is shorter than its own directory says.
        return (
            "[Errno 22]" in message and outcome.frames[-1:] != () and "serialization.py" in outcome.frames[-1]
        )
    return name == "RuntimeError" and "PytorchStreamReader failed" in message
