"""What a rehearsal is and how one ended: values, and the trainer side's own account read into them; pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoint_core.states import Layout

MAX_TEXT = 2_000
MAX_LINES = 100
#: accelerate ``checkpointing.py``, ``load_accelerator_state``: what it says of a load that it gave up.
_GAVE_UP = "Could not load random states"
_GENERATORS = frozenset({"python", "numpy", "torch"})


class RehearsalStage(enum.Enum):
    """How far a rehearsal has come, in this order."""

    STARTING = "starting"
    #: torch and accelerate: most of the time goes here.
    IMPORTING = "importing"
    #: A network, an optimizer and a schedule of the saved sizes.
    BUILDING = "building"
    #: The real ``Accelerator.load_state``.
    LOADING = "loading"
    #: Whether what arrived is what the files hold.
    CHECKING = "checking"


class RehearsalStatus(enum.Enum):
    """How a rehearsal ended; only the first two say something about the state."""

    LOADED = "loaded"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed-out"
    OUT_OF_MEMORY = "out-of-memory"
    #: A file of the state changed between the judgement and the end of the load.
    CHANGED = "changed"
    #: The program ended without telling how the load went.
    CRASHED = "crashed"


class Restored(enum.Enum):
    """What became of the random states."""

    RESTORED = "restored"
    #: All but CUDA's: on a CPU that is normal.
    PARTLY = "partly"
    NOT_RESTORED = "not-restored"


@dataclass(frozen=True)
class Rehearsal:
    """A rehearsal that may be run: everything that could harm was looked at before.

    :param executable: the training interpreter.
    :param stamp: what the files were when they were judged; the load only begins, and only counts, with the same.
    :param size_bytes: of all files of the state.
    """

    executable: str
    state: Path
    layout: Layout
    stamp: str
    size_bytes: int


@dataclass(frozen=True)
class Refusal:
    """Why a state is not rehearsed, in words: the end of a sentence that begins “Not rehearsed:”."""

    reason: str


@dataclass(frozen=True)
class RehearsalOutcome:
    """How a rehearsal ended.

    ``stage`` is the last one reached, ``part`` the file that was being loaded when it failed. ``exception`` is the name
    of the exception's class, ``frames`` where it was raised in the libraries (``accelerator.py:3156 in load_state``),
    innermost last. ``log_lines`` are accelerate's own, ``error_output`` the tail of what else was printed.
    ``peak_bytes`` is memory over what the import took. ``start`` is what sd-scripts' hook read from
    ``train_state.json``.
    """

    status: RehearsalStatus
    stage: RehearsalStage = RehearsalStage.STARTING
    message: str = ""
    exception: str | None = None
    frames: tuple[str, ...] = ()
    part: str | None = None
    log_lines: tuple[str, ...] = field(repr=False, default=())
    error_output: str = field(repr=False, default="")
    seconds: float = 0.0
    import_seconds: float | None = None
    peak_bytes: int | None = None
    versions: tuple[tuple[str, str], ...] = ()
    random_states: Restored | None = None
    start: tuple[tuple[str, int], ...] = ()

    @property
    def error(self) -> str:
        """The exception as a traceback's last line has it, without further lines: ``KeyError: 'step'``."""
        first = self.message.strip().partition("\n")[0]
        return f"{self.exception}: {first}" if self.exception and first else self.exception or first

    @classmethod
    def refused(cls, refusal: Refusal) -> RehearsalOutcome:
        """The outcome of a rehearsal that was not run."""
        return cls(RehearsalStatus.REFUSED, message=refusal.reason)


def read_account(account: Mapping[str, Any], stage: RehearsalStage) -> RehearsalOutcome:
    """The last line of ``trainer_side/rehearse.py`` as an outcome; times and memory of the parent are still to come.

    What another interpreter says is not trusted to be well formed: anything strange in it is left out, and an account
    without a known status is a crash.
    """
    told = {
        "loaded": RehearsalStatus.LOADED,
        "failed": RehearsalStatus.FAILED,
        "changed": RehearsalStatus.CHANGED,
    }
    status = told.get(_shortened(account.get("status")), RehearsalStatus.CRASHED)
    lines = _shortened_all(account.get("log_lines"))
    gave_up = account.get("gave_up") is True or any(_GAVE_UP in line for line in lines)
    seconds, peak = account.get("import_seconds"), account.get("peak_bytes")
    return RehearsalOutcome(
        status=status,
        stage=stage,
        message=_shortened(account.get("message")),
        exception=_shortened(account.get("exception")) or None,
        frames=_shortened_all(account.get("frames")),
        part=_shortened(account.get("part")) or None,
        log_lines=lines,
        import_seconds=float(seconds) if isinstance(seconds, (int, float)) else None,
        peak_bytes=peak if isinstance(peak, int) and peak > 0 else None,
        versions=tuple((name, _shortened(version)) for name, version in _items(account.get("versions"))),
        random_states=_restored(account.get("restored"), gave_up)
        if status is RehearsalStatus.LOADED
        else None,
        start=tuple((name, value) for name, value in _items(account.get("start")) if isinstance(value, int)),
    )


def _restored(generators: object, gave_up: bool) -> Restored:
    if not set(_shortened_all(generators)) >= _GENERATORS:
        return Restored.NOT_RESTORED
    # It sets CUDA's after the three, and gives up there when the file, or this machine, has none.
    return Restored.PARTLY if gave_up else Restored.RESTORED


def _shortened(value: object) -> str:
    return value[:MAX_TEXT] if isinstance(value, str) else ""


def _shortened_all(value: object) -> tuple[str, ...]:
    return tuple(_shortened(item) for item in value[:MAX_LINES]) if isinstance(value, list) else ()


def _items(value: object) -> list[tuple[str, Any]]:
    return [(str(key), item) for key, item in list(value.items())[:20]] if isinstance(value, dict) else []
