"""How a run's training stands, as HTML: status, warnings, progress, loss, log and journal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from checkpoint_core.report import progress_facts, share_done, status_sentence, status_word
from checkpoint_core.tab.views.loss_plot import Mark, loss_plot
from checkpoint_core.tab.views.markup import notice, text
from checkpoint_core.text import human_seconds, local_time
from checkpoint_core.training import JournalLine, Life, ProcessState, TrainingStatus

#: On the page while there is something to see at once: ``tab.js`` asks every two seconds then.
_LIVE = " data-ck-live"
_BADGES = {
    ProcessState.EXITED: "ready",
    ProcessState.FATAL: "damaged",
    ProcessState.BACKOFF: "needs-fix",
    ProcessState.STOPPED: "unknown",
}


def training_view(
    status: TrainingStatus, more: Iterable[tuple[str, str]], marks: Sequence[Mark], now_ns: int
) -> str:
    """The training of a run; empty for a run that has none.

    :param more: further facts for the list, each with its name.
    :param marks: the run's checkpoints, for the drawing.
    """
    record = status.record
    if record is None and status.found is None:
        return ""
    warnings = "".join(notice("bad", f"<p>{text(each)}</p>") for each in (record.warnings if record else ()))
    told = status_sentence(status)
    sentence = f"<p>{text(told)}</p>" if told else ""
    return (
        f'<section class="ck-training" aria-label="Training"{_LIVE if status.is_running else ""}>'
        f'<p><strong class="ck-headline">{_badge(status)}</strong> '
        f'<span class="ck-quiet">{text(_where(status, now_ns))}</span></p>{sentence}{warnings}'
        f"{_progress(status, more)}{loss_plot(status.history.points, marks)}</section>"
    )


def _badge(status: TrainingStatus) -> str:
    kind = "saving"
    if status.life is Life.LOST:
        kind = "damaged"
    elif status.life is Life.UNWATCHED:
        kind = "needs-fix"
    elif status.record is not None:
        kind = _BADGES.get(status.record.status, "saving")
    return f'<span class="ck-badge ck-{kind}">{text(status_word(status))}</span>'


def _where(status: TrainingStatus, now_ns: int) -> str:
    """Which start it is, from where it went on, and for how long."""
    record = status.record
    if record is None:
        return "started outside of this tab"
    parts = [f"since {local_time(record.started_ns)}"]
    if record.attempt > 1:
        parts.append(f"start {record.attempt}")
    if record.resumed_from:
        parts.append(f"resumed from {record.resumed_from}")
    if record.status is ProcessState.BACKOFF and status.is_watched:
        parts.append(f"next start in {human_seconds(max(0, record.next_try_ns - now_ns) / 1e9)}")
    if record.status.is_live and record.bring_back and status.is_watched:
        parts.append("restarts automatically after a crash")
    return ", ".join(parts)


def _progress(status: TrainingStatus, more: Iterable[tuple[str, str]]) -> str:
    share = share_done(status.progress)
    bar = (
        f'<progress max="1000" value="{round(1000 * share)}" aria-label="Training">{share:.0%}</progress>'
        if share is not None
        else ""
    )
    facts = [*progress_facts(status.progress), *more]
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in facts)
    return f'{bar}<dl class="ck-facts">{items}</dl>' if facts else bar


def log_view(status: TrainingStatus) -> str:
    """The end of the log, as a terminal would show it."""
    if not status.log:
        told = "Its output is elsewhere: in FluxGym's own page, or in the terminal that it was started in."
        return f'<p class="ck-quiet">{told if status.found else "Nothing was printed yet."}</p>'
    lines = "\n".join(status.log)
    return f'<div class="ck-log" tabindex="0" role="log" aria-live="off"><pre>{text(lines)}</pre></div>'


def journal_view(lines: Iterable[JournalLine]) -> str:
    """Every decision of the watcher, the latest first."""
    items = "".join(
        f'<li><span class="ck-quiet">{text(local_time(line.at_ns))}</span> {text(line.text)}</li>'
        for line in reversed(tuple(lines))
    )
    return f'<ul class="ck-journal">{items}</ul>' if items else '<p class="ck-quiet">No events yet.</p>'
