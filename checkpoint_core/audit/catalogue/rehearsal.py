"""Findings of a rehearsal: what the real ``Accelerator.load_state`` did with the state."""

from __future__ import annotations

from checkpoint_core.audit.catalogue.entry import Entry
from checkpoint_core.audit.findings import FindingKind, Severity, Subject

_INFO, _WARNING, _FIXABLE = Severity.INFO, Severity.WARNING, Severity.FIXABLE
_ERROR, _UNKNOWN = Severity.ERROR, Severity.UNKNOWN
_STATE, _ENVIRONMENT = Subject.STATE, Subject.ENVIRONMENT

_STOPS = "The trainer stops there too, before the first step."

REHEARSAL: tuple[Entry, ...] = (
    Entry("rehearsal-passed", _INFO, _STATE,
          "The real Accelerator.load_state loaded it in {seconds} s ({versions}).",
          "The trainer will load it the same way. Whether the train script fits it is not part of a rehearsal.",
          "No action is needed.", kind=FindingKind.REHEARSAL),
    Entry("rehearsal-confirmed", _INFO, _STATE,
          "The real Accelerator.load_state stops where the checks say ({error}; {versions}).", _STOPS,
          "Do what is said about {file}.", kind=FindingKind.REHEARSAL),
    Entry("rehearsal-failed", _ERROR, _STATE,
          "The real Accelerator.load_state could not read {file} ({error}; {versions}).", _STOPS,
          "Resume from an older checkpoint of this run that is ready.", kind=FindingKind.REHEARSAL),
    Entry("rehearsal-failed-fixable", _FIXABLE, _STATE,
          "The real Accelerator.load_state stopped at {file} ({error}; {versions}).", _STOPS, "{cure}.",
          kind=FindingKind.REHEARSAL),
    Entry("rehearsal-failed-environment", _FIXABLE, _ENVIRONMENT,
          "This environment stopped at {file} ({error}; {versions}).", _STOPS, "{cure}.", kind=FindingKind.REHEARSAL),
    Entry("rehearsal-failed-unclear", _UNKNOWN, _STATE,
          "The real Accelerator.load_state failed at {file}; the cause is unclear ({error}; {versions}).",
          "The trainer may stop there too.",
          "Try another checkpoint or another interpreter. The diagnosis has the details.",
          kind=FindingKind.REHEARSAL),
    Entry("rehearsal-random-states", _WARNING, _ENVIRONMENT,
          "The real Accelerator.load_state did not restore the random states ({versions}).",
          "Training continues from the right weights, but the image order and noise differ.",
          "No action is needed. accelerate 1.1 or newer restores them where {file} is whole.",
          kind=FindingKind.REHEARSAL),
    Entry("rehearsal-refused", _INFO, _STATE, "Not rehearsed: {reason}.",
          "Nothing was loaded; the verdict is unchanged.", "No action is needed.",
          kind=FindingKind.REHEARSAL),
    Entry("rehearsal-not-finished", _UNKNOWN, _STATE, "The rehearsal gave no answer: {reason}.",
          "Whether the trainer loads it is not known.",
          "Try again. If it happens again, the diagnosis has what was printed.", kind=FindingKind.REHEARSAL),
)  # fmt: skip
