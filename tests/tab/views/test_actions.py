"""What stands around the buttons: why not, what would change, what was done, how far it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.audit.findings import Verdict
from checkpoint_core.tab.views.actions import (
    done_view,
    error_view,
    failed_view,
    fresh_view,
    info_view,
    preview_view,
    progress_view,
    refusal_text,
)
from tests.tab.conftest import EPOCH_2, GOOD, audited


@pytest.mark.parametrize("verdict", Verdict)
def test_a_disabled_button_has_its_reason_and_an_enabled_one_none(outputs: Path, verdict: Verdict) -> None:
    item = replace(audited(outputs, GOOD).checkpoint(EPOCH_2), verdict=verdict)
    assert bool(refusal_text(item)) != verdict.resumes


def test_a_preview_shows_the_diff_and_its_notes() -> None:
    html = preview_view("+  --resume '<x>'\n", ("It is & another world's path.",))

    assert '<span class="ck-add">+  --resume &#x27;&lt;x&gt;&#x27;</span>' in html
    assert "<p>It is &amp; another world&#x27;s path.</p>" in html


def test_a_preview_without_a_change_says_so() -> None:
    assert "already resumes from this checkpoint" in preview_view("", ())


def test_what_was_done_with_the_command_the_folder_and_the_backup() -> None:
    html = done_view("Done <it>.", "bash 'a & b'", "/x/<y>", "train.sh.bak", ("Line <1>.",))

    assert "Done &lt;it&gt;." in html
    assert ">bash &#x27;a &amp; b&#x27;</pre>" in html
    assert "<code>/x/&lt;y&gt;</code>" in html
    assert "<li>Line &lt;1&gt;.</li><li>The script as it was is kept as train.sh.bak.</li>" in html
    assert "kept as" not in done_view("Done.", "bash x", "/x", None)


def test_starting_fresh_warns_before_it_asks() -> None:
    html = fresh_view("-  --resume x\n")

    assert "ck-warning" in html
    assert "What is there is kept in .replaced." in html
    assert "ck-del" in html


@pytest.mark.parametrize(("done", "total", "percent"), [(0, 8, 0), (3, 8, 37), (8, 8, 100), (0, 0, 100)])
def test_progress_in_per_cent(outputs: Path, done: int, total: int, percent: int) -> None:
    html = progress_view(done, total, audited(outputs, GOOD).checkpoint(EPOCH_2))

    assert f"Reading every byte of Epoch 2: {percent} %" in html
    assert f'value="{percent}"' in html


def test_messages_are_text() -> None:
    assert "<p>&lt;b&gt;</p>" in error_view("<b>")
    assert "<p>&lt;b&gt;</p>" in info_view("<b>")


def test_an_unexpected_error_is_named_escaped_and_cut() -> None:
    html = failed_view("Epoch <2> was not verified", ValueError("<b>" + "x" * 5000))

    assert "Epoch &lt;2&gt; was not verified: an unexpected error stopped it. Nothing was changed." in html
    assert "ValueError: &lt;b&gt;" in html
    assert len(html) < 1000
