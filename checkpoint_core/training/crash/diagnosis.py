"""Why a training ended: its last lines and its exit status read, and said for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from checkpoint_core.text import counted
from checkpoint_core.training.crash.messages import CURES, EFFECTS, MAIN_MEMORY_WORDS, SENTENCES
from checkpoint_core.training.crash.signs import (
    DISK_FULL,
    ERROR_SIGNS,
    LINE_SIGNS,
    MAIN_MEMORY,
    SHARED_MEMORY,
    CrashKind,
    LogError,
    errors_of,
)
from checkpoint_core.training.log.lines import joined
from checkpoint_core.training.log.progress import Progress

__all__ = ["Crash", "CrashKind", "hang_crash", "nan_crash", "read_crash"]

_LONGEST_EVIDENCE = 300
_LINES_AT_THE_END = 60

#: 128 + signal from a shell, -signal from Python; the last is Windows' end by Ctrl+C or a closed window.
_ASKED = frozenset({129, 130, 143, -1, -2, -15, 0xC000013A, 0xC000013A - 2**32})
_KILLED = frozenset({137, -9})
#: argparse and bash end with 2; 126 and 127 are bash's, 9009 is cmd's: the command cannot be run or found.
_SCRIPT = frozenset({2, 126, 127, 9009})
#: Ends by the processor or the C library: from Python, from a shell, and Windows' access violation and stack overrun.
_NATIVE = {
    -11: "a segmentation fault", 139: "a segmentation fault", -6: "an abort", 134: "an abort", -7: "a bus error",
    135: "a bus error", -4: "an illegal instruction", 132: "an illegal instruction", -8: "a wrong division",
    136: "a wrong division", 0xC0000005: "an access violation", 0xC0000409: "a stack overrun",
    0xC000001D: "an illegal instruction", 0xC00000FD: "a stack overflow",
}  # fmt: skip
_NATIVE_NAMES = {"SEGV": -11, "ABRT": -6, "BUS": -7, "ILL": -4, "FPE": -8}
#: A line above the launcher's own error that may tell the reason.
_TELLING = re.compile(
    r"error|fatal|fail|exception|cannot|can't|unable|invalid|fault|abort|denied|refused|missing|not found",
    re.IGNORECASE,
)
_OF_THE_TRAINER = re.compile(
    r"Traceback \(most recent|steps:|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) |epoch \d|.*\berror: "
)
_SIGNAL = re.compile(r"died with <Signals\.SIG(\w+)|Signal \d+ \(SIG(\w+)\)")
_EXIT = re.compile(r"returned non-zero exit status (-?\d{1,10})|exitcode\s*:\s*(-?\d{1,10})")

_Diagnosed = tuple[CrashKind, str]


@dataclass(frozen=True)
class Crash:
    """Why a training ended: what happened, what it means for the training, what to do, and the line that told it."""

    kind: CrashKind
    sentence: str
    effect: str
    cure: str
    evidence: str


def read_crash(tail: Sequence[str], exit_status: int | None, progress: Progress) -> Crash:
    """Why a training ended, from its last lines (`LogReader.tail`), its exit status and how far it was."""
    lines = joined(tail)
    errors = errors_of(lines)
    kind, line = (
        _after_the_end(progress)
        or _disk_full(errors)
        or _signal(lines, exit_status)
        or _by_error(errors)
        or _by_line(lines)
        or _by_status(lines, exit_status)
        or (CrashKind.UNKNOWN, _last_words(lines, errors))
    )
    if "CalledProcessError" in line:
        line = _last_words(lines, errors)
    is_read = any(_OF_THE_TRAINER.match(each.strip()) for each in lines)
    return _crash(kind, line, progress, _native(lines, exit_status) or _status_words(exit_status), is_read)


def hang_crash(minutes: float) -> Crash:
    """A training that stood still for so long that it was taken for dead."""
    sentence = SENTENCES[CrashKind.HANG].format(minutes=counted(round(minutes), "minute"))
    return Crash(CrashKind.HANG, sentence, EFFECTS[CrashKind.HANG], CURES[CrashKind.HANG], "")


def nan_crash(steps: int) -> Crash:
    """A training whose loss has been no number for so many steps."""
    sentence = SENTENCES[CrashKind.NAN_LOSS].format(steps=counted(steps, "step"))
    return Crash(CrashKind.NAN_LOSS, sentence, EFFECTS[CrashKind.NAN_LOSS], CURES[CrashKind.NAN_LOSS], "")


def _after_the_end(progress: Progress) -> _Diagnosed | None:
    """A training that is complete has lost nothing, however its program ends."""
    return (CrashKind.FINISHED, "") if progress.finished else None


def _disk_full(errors: list[LogError]) -> _Diagnosed | None:
    """A full disk lets much else fail after it, so it is looked for among all errors."""
    for error in reversed(errors):
        if DISK_FULL.search(error.message) and not SHARED_MEMORY.search(error.message):
            return CrashKind.DISK_FULL, error.line
    return None


def _signal(lines: Sequence[str], exit_status: int | None) -> _Diagnosed | None:
    """A process that the system or a person ended; the launcher names the signal that ended the trainer."""
    line, found = _last(lines, _SIGNAL)
    name = (found[1] or found[2]) if found else ""
    exit_line, inner = _inner_status(lines)
    if exit_status in _ASKED or inner in _ASKED or name in ("INT", "TERM", "HUP"):
        return CrashKind.ASKED_TO_END, line or exit_line
    if exit_status in _KILLED or inner in _KILLED or name == "KILL":
        return CrashKind.KILLED, line or exit_line
    return None


def _by_error(errors: list[LogError]) -> _Diagnosed | None:
    """The last error that is not the launcher's, or one that it came from."""
    own = [error for error in errors if not error.is_the_launchers]
    for error in reversed(own):
        for sign in ERROR_SIGNS:
            if sign.tells(error):
                return sign.kind, error.words
        if not error.is_linked:
            break
    return (CrashKind.UNKNOWN, own[-1].words) if own else None


def _by_line(lines: Sequence[str]) -> _Diagnosed | None:
    for line in reversed(lines[-_LINES_AT_THE_END:]):
        for sign in LINE_SIGNS:
            if sign.words.search(line):
                return sign.kind, line
    return None


def _by_status(lines: Sequence[str], exit_status: int | None) -> _Diagnosed | None:
    line, inner = _inner_status(lines)
    if exit_status in _SCRIPT or inner in _SCRIPT:
        return CrashKind.SCRIPT_ERROR, line
    return (CrashKind.NATIVE_CRASH, line) if _native(lines, exit_status) else None


def _native(lines: Sequence[str], exit_status: int | None) -> str:
    """What ended the trainer outside of Python, in words; empty where nothing of the kind did."""
    _, found = _last(lines, _SIGNAL)
    named = _NATIVE_NAMES.get((found[1] or found[2]) if found else "")
    _, inner = _inner_status(lines)
    for status in (named, inner, exit_status):
        if status is not None and (words := _NATIVE.get(status) or _NATIVE.get(status % 2**32)):
            return words
    return ""


def _status_words(exit_status: int | None) -> str:
    if exit_status == 0:
        return "exit status 0, though the last epoch was not reached"
    return "" if exit_status is None else f"exit status {exit_status}"


def _inner_status(lines: Sequence[str]) -> tuple[str, int | None]:
    """With which status the trainer ended, as its launcher says it."""
    line, found = _last(lines, _EXIT)
    return line, int(found[1] or found[2]) if found else None


def _last(lines: Sequence[str], pattern: re.Pattern[str]) -> tuple[str, re.Match[str] | None]:
    """The last of the final lines that fits."""
    for line in reversed(lines[-_LINES_AT_THE_END:]):
        if found := pattern.search(line):
            return line, found
    return "", None


def _last_words(lines: Sequence[str], errors: list[LogError]) -> str:
    """What comes nearest to a reason: a record of an error, or the last line that tells of one above the launcher's."""
    told = [line for line in lines if line.startswith(("ERROR ", "CRITICAL "))]
    if told:
        return told[-1]
    end = min((error.begin for error in errors if error.is_the_launchers), default=len(lines))
    above = (line for line in reversed(lines[max(0, end - _LINES_AT_THE_END) : end]) if _TELLING.search(line))
    return next((line for line in above if not line.startswith(("steps:", "INFO ", "WARNING "))), "")


def _crash(kind: CrashKind, line: str, progress: Progress, status: str, is_read: bool) -> Crash:
    words = kind is CrashKind.OUT_OF_MEMORY and MAIN_MEMORY.search(line)
    sentence, cure = MAIN_MEMORY_WORDS if words else (SENTENCES[kind], CURES[kind])
    if kind in (CrashKind.UNKNOWN, CrashKind.NATIVE_CRASH):
        sentence = sentence.format(status=f" ({status})" if status else "")
    effect = f"{EFFECTS[kind]} {_loss_of_work(progress, is_read)}".strip()
    return Crash(kind, sentence, effect, cure, _short(line.strip()))


def _loss_of_work(progress: Progress, is_read: bool) -> str:
    """What is gone: everything since the last save.

    :param is_read: the trainer's own output is in the log, so that what it does not say has not happened.
    """
    half = "It ended while it was saving: that checkpoint may be incomplete." if progress.saving else ""
    if progress.finished:
        lost = "The training was complete and its LoRA file is saved: nothing is lost."
    elif not progress.has_trained and is_read:
        lost = "It had not trained a step since it was started: nothing is lost."
    elif not progress.has_trained:
        lost = "Its output goes elsewhere: what it trained since its last save is lost."
    elif progress.last_saved:
        lost = f"What was trained since the last save ({progress.last_saved}) is lost."
    else:
        lost = "Nothing was saved since it was started: what it trained since then is lost."
    return f"{half} {lost}".strip()


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_EVIDENCE else f"{text[: _LONGEST_EVIDENCE - 1]}…"
