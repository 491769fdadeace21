"""What starts would have overwritten and was set aside, as HTML, each with the buttons that ask what to do with it."""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint_core.recovery import Replaced
from checkpoint_core.tab.views.markup import OPTION_BOX, notice, sets, text
from checkpoint_core.text import human_bytes

#: What is written into the box in the place of a number, before the name of what was set aside.
RESTORE, DISCARD = "restore:", "discard:"


def replaced_view(records: Sequence[Replaced]) -> str:
    """The list, newest first; nothing where nothing was set aside."""
    if not records:
        return ""
    total = human_bytes(sum(each.size_bytes for each in records))
    items = "".join(_item(each) for each in reversed(records))
    return (
        f'<details class="ck-retention"><summary>Kept from being overwritten ({total})</summary>'
        "<p>A start sets aside what it would write over. Each can be brought back, or removed for good.</p>"
        f"<ul>{items}</ul></details>"
    )


def _item(record: Replaced) -> str:
    told = f"{record.what[:1].upper()}{record.what[1:]}"
    return (
        f"<li><strong>{text(told)}</strong> ({human_bytes(record.size_bytes)})"
        f'<div class="ck-quiet">{text(record.place)}</div>'
        f"{_button(RESTORE, 'Restore what was replaced', record)} {_button(DISCARD, 'Remove for good', record)}</li>"
    )


def _button(what: str, label: str, record: Replaced) -> str:
    return (
        f'<button type="button" class="ck-choose" aria-label="{label}: {text(record.what)}" '
        f"{sets(OPTION_BOX, what + record.id)}>{label}</button>"
    )


def restore_question(record: Replaced) -> str:
    """What comes back, with the question whether to do it."""
    names = ", ".join(entry.name for entry in record.entries if not entry.beside)
    return notice(
        "warning",
        f'<p class="ck-headline">Restore {text(record.what)}?</p><p>This brings back {text(names)}. '
        "What is in their place now is set aside in the same way.</p>",
    )


def discard_question(record: Replaced) -> str:
    """What goes for good, with the question whether to do it."""
    return notice(
        "warning",
        f'<p class="ck-headline">Remove {text(record.what)} for good?</p>'
        f"<p>This frees {human_bytes(record.size_bytes)}. It cannot be undone.</p>",
    )
