"""Whether a crashed training is started again, and when; pure.

The first restart after progress is at once; from then on the waiting time doubles from crash to crash, as process
managers do it (supervisord, "BACKOFF"). A restart that cannot help is not tried: it would only hide the reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from checkpoint_core.training.crash.diagnosis import Crash, CrashKind


@dataclass(frozen=True)
class Policy:
    """The limits; times in seconds unless named otherwise.

    ``fruitless`` is the number of starts in a row after which no new good checkpoint was saved.
    ``hang_minutes`` without output, progress and a busy GPU are a hang: loading Flux from a slow disk and caching
    latents and text encoder outputs takes minutes, with a busy disk or GPU. ``nan_steps`` steps in a row with a loss
    that is no number are a crash. ``avr_loss`` is a running average that keeps a single NaN (sd-scripts
    ``train_util.py``, ``LossRecorder``): in bf16 the weights have it too by then, in fp16 the scaler passed it over.
    """

    restarts: int = 50
    fruitless: int = 3
    first_wait: float = 10.0
    longest_wait: float = 600.0
    hang_minutes: float = 30.0
    nan_steps: int = 50


#: Addresses, process numbers and sizes differ from start to start.
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+")


@dataclass(frozen=True)
class History:
    """What came before: starts after a crash in all, and those in a row that brought no new good checkpoint.

    ``has_trained`` tells whether the last start took a step; ``error`` is what one that took none ended with, without
    its numbers; ``is_repeated`` tells that the start before ended with the same, and had taken none either.
    """

    restarts: int = 0
    fruitless: int = 0
    has_trained: bool = False
    error: str = ""
    is_repeated: bool = False

    def after(self, progressed: bool, trained: bool = True, evidence: str = "") -> History:
        """The history after one more crash.

        :param progressed: a good checkpoint was saved since the last start.
        :param trained: a step was trained since then.
        :param evidence: the line that told why it ended.
        """
        trained = trained or progressed
        error = "" if trained else _NUMBER.sub("#", evidence)
        fruitless = 0 if progressed else self.fruitless + 1
        return History(self.restarts, fruitless, trained, error, bool(error) and error == self.error)

    def restarted(self) -> History:
        """The history after one more start."""
        return replace(self, restarts=self.restarts + 1)


@dataclass(frozen=True)
class Restart:
    """Start again after so many seconds."""

    seconds: float


@dataclass(frozen=True)
class GiveUp:
    """Leave it, and why, in the user's words."""

    why: str


#: Crashes that the same checkpoint, script and environment repeat: one further try, from another checkpoint or with
#: what another program left free meanwhile, is all that can help.
_LIKELY_AGAIN = {
    CrashKind.OUT_OF_MEMORY: 2,
    CrashKind.STATE_REFUSED: 2,
    CrashKind.KEY_ERROR_STEP: 2,
    CrashKind.NAN_LOSS: 2,
}


#: What comes from outside may be gone the next time, though it says the same.
_FROM_OUTSIDE = frozenset({CrashKind.KILLED, CrashKind.HUB_UNREACHABLE})


def decide(crash: Crash, history: History, policy: Policy) -> Restart | GiveUp:
    """What to do after a crash.

    :param history: with this crash counted.
    """
    if not crash.kind.can_help_to_restart:
        return GiveUp(f"A restart would not help. {crash.cure}")
    if history.restarts >= policy.restarts:
        return GiveUp(f"It has been restarted {history.restarts} times, which is the limit. {crash.cure}")
    if history.is_repeated and crash.kind not in _FROM_OUTSIDE:
        return GiveUp(f"It ended twice with the same error before it had trained a step. {crash.cure}")
    limit = min(policy.fruitless, _LIKELY_AGAIN.get(crash.kind, policy.fruitless))
    if history.fruitless >= limit:
        times = "once" if history.fruitless == 1 else f"{history.fruitless} times in a row"
        return GiveUp(f"It crashed {times} without a new good checkpoint in between. {crash.cure}")
    vain = history.fruitless - history.has_trained
    return Restart(min(policy.longest_wait, policy.first_wait * 2.0 ** max(0, vain - 1)) if vain > 0 else 0.0)
