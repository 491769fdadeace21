"""Whether the saves to come fit on the disk, and which old checkpoints could go to make room for them; pure.

Nothing here removes anything: a proposal names what may go and says of everything else why it stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PureWindowsPath

from checkpoint_core.audit import CheckpointReport, RunReport, Subject, Verdict, note, title, title_inside
from checkpoint_core.recovery.options import RecoveryPlan
from checkpoint_core.states import LoraFacts
from checkpoint_core.text import human_bytes
from checkpoint_core.trainer import DiskRoom, bytes_to_free, disk_room, state_sizes, weights_size

#: The checkpoints whose size the next one is taken to have.
_RECENT = 3
#: The checkpoints that resume and stay in any case: should the last good one fail, there is one to fall back to.
KEPT_GOOD = 2


@dataclass(frozen=True)
class DiskForecast:
    """The disk against the saves to come, with the sentence that says so; ``None`` where something cannot be told."""

    free_bytes: int | None
    needed_bytes: int | None
    next_save_bytes: int | None
    is_enough: bool | None
    sentence: str


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that may go: ``word`` is the reason in the word or two that a short list shows, ``why`` the rest."""

    name: str
    title: str
    size_bytes: int
    word: str
    why: str

    @property
    def reason(self) -> str:
        """The whole reason."""
        return f"{self.word}: {self.why}"


@dataclass(frozen=True)
class Kept:
    """A checkpoint that stays, and why."""

    name: str
    title: str
    why: str


@dataclass(frozen=True)
class RetentionPlan:
    """What may go, damaged ones first and then the oldest, what stays, and what would be gained by all of them."""

    candidates: tuple[Candidate, ...]
    kept: tuple[Kept, ...]
    gain_bytes: int

    def candidate(self, name: str) -> Candidate | None:
        """The candidate of that name, if it is one."""
        return next((each for each in self.candidates if each.name == name), None)

    def why_kept(self, name: str) -> str:
        """Why a checkpoint stays; empty where it is not known or may go."""
        return next((each.why for each in self.kept if each.name == name), "")


def disk_forecast(run: RunReport, free_bytes: int | None = None, start: str | None = None) -> DiskForecast:
    """Whether the disk has room for what the training will still save.

    :param free_bytes: the room on the disk now, where it is known better than by the report.
    :param start: the checkpoint from which the saves to come are counted: that which a running training has saved
        last. By default the one from which the script resumes, else the newest that resumes.
    """
    free = run.facts.free_bytes if free_bytes is None else free_bytes
    least, save = _next_save(run)
    if _saves_elsewhere(run):
        why = "The train script saves into another folder, whose disk was not looked at."
        return DiskForecast(free, None, save, None, why)
    needed = _needed(run, start)
    if free is None:
        need = f" The saves to come need {human_bytes(needed)}." if needed is not None else ""
        return DiskForecast(free, needed, save, None, f"The free disk space is unknown.{need}")
    if needed is not None:
        amount = human_bytes(needed) if needed else "no further room"
        is_enough, sentence = _compared(f"The saves to come need {amount}", needed, free)
        return DiskForecast(free, needed, save, is_enough, sentence)
    return DiskForecast(free, None, save, *_by_next_save(run, free, least, save))


def _compared(need: str, needed: int, free: int) -> tuple[bool, str]:
    room, told = disk_room(needed, free), f"{need} and the disk has {human_bytes(free)} left"
    if room is DiskRoom.ENOUGH:
        return True, f"{told}."
    lacking = human_bytes(bytes_to_free(needed, free))
    cure = f"Remove old checkpoints, or free at least {lacking} in another way."
    if room is DiskRoom.TOO_LITTLE:
        return False, (
            f"{told}: the training would stop while saving, and that checkpoint would be damaged. {cure}"
        )
    return False, (
        f"{told}: too little stays for sample images and logs, and a save may stop half-way. {cure}"
    )


def _by_next_save(run: RunReport, free: int, least: int | None, save: int | None) -> tuple[bool | None, str]:
    """The answer where only the size of one save is known, or nothing: too little for one is too little for all."""
    why = _why_undetermined(run)
    if least is None or save is None:
        return None, f"{why} The disk has {human_bytes(free)} left."
    is_enough, sentence = _compared(f"The next save needs about {human_bytes(least)}", least, free)
    if not is_enough:
        return False, sentence
    size = human_bytes(save) if least == save else f"{human_bytes(least)} to {human_bytes(save)}"
    return None, f"{why} The next one needs about {size}, and the disk has {human_bytes(free)} left."


def _why_undetermined(run: RunReport) -> str:
    if run.facts.script is None:
        return "There is no train script that tells which saves are to come."
    if not run.checkpoints:
        return "The space that coming saves need is unknown until the first checkpoint."
    if not any(item.verdict.resumes for item in run.checkpoints):
        return "No checkpoint resumes as it is, so which saves are to come could not be told."
    return "Which saves are to come could not be told from the train script."


def _needed(run: RunReport, start: str | None) -> int | None:
    """The most room that the training takes, from the first of its possible beginnings of which that is known."""
    named = (start, run.facts.resume_target.state_name if run.facts.resume_target.kind == "state" else None)
    begins = [item for name in named if name for item in run.checkpoints if item.name == name]
    begins += [item for item in run.checkpoints if item.verdict.resumes][:1]
    rooms = (item.forecast.bytes_needed for item in begins if item.forecast)
    return next((room for room in rooms if room is not None), None)


def _next_save(run: RunReport) -> tuple[int | None, int | None]:
    """The least and the most that the next save takes: a state, and the LoRA file beside it."""
    lora = max((lora.size_bytes for lora in run.facts.loras if isinstance(lora, LoraFacts)), default=0)
    recent = run.checkpoints[:_RECENT]
    if state := max((item.facts.size_bytes for item in recent), default=0):
        size = state + (lora or max(weights_size(item.facts) for item in recent))
        return size, size
    least, most = state_sizes(lora)
    return (least + lora, most + lora) if lora else (None, None)


def _saves_elsewhere(run: RunReport) -> bool:
    """Whether the script saves into another folder, which may lie on another disk."""
    if any(found.code == "output-elsewhere" for item in run.checkpoints for found in item.findings):
        return True
    written = run.facts.script.output_dir if run.facts.script else None
    return bool(written) and not run.checkpoints and PureWindowsPath(str(written)).name != run.name


def plan_retention(
    run: RunReport,
    recovery: RecoveryPlan | None,
    in_use: frozenset[str] = frozenset(),
    links: frozenset[str] = frozenset(),
) -> RetentionPlan:
    """Which checkpoints may go.

    :param recovery: the run's recovery options; a checkpoint from which one of them starts stays.
    :param in_use: the checkpoints that a running training has loaded or is writing.
    :param links: those that are links, or to which links lead (:func:`checkpoint_core.recovery.removal.links_in`).
    """
    kept: dict[str, str] = {}
    for names, why in _reasons(run, recovery, in_use, links):
        for name in names:
            kept.setdefault(name, why)
    titles = _titles(run)
    oldest = [item for item in reversed(run.checkpoints) if item.name not in kept]
    ordered = sorted(oldest, key=lambda item: item.verdict is not Verdict.DAMAGED)
    good = [title_inside(item) for item in _resuming(run)[:KEPT_GOOD]]
    candidates = tuple(
        Candidate(item.name, titles[item.name], item.facts.size_bytes, *_reason(item, good))
        for item in ordered
    )
    stay = (item for item in run.checkpoints if item.name in kept)
    return RetentionPlan(
        candidates,
        tuple(Kept(item.name, titles[item.name], kept[item.name]) for item in stay),
        sum(each.size_bytes for each in candidates),
    )


def _reasons(
    run: RunReport, recovery: RecoveryPlan | None, in_use: frozenset[str], links: frozenset[str]
) -> Iterator[tuple[Iterable[str], str]]:
    """What stays, the strongest reason first."""
    resuming = _resuming(run)
    usable = [item for item in run.checkpoints if item.verdict.resumes or item.verdict is Verdict.NEEDS_FIX]
    options = [option.checkpoint for option in recovery.options if option.checkpoint] if recovery else []
    target = run.facts.resume_target.state_name
    yield in_use, "The training that is running uses it."
    yield _named(run, Verdict.SAVING), "It is being saved right now."
    unread = [item.name for item in run.checkpoints if item.facts.problem]
    yield unread, "Its folder could not be read, so nothing is known about it."
    yield links, "It is a link, or a link leads to it: what else uses its files is not known."
    yield [target] if target else [], "The train script resumes from it."
    yield options[:1], "The recommended recovery option starts from it."
    yield [item.name for item in resuming[:1]], "It is the last good one: the newest that resumes."
    yield [item.name for item in run.checkpoints[:1]], "It is the newest of all."
    yield (
        [item.name for item in resuming[:KEPT_GOOD]],
        "It is the fallback if the last good one fails.",
    )
    yield options, "One of the recovery options starts from it."
    yield [item.name for item in usable[:KEPT_GOOD]], "It resumes with a fix, and too few resume without one."
    yield _named(run, Verdict.UNKNOWN), "Whether it resumes could not be told."
    blameless = [item.name for item in run.checkpoints if _is_blameless(item)]
    yield blameless, "The checkpoint is fine: its script or environment keeps it from resuming."


def _resuming(run: RunReport) -> list[CheckpointReport]:
    return [item for item in run.checkpoints if item.verdict.resumes]


def _named(run: RunReport, verdict: Verdict) -> list[str]:
    return [item.name for item in run.checkpoints if item.verdict is verdict]


def _is_blameless(item: CheckpointReport) -> bool:
    return item.verdict is Verdict.DAMAGED and Subject.STATE not in item.concerns


def _reason(item: CheckpointReport, good: list[str]) -> tuple[str, str]:
    """The reason in a word or two, and the rest of it."""
    if item.verdict is Verdict.DAMAGED:
        return "damaged", note(item) or "it cannot be resumed."
    word = "needs a fix" if item.verdict is Verdict.NEEDS_FIX else "older"
    if not good:
        return word, "newer ones stay."
    return word, f"{' and '.join(good)} {'stays' if len(good) == 1 else 'stay'}, and can be resumed."


def _titles(run: RunReport) -> dict[str, str]:
    """What each checkpoint is called, with its folder's name where two would be called the same."""
    counted = Counter(title(item) for item in run.checkpoints)
    return {
        item.name: title(item) if counted[title(item)] == 1 else f"{title(item)}, {item.name}"
        for item in run.checkpoints
    }
