"""One fix of a train script: what it is made from, and what it is; values."""

from __future__ import annotations

from dataclasses import dataclass

from checkpoint_core.audit import CheckpointReport
from checkpoint_core.scripts import Edit, ScriptFacts
from checkpoint_core.trainer import Position


@dataclass(frozen=True)
class FixChoices:
    """What a fix leaves to the user.

    :param more_epochs: how many further epochs a finished run trains.
    :param skip_trained_steps: pass over the steps of an unfinished epoch that were trained already.
    """

    more_epochs: int = 8
    skip_trained_steps: bool = False


@dataclass(frozen=True)
class ScriptFix:
    """The edits that fix one finding: ``does`` says what is changed, ``costs`` what is lost, ``note`` what to know."""

    code: str
    edits: tuple[Edit, ...]
    does: str
    costs: str = ""
    note: str = ""


@dataclass(frozen=True)
class FixCase:
    """What a fix is worked out from: the checkpoint as it is judged, its script, and the user's choices."""

    report: CheckpointReport
    script: ScriptFacts
    choices: FixChoices

    @property
    def position(self) -> Position:
        """Where the checkpoint stands."""
        return self.report.position
