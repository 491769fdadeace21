"""What was observed in a train script: values without an opinion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ScriptFacts:
    """The flags of a train script that decide about resuming; ``None`` where the script has none.

    Flags: sd-scripts ``train_util.py`` (``add_training_arguments``) and ``train_network.py`` (``setup_parser``).
    """

    file: str
    trainer: str
    output_name: str | None = None
    output_dir: str | None = None
    save_state: bool = False
    resume: str | None = None
    resume_line: int | None = None
    resume_from_huggingface: bool = False
    initial_epoch: int | None = None
    initial_step: int | None = None
    skip_until_initial_step: bool = False
    max_train_epochs: int | None = None
    max_train_steps: int | None = None
    num_processes: int = 1
    network_module: str | None = None
    optimizer_type: str | None = None
    lr_scheduler: str | None = None
    config_file: str | None = None
    #: Flag to the reason why its presence or value cannot be told; its field above is then no evidence.
    unknown: tuple[tuple[str, str], ...] = ()
    #: Every flag of the trainer with its values as the trainer gets them, the last occurrence winning; ``None`` for a
    #: value that only the running shell knows.
    flags: Mapping[str, tuple[str | None, ...]] = field(repr=False, default_factory=dict)
    #: Why flags may be given that are not among ``flags`` (a variable, a ``--config_file``); ``None``: there are none.
    hidden: str | None = None

    def has(self, flag: str) -> bool:
        """Whether the flag is written in the training command."""
        return flag in self.flags

    def lacks(self, flag: str) -> bool:
        """Whether it is certain that the trainer is not given the flag."""
        return flag not in self.flags and self.hidden is None

    def value(self, flag: str) -> str | None:
        """The flag's first value; ``None`` when it is absent, has none, or only the shell knows it."""
        return next(iter(self.flags.get(flag, ())), None)

    def values(self, flag: str) -> tuple[str, ...] | None:
        """All values of a flag; empty when it is absent, ``None`` when one of them is not known."""
        given = self.flags.get(flag, ())
        known = tuple(value for value in given if value is not None)
        return known if len(known) == len(given) else None

    def number(self, flag: str) -> float | None:
        """The flag's value as a finite number; ``None`` where it is none."""
        try:
            number = float(self.value(flag) or "")
        except ValueError:
            return None
        return number if math.isfinite(number) else None

    def why_unknown(self, *flags: str) -> str | None:
        """The reason why the first of these flags that cannot be told cannot, or ``None`` when all are known."""
        reasons = dict(self.unknown)
        return next((reasons[flag] for flag in flags if flag in reasons), None)


@dataclass(frozen=True)
class ResumeTarget:
    """Where the script's present ``--resume`` points, resolved on this machine. ``kind`` is one of ``none``,
    ``unknown``, ``empty``, ``state``, ``lora-file``, ``run-folder``, ``missing``, ``other-world``, ``hub``."""

    kind: str
    value: str = ""
    state_name: str | None = None
