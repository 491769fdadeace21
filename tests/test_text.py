from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint_core.text import (
    counted,
    file_name,
    human_bytes,
    local_time,
    markdown_block,
    markdown_code,
    markdown_text,
    printable,
    utc_time,
)


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


DAY = 86_400 * 10**9


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1049, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (957_000_000, "957 MB"),
        (1_200_000_000, "1.2 GB"),
        (999_600_000_000, "1.0 TB"),
        (5_000_000_000_000, "5.0 TB"),
    ],
)
def test_sizes_in_powers_of_a_thousand(size: int, text: str) -> None:
    assert human_bytes(size) == text


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="only POSIX lets a process change its time zone")
def test_local_times_are_the_user_s_and_utc_is_not(in_tokyo: None) -> None:
    moment = 1_700_000_000 * 10**9 + 123_999_999
    assert local_time(moment) == "2023-11-15 07:13"
    assert utc_time(moment) == "2023-11-14T22:13:20.123Z"


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-DAY, "1969-12-31T00:00:00.000Z"),
        (10**25, "9999-12-31T23:59:59.999Z"),
        (-(10**25), "0001-01-01T00:00:00.000Z"),
    ],
)
def test_times_of_a_broken_clock_are_no_reason_to_fail(nanoseconds: int, text: str) -> None:
    assert utc_time(nanoseconds) == text
    assert len(local_time(nanoseconds)) >= len("1-01-01 00:00")


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (12_345, "12,345 steps")]
)
def test_a_number_with_its_noun(number: int, told: str) -> None:
    assert counted(number, "step") == told
