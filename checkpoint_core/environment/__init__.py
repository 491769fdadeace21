"""The training interpreter: found, probed, rehearsed."""

from __future__ import annotations

from checkpoint_core.environment.facts import (
    TRAINING_PACKAGES,
    Environment,
    EnvironmentFacts,
    EnvironmentProblem,
    TrainerFacts,
)
from checkpoint_core.environment.interpreters import choices, environment_source, remember, remembered
from checkpoint_core.environment.pickle_support import (
    RandomStates,
    is_older,
    is_unusual,
    loads_weights_only,
    random_states,
    refused_names,
    saved_by_numpy_2,
    with_version,
)
from checkpoint_core.environment.rehearsal.outcome import (
    RehearsalOutcome,
    RehearsalStage,
    RehearsalStatus,
    Restored,
)
from checkpoint_core.environment.rehearsal.run import rehearse_state
from checkpoint_core.environment.sd_scripts import git_commit

__all__ = [
    "TRAINING_PACKAGES",
    "Environment",
    "EnvironmentFacts",
    "EnvironmentProblem",
    "RandomStates",
    "RehearsalOutcome",
    "RehearsalStage",
    "RehearsalStatus",
    "Restored",
    "TrainerFacts",
    "choices",
    "environment_source",
    "git_commit",
    "is_older",
    "is_unusual",
    "loads_weights_only",
    "random_states",
    "refused_names",
    "rehearse_state",
    "remember",
    "remembered",
    "saved_by_numpy_2",
    "with_version",
]
