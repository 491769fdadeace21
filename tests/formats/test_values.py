"""Values out of anybody's files: what is no count, number or text is none."""

from __future__ import annotations

import math

import pytest

from checkpoint_core.formats.reader import MAX_COUNT
from checkpoint_core.formats.values import (
    count_in,
    needed_count,
    needed_text,
    number_in,
    text_in,
    written_count,
)


@pytest.mark.parametrize("value", [True, -1, MAX_COUNT + 1, 3.0, "3", None, [3], math.nan])
def test_what_counts_nothing_is_no_count(value: object) -> None:
    assert count_in(value) is None
    with pytest.raises(ValueError, match="number"):
        needed_count(value)


def test_a_count_has_bounds() -> None:
    assert (count_in(0), count_in(MAX_COUNT), count_in(-5, -5)) == (0, MAX_COUNT, -5)
    assert needed_count(3, 1) == 3
    with pytest.raises(ValueError, match="number"):
        needed_count(0, 1)


def test_any_number_is_a_float_but_one_that_is_too_large() -> None:
    assert (number_in(3), number_in(0.5), number_in(math.inf)) == (3.0, 0.5, math.inf)
    assert math.isnan(number_in(math.nan) or 0.0)
    assert [number_in(value) for value in (10**400, True, "3", None)] == [None] * 4


def test_a_text_is_a_text() -> None:
    assert (text_in("x"), text_in(b"x"), needed_text("")) == ("x", None, "")
    with pytest.raises(ValueError, match="text"):
        needed_text(3)


@pytest.mark.parametrize("text", [None, "", "-1", "+1", "1.0", " 1", "1_000", "٣", "²", "9" * 16])
def test_only_plain_digits_write_a_count(text: str | None) -> None:
    assert written_count(text) is None


def test_plain_digits_write_a_count() -> None:
    assert (written_count("0"), written_count("007"), written_count("9" * 15)) == (0, 7, 10**15 - 1)
