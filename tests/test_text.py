from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint_core.text import file_name, markdown_block, markdown_code, markdown_text, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 猫 🐈 a-b_c", "Größe 猫 🐈 a-b_c"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("two\nlines\r\t", "two\\x0alines\\x0d\\x09"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("line\u2028end", "line\\u2028end"),
        ("\udcff\udce9", "\\xff\\xe9"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(alphabet=st.characters()))
def test_any_name_prints_on_one_line_in_any_terminal(text: str) -> None:
    shown = printable(text)

    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("my-lora", "my-lora"),
        ("a/b\\c:d?e", "a_b_c_d_e"),
        ("..", "_"),
        ("", "_"),
        ("nul\0", "nul_x00"),
        ("x" * 300, "x" * 120),
    ],
)
def test_a_name_for_a_file_is_allowed_everywhere(text: str, name: str) -> None:
    assert file_name(text) == name


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("current_step is 3", "current_step is 3"),
        ("a | b\nc", "a \\| b\\x0ac"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        (
            "*bold* _it_ [l](u) `code` ~s~ &amp;",
            "\\*bold\\* \\_it\\_ \\[l\\](u) \\`code\\` \\~s\\~ &amp;amp;",
        ),
        ("C:\\Users\\x\\", "C:\\Users\\x\\\\"),
        ("\\|", "\\\\\\|"),
    ],
)
def test_text_shows_itself_in_markdown(text: str, markdown: str) -> None:
    assert markdown_text(text) == markdown


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("train.sh", "`train.sh`"),
        ("", ""),
        ("a`b", "``a`b``"),
        ("`", "`` ` ``"),
        ("a|b\nc", "`a\\|b\\x0ac`"),
    ],
)
def test_a_code_span_holds_whatever_it_is_given(text: str, markdown: str) -> None:
    assert markdown_code(text) == markdown


def test_nothing_in_a_block_closes_it() -> None:
    assert markdown_block("a\r\n```\n</details>\x1b\n", "sh") == "````sh\na\n```\n</details>\\x1b\n````"
