"""What is known of the training environment: its interpreter, and the sd-scripts folder that trains.

Values without an opinion, like :mod:`checkpoint_core.states.facts`; sizes are bytes, epochs count from 1, steps are
optimizer updates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

#: What sd-scripts imports before it trains (``library/train_util.py``), beside torch and accelerate.
TRAINING_PACKAGES = ("transformers", "diffusers")


@dataclass(frozen=True)
class TrainerFacts:
    """The sd-scripts folder that will train, read as text: its commit, and what its sources can do.

    ``features`` names what was found in them: see ``sd_scripts.py``, ``TRAINER_FEATURES``.
    """

    folder: Path
    commit: str | None
    features: frozenset[str]


@dataclass(frozen=True)
class EnvironmentFacts:
    """The Python that will run the training, as it described itself.

    ``source`` says in words why it is this one. ``packages`` maps a package to its version, ``None`` where it is not
    installed. ``torch_cuda`` is the CUDA version that torch was built for, ``None`` for a build without.
    ``gpus`` names the CUDA devices that a training would see; ``None`` where it could not be told.
    """

    executable: str
    source: str
    python: str
    platform: str
    packages: tuple[tuple[str, str | None], ...]
    torch_cuda: str | None = None
    gpus: tuple[str, ...] | None = None
    trainer: TrainerFacts | None = None
    #: Where it looks for packages; their times tell when something was installed.
    folders: tuple[str, ...] = field(repr=False, default=())

    def version(self, package: str) -> str | None:
        """The version of a package, ``None`` where it is not installed or was not asked for."""
        return dict(self.packages).get(package)


@dataclass(frozen=True)
class EnvironmentProblem:
    """Why nothing is known of the training environment: none was found, or it did not answer.

    ``executable`` is empty where none was found.
    """

    executable: str
    source: str
    reason: str


Environment: TypeAlias = "EnvironmentFacts | EnvironmentProblem | None"
