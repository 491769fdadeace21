"""Text from the disk in the page: escaped, and in no encoding's way."""

from __future__ import annotations

import json

import pytest

from checkpoint_core.audit.findings import Severity, Verdict
from checkpoint_core.tab.views.markup import (
    badge,
    diff_block,
    notice,
    plain,
    safe_name,
    sets,
    severity_word,
    text,
)

HOSTILE = """<img src=x onerror="harm()"> & 'q'"""


def test_markup_becomes_text() -> None:
    assert text(HOSTILE) == "&lt;img src=x onerror=&quot;harm()&quot;&gt; &amp; &#x27;q&#x27;"


@pytest.mark.parametrize("name", ["caf\udce9", "\ud800", "a\nb\udc80"])
def test_bytes_that_are_no_utf_8_are_made_visible(name: str) -> None:
    shown = safe_name(name)

    assert shown.encode("utf-8").isascii() or "\n" in shown
    assert "\\ud" in shown


def test_a_good_name_stays_as_it_is() -> None:
    assert safe_name("猫 é 🙂 \n") == "猫 é 🙂 \n"


def test_a_json_value_keeps_its_shape_and_can_be_sent() -> None:
    value = {"na\udce9me": ["a\udce9", 1, None, True, {"x": ("b\udce9",)}]}

    made = plain(value)

    assert made == {"na\\udce9me": ["a\\udce9", 1, None, True, {"x": ["b\\udce9"]}]}
    json.dumps(made, ensure_ascii=False).encode("utf-8")


def test_attributes_cannot_be_broken_out_of() -> None:
    assert sets("ck-selected", HOSTILE).count('"') == 4


def test_only_a_bad_message_interrupts_a_screen_reader() -> None:
    assert 'role="alert"' in notice("bad", "x")
    assert 'role="status"' in notice("good", "x")


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_has_a_badge_in_words(verdict: Verdict) -> None:
    assert f"ck-{verdict.value}" in badge(verdict)


@pytest.mark.parametrize("severity", Severity)
def test_every_severity_has_a_word(severity: Severity) -> None:
    assert severity_word(severity)


def test_a_diff_is_coloured_line_by_line_and_escaped() -> None:
    shown = diff_block("--- train.sh\n+++ train.sh\n@@ -1 +1 @@\n-  --a <b>\n+  --a &\n   c\n")

    assert shown.count('class="ck-head"') == 3
    assert '<span class="ck-del">-  --a &lt;b&gt;</span>' in shown
    assert '<span class="ck-add">+  --a &amp;</span>' in shown
    assert '<span class="ck-same">   c</span>' in shown
