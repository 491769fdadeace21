"""What the buttons under the panel will do, are doing, and did."""

from __future__ import annotations

import traceback

from checkpoint_core.audit import CheckpointReport, FindingKind, Subject, Verdict, judgement, title
from checkpoint_core.environment import RehearsalStage, RehearsalStatus
from checkpoint_core.tab.views.markup import diff_block, notice, text

_REASONS = {
    "needs-fix": "It needs a fix first; see above.",
    "damaged": "It is damaged; choose another checkpoint.",
    "saving": "It is being written; wait until the save is finished.",
    "unknown": "It could not be judged; see above.",
}
#: How much of an unexpected error's own text is shown.
_MOST_CHARACTERS = 300


def refusal_text(item: CheckpointReport) -> str:
    """Why the resume button is disabled, to stand beside it; empty if it is not."""
    if item.verdict is Verdict.NEEDS_FIX and Subject.STATE not in item.concerns:
        return f"{judgement(item)} See above."
    return _REASONS.get(item.verdict.value, "")


def preview_view(diff: str, notes: tuple[str, ...]) -> str:
    """The change of the script before it is written."""
    told = "".join(f"<p>{text(line)}</p>" for line in notes)
    if not diff:
        return f'<div class="ck-preview"><p>The train script already resumes from this checkpoint.</p>{told}</div>'
    return (
        f'<details class="ck-preview" open><summary>What “Resume from this checkpoint” changes in the train script'
        f"</summary>{told}{diff_block(diff)}</details>"
    )


def done_view(what: str, command: str, folder: str, backup: str | None, lines: tuple[str, ...] = ()) -> str:
    """What was changed, the exact command to run, and from where."""
    told = "".join(f"<li>{text(line)}</li>" for line in lines)
    kept = f"<li>The script as it was is kept as {text(backup)}.</li>" if backup else ""
    return notice(
        "good",
        f'<p class="ck-headline">{text(what)}</p><ul>{told}{kept}</ul>'
        f"<p>To train, run this in <code>{text(folder)}</code>, with FluxGym's environment active:</p>"
        f'<pre class="ck-command" tabindex="0">{text(command)}</pre>',
    )


def fresh_view(diff: str) -> str:
    """What “Start fresh” would remove, before it is removed."""
    said = "Starting fresh trains from epoch 1 again. What is there is kept in .replaced."
    return notice("warning", f"<p>{said} This is what changes in the train script:</p>{diff_block(diff)}")


def progress_view(done: int, total: int, item: CheckpointReport) -> str:
    """How far reading every byte has come; both in bytes."""
    percent = 100 * done // total if total else 100
    return notice(
        "info",
        f"<p>Reading every byte of {text(title(item))}: {percent} %</p>"
        f'<progress max="100" value="{percent}" aria-label="Verified"></progress>',
    )


_STAGE_WORDS = {
    RehearsalStage.STARTING: "starting Python",
    RehearsalStage.IMPORTING: "importing torch and accelerate",
    RehearsalStage.BUILDING: "building a network of the saved size",
    RehearsalStage.LOADING: "loading",
    RehearsalStage.CHECKING: "checking what arrived",
}


def rehearsing_view(stage: RehearsalStage, seconds: float, item: CheckpointReport) -> str:
    """How far a rehearsal has come, after so many seconds."""
    done = 100 * list(RehearsalStage).index(stage) // len(RehearsalStage)
    return notice(
        "info",
        f"<p>Rehearsing {text(title(item))} with the training interpreter: {_STAGE_WORDS[stage]} ({seconds:.0f} s)</p>"
        f'<progress max="100" value="{done}" aria-label="Rehearsed"></progress>',
    )


def rehearsed_view(item: CheckpointReport) -> str:
    """How a rehearsal ended."""
    outcome = item.rehearsal
    if outcome is None or outcome.status is RehearsalStatus.CANCELLED:
        return info_view("Cancelled. Nothing was changed.")
    told = " ".join(found.message for found in item.findings if found.kind is FindingKind.REHEARSAL)
    kind = {RehearsalStatus.LOADED: "good", RehearsalStatus.REFUSED: "info"}.get(outcome.status, "warning")
    return notice(kind, f"<p>{text(told)}</p>")


def error_view(message: str) -> str:
    """Something that did not work, in words."""
    return notice("bad", f"<p>{text(message)}</p>")


def failed_view(what: str, error: BaseException) -> str:
    """Something that an error nobody foresaw has stopped before it changed anything.

    :param what: what did not happen, without the full stop.
    """
    named = traceback.format_exception_only(error)[-1].strip()
    if len(named) > _MOST_CHARACTERS:
        named = f"{named[:_MOST_CHARACTERS]}…"
    return notice(
        "bad",
        f"<p>{text(what)}: an unexpected error stopped it. Nothing was changed.</p><p>{text(named)}</p>"
        "<p>Try again. If it happens again, please report it: add the file that “Download diagnosis” gives you, and "
        "what the terminal that this page is served from says about it.</p>",
    )


def good_view(message: str) -> str:
    """Something that was done, in words."""
    return notice("good", f"<p>{text(message)}</p>")


def info_view(message: str) -> str:
    """Something worth knowing, in words."""
    return notice("info", f"<p>{text(message)}</p>")


def warning_view(message: str) -> str:
    """Something to heed, in words."""
    return notice("warning", f"<p>{text(message)}</p>")
