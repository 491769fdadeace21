"""The table in docs/findings.md is the catalogue's, to the letter."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint_core.audit.catalogue.docs_table import markdown, with_table
from checkpoint_core.audit.catalogue.states import CATALOGUE

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "findings.md"


def test_the_document_holds_the_table_as_it_is_made_now() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert with_table(document) == document, "run: python -m checkpoint_core.audit.catalogue.docs_table"


def test_one_row_a_finding_with_five_cells() -> None:
    rows = markdown().splitlines()[2:]
    assert len(rows) == len(CATALOGUE)
    for row, code in zip(rows, CATALOGUE, strict=True):
        assert row.startswith(f"| `{code}` | ")
        assert row.replace("\\|", "").count("|") == 6


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("optimizer-truncated", "damaged"),
        ("random-states-empty", "ready-with-warnings"),
        ("position-relative", "needs-fix"),
        ("save-in-progress", "saving"),
        ("position-unknown", "unknown"),
        ("counts-from-zero", "–"),
    ],
)
def test_the_verdict_that_a_finding_leads_to_by_itself(code: str, verdict: str) -> None:
    assert f"| `{code}` | {verdict} | " in markdown()


def test_no_field_and_no_markup_is_left_in_a_row() -> None:
    for row in markdown().splitlines():
        assert "{" not in row.replace('{"current_epoch"', "")
        assert "<" not in row


def test_only_what_is_between_the_marks_is_replaced() -> None:
    text = "before\n<!-- findings: begin -->\nold\n<!-- findings: end -->\nafter"
    made = with_table(text)
    assert made.startswith("before\n<!-- findings: begin -->\n| Code |")
    assert made.endswith("|\n<!-- findings: end -->\nafter")
    assert "old" not in made.split("|", 1)[0]
    assert with_table(made) == made


@pytest.mark.parametrize("text", ["", "<!-- findings: begin -->", "<!-- findings: end -->"])
def test_a_document_without_the_marks_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="findings: begin"):
        with_table(text)
