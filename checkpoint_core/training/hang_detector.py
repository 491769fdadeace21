"""For how long a training has neither printed, saved nor computed; pure."""

from __future__ import annotations

from collections.abc import Callable

#: A machine that slept, or whose clock was set, has not watched meanwhile: no more than that counts of a gap.
_LONGEST_GAP_SECONDS = 60.0
_LOOK_SECONDS = 30.0


class HangDetector:
    """Adds up the time between looks while nothing is heard and the last look at the machine found it idle.

    :param limit_seconds: what counts as a hang; the machine is looked at at least four times within it.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._every = min(_LOOK_SECONDS, limit_seconds / 4)
        self._seconds, self._is_idle = 0.0, False
        self._now: float | None = None
        self._looked_at: float | None = None

    def reset(self) -> None:
        """Something was heard of it."""
        self._seconds, self._is_idle = 0.0, False

    def grows(self, now: float, is_idle: Callable[[], bool]) -> float:
        """The seconds of silence up to now.

        :param is_idle: looks whether nothing was computed since it was asked last; asked only now and then.
        """
        gap = max(0.0, now - self._now) if self._now is not None else 0.0
        self._now = now
        if self._looked_at is None or not 0 <= now - self._looked_at < self._every:
            self._looked_at = now
            if is_idle():
                self._is_idle = True
            else:
                self.reset()
        if self._is_idle:
            self._seconds += min(gap, _LONGEST_GAP_SECONDS)
        return self._seconds
