"""The table in docs/findings.md, from the catalogue: ``python -m checkpoint_core.audit.catalogue.docs_table``."""

from __future__ import annotations

import string
from pathlib import Path

from checkpoint_core.atomic_write import replace_bytes
from checkpoint_core.audit.catalogue.states import CATALOGUE
from checkpoint_core.audit.findings import Severity, fold

_BEGIN, _END = "<!-- findings: begin -->", "<!-- findings: end -->"
_INFO_VERDICT = "–"


class _Placeholders(string.Formatter):
    """Shows a sentence's fields as ``…``, and those with a telling name by that name."""

    _SHOWN = frozenset(
        {"file", "epoch", "next_epoch", "start_epoch", "step", "current_step", "lifetime_step", "lora_file"}
    )

    def get_value(self, key: int | str, args: object, kwargs: object) -> str:
        return f"<{key}>" if key in self._SHOWN else "…"


def markdown() -> str:
    """One row a finding: its code, the verdict that it leads to by itself, and its three sentences."""
    rows = ["| Code | Verdict | What it says | What happens | What to do |", "|---|---|---|---|---|"]
    for entry in CATALOGUE.values():
        sentences = (_cell(text) for text in (entry.message, entry.effect, entry.cure))
        verdict = (
            _INFO_VERDICT if entry.severity is Severity.INFO else fold([entry.finding(**_NO_FIELDS)]).value
        )
        rows.append(f"| `{entry.code}` | {verdict} | {' | '.join(sentences)} |")
    return "\n".join(rows)


_FIELDS = {
    name
    for entry in CATALOGUE.values()
    for text in (entry.message, entry.effect, entry.cure)
    for _, name, _, _ in string.Formatter().parse(text)
    if name not in (None, "file", "evidence")
}
_NO_FIELDS: dict[str, str] = {str(name): "" for name in _FIELDS}


def _cell(text: str) -> str:
    shown = _Placeholders().format(text)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def with_table(document: str) -> str:
    """A document's text with the table between its two marks made anew.

    :raises ValueError: when the marks are missing.
    """
    before, found, rest = document.partition(_BEGIN)
    _, found_end, after = rest.partition(_END)
    if not found or not found_end:
        raise ValueError(f"the document must hold {_BEGIN} and {_END}")
    return f"{before}{_BEGIN}\n{markdown()}\n{_END}{after}"


def main() -> None:
    """Write the table into docs/findings.md of this checkout."""
    path = Path(__file__).resolve().parents[3] / "docs" / "findings.md"
    before = path.read_bytes()
    replace_bytes(path, with_table(before.decode("utf-8")).encode("utf-8"), expected=before, backup=False)


if __name__ == "__main__":
    main()
