"""Small pieces of escaped HTML that the page's parts share."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from checkpoint_core.audit import VERDICT_WORDS, Severity, Verdict

#: Names of the page's hidden text boxes, through which its buttons speak to the server (see ``tab.js``).
SELECTED_BOX = "ck-selected"
SORT_BOX = "ck-sort"
OPTION_BOX = "ck-way"

_SEVERITY_WORDS = {
    Severity.INFO: "Good to know",
    Severity.WARNING: "Warning",
    Severity.FIXABLE: "Needs a fix",
    Severity.ERROR: "Damage",
    Severity.UNKNOWN: "Could not tell",
    Severity.SAVING: "Being saved",
}


def text(value: object) -> str:
    """Any text as HTML text: markup escaped, bytes that are no UTF-8 made visible."""
    return escape(safe_name(str(value)), quote=True)


def safe_name(name: str) -> str:
    """A file name that any encoding can carry: bytes that are no UTF-8 (surrogates) as ``\\udc80``."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def plain(value: Any) -> Any:
    """A JSON value with every text made :func:`safe_name`: a web server's encoder refuses lone surrogates."""
    if isinstance(value, str):
        return safe_name(value)
    if isinstance(value, Mapping):
        return {safe_name(str(key)): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def badge(verdict: Verdict) -> str:
    """A verdict as word and colour."""
    return f'<span class="ck-badge ck-{verdict.value}">{text(VERDICT_WORDS[verdict])}</span>'


def severity_word(severity: Severity) -> str:
    """A severity for people."""
    return _SEVERITY_WORDS[severity]


def sets(box: str, value: str) -> str:
    """Attributes of an element that, when it is pressed, writes a value into a hidden text box."""
    return f'data-ck-box="{text(box)}" data-ck-value="{text(value)}"'


def notice(kind: str, body: str) -> str:
    """A framed message; ``kind`` is ``info``, ``good``, ``warning`` or ``bad``, ``body`` is HTML."""
    role = "alert" if kind == "bad" else "status"
    return f'<div class="ck-notice ck-{kind}" role="{role}">{body}</div>'


def diff_block(diff: str) -> str:
    """A unified diff with its lines coloured."""
    lines = []
    for line in diff.splitlines():
        head = line.startswith(("---", "+++", "@@"))
        kind = "head" if head else {"+": "add", "-": "del"}.get(line[:1], "same")
        lines.append(f'<span class="ck-{kind}">{text(line) or " "}</span>')
    return f'<pre class="ck-diff" tabindex="0" aria-label="Change of the train script">{"".join(lines)}</pre>'
