"""The panel of one checkpoint: the verdict in a sentence, cause, effect and cure, files, images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.audit.findings import Verdict
from checkpoint_core.tab.views.panel import Thumbnail, nothing_selected, panel_view
from tests.tab.conftest import DAMAGED, EPOCH_2, EPOCH_3, GOOD, RESUMED, audited


def test_a_good_one_will_resume_and_says_where(outputs: Path) -> None:
    html = panel_view(audited(outputs, GOOD).checkpoint(EPOCH_2))

    assert "It will resume." in html
    assert "<dt>Continues at epoch</dt><dd>3</dd>" in html
    assert "<dt>Optimizer</dt><dd>adafactor</dd>" in html
    assert "optimizer.bin" in html
    assert "What to do" not in html.split("Good to know")[0]


@pytest.mark.parametrize(
    ("run", "state", "code"), [(DAMAGED, EPOCH_2, "mixed-saves"), (RESUMED, EPOCH_3, "position-relative")]
)
def test_a_finding_has_cause_effect_and_cure(outputs: Path, run: str, state: str, code: str) -> None:
    html = panel_view(audited(outputs, run).checkpoint(state))

    assert f'<code class="ck-code">{code}</code>' in html
    assert "<dt>What happens</dt><dd>" in html
    assert "<dt>What to do</dt><dd>" in html
    assert "Continues at epoch" not in html


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_has_a_sentence(outputs: Path, verdict: Verdict) -> None:
    item = replace(audited(outputs, GOOD).checkpoint(EPOCH_2), verdict=verdict)

    sentence = panel_view(item).split("</div><p>", 1)[1].split("</p>", 1)[0]

    assert sentence.endswith(".")
    assert ("It will resume" in sentence) == verdict.resumes


def test_images_stand_in_the_page_with_their_names(outputs: Path) -> None:
    item = audited(outputs, GOOD).checkpoint(EPOCH_2)

    html = panel_view(item, [Thumbnail("QUJD", "<b>.png")])

    assert '<img src="data:image/jpeg;base64,QUJD" alt="Sample image &lt;b&gt;.png">' in html
    assert "ck-samples" not in panel_view(item)


def test_file_names_are_text(outputs: Path) -> None:
    (outputs / GOOD / EPOCH_2 / "<script>x").write_text("")

    html = panel_view(audited(outputs, GOOD).checkpoint(EPOCH_2))

    assert "<script" not in html
    assert "&lt;script&gt;x" in html


def test_nothing_selected_says_what_to_do_only_where_it_can_be_done() -> None:
    assert "Select a checkpoint" in nothing_selected(True)
    assert nothing_selected(False) == ""
