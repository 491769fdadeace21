"""Findings about the training interpreter: the checkpoint is fine, and this environment does something else with it."""

from __future__ import annotations

from checkpoint_core.audit.catalogue.entry import Entry
from checkpoint_core.audit.findings import FindingKind, Severity, Subject

_INFO, _WARNING, _FIXABLE, _UNKNOWN = Severity.INFO, Severity.WARNING, Severity.FIXABLE, Severity.UNKNOWN
_ENVIRONMENT = Subject.ENVIRONMENT

_NAME_IT = (
    "Choose the training interpreter: “Training interpreter” under Options in the tab, --python PATH on the command "
    "line, or the variable FLUXGYM_PYTHON."
)
_OTHER_ORDER = (
    "It says “Could not load random states” and trains on from the right weights, but the image order and noise "
    "differ."
)

ENVIRONMENT: tuple[Entry, ...] = (
    Entry("environment-unknown", _UNKNOWN, _ENVIRONMENT,
          "The training interpreter is not known: {reason}.",
          "The checkpoints were judged by their files and the train script alone. accelerate 0.32 and 0.33 would stop "
          "with KeyError: 'step'.", _NAME_IT),
    Entry("environment-no-answer", _UNKNOWN, _ENVIRONMENT,
          "The training interpreter ({python}) could not be queried: {reason}.",
          "Whether it can load this checkpoint is not known.",
          "Repair that environment, or choose another. " + _NAME_IT),
    Entry("environment-lacks-package", _FIXABLE, _ENVIRONMENT,
          "{package} is not installed in the training interpreter ({python}).",
          "The training stops at once: it cannot be imported. The checkpoint is not to blame.",
          "Install it: run {command} in a terminal."),
    Entry("environment-needs-step", _FIXABLE, _ENVIRONMENT,
          "This environment (accelerate {accelerate}, torch {torch}) stops at {file}: {reason}.",
          "The trainer stops in load_state with KeyError: 'step', whatever else the checkpoint holds.",
          "Upgrade accelerate: run {command} in a terminal. Or {rewrite}.", kind=FindingKind.NEEDS_STEP),
    Entry("environment-loses-random-states", _WARNING, _ENVIRONMENT,
          "This environment (accelerate {accelerate}, torch {torch}) does not restore the random states: {reason}.",
          _OTHER_ORDER,
          "No action is needed. To restore them too, {cure}."),
    Entry("environment-refuses-file", _FIXABLE, _ENVIRONMENT,
          "This environment (accelerate {accelerate}, torch {torch}) refuses {evidence} in {file}.",
          "The trainer stops before the first step: “Weights only load failed”, or “No module named 'numpy._core'”. "
          "The file itself is whole.",
          "Install the versions that take it: run {command} in a terminal.", kind=FindingKind.REFUSED),
    Entry("environment-loads-unchecked", _UNKNOWN, _ENVIRONMENT,
          "{file} names objects that are not known here: {detail}.",
          "accelerate would load them unchecked, and run what they hold; whether the training resumes is not known.",
          "Resume only if you trust whoever made this file. Otherwise resume from an older checkpoint."),
    Entry("environment-processes", _WARNING, _ENVIRONMENT,
          "The training will run {processes} processes, but random states were saved for {saved}.",
          "The processes without saved random states draw other numbers.",
          "No action is needed. As many processes as before restore all of them."),
    Entry("environment-processes-stop", _FIXABLE, _ENVIRONMENT,
          "The training will run {processes} processes, but random states were saved for {saved}.",
          "accelerate {accelerate} stops with KeyError: 'step' in every process that finds none.",
          "Set --num_processes {saved} in the train script, or upgrade accelerate: run {command} in a terminal."),
    Entry("environment-gpu-count", _INFO, _ENVIRONMENT,
          "The checkpoint holds random states of {saved}; the training will see {visible}.",
          "None that matters: numbers drawn on the GPU differ.", "No action is needed."),
    Entry("environment-unusual", _INFO, _ENVIRONMENT, "The training's versions are unusual: {reason}.",
          "Whether it loads the checkpoint as other versions do was not tried.",
          "Press “Rehearse resume” to try it; this is also done before the train script is changed."),
)  # fmt: skip
