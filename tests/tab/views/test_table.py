"""The headline and the table: their order, what can be pressed, and names as text."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.states import Skipped
from checkpoint_core.tab.views.table import COLUMNS, headline_view, sort_order, table_view
from tests.tab.conftest import DAMAGED, EPOCH_1, EPOCH_2, GOOD, RESUMED, audited


def rows(html: str) -> list[str]:
    return re.findall(r'<tr class="ck-row".*?data-ck-value="([^"]*)"', html)


def test_the_newest_stands_first(outputs: Path) -> None:
    assert rows(table_view(audited(outputs, DAMAGED), None)) == [EPOCH_2, EPOCH_1]


@pytest.mark.parametrize("key", COLUMNS)
def test_every_column_sorts_both_ways(outputs: Path, key: str) -> None:
    run = audited(outputs, RESUMED)
    value = COLUMNS[key][1]
    by_name = {item.name: value(item) for item in run.checkpoints}

    up = [by_name[name] for name in rows(table_view(run, None, f"{key}:up"))]
    down = [by_name[name] for name in rows(table_view(run, None, f"{key}:down"))]

    assert len(up) == len(run.checkpoints)
    assert up == sorted(by_name.values())
    assert down == sorted(by_name.values(), reverse=True)


@pytest.mark.parametrize(("count", "told"), [(1, "1 item left out"), (2, "2 items left out")])
def test_what_was_left_out_is_counted(outputs: Path, count: int, told: str) -> None:
    run = audited(outputs, GOOD)
    skipped = tuple(Skipped(f"entry-{number}", "it is a link") for number in range(count))
    run = replace(run, facts=replace(run.facts, skipped=skipped))

    assert f"<summary>{told}</summary>" in headline_view(run)


def test_a_heading_tells_its_order_and_offers_the_other(outputs: Path) -> None:
    html = table_view(audited(outputs, GOOD), None, "size:down")

    heads = re.findall(r'aria-sort="(\w+)".*?data-ck-value="(\w+:\w+)"', html)
    assert ("descending", "size:up") in heads
    assert ("none", "epoch:down") in heads
    assert len(heads) == len(COLUMNS)


@pytest.mark.parametrize("sort", ["", "epoch", "epoch:", "nothing:up", "epoch:sideways", "<b>:up"])
def test_an_unknown_order_is_the_usual_one(sort: str) -> None:
    assert sort_order(sort) == ("epoch", "down")


def test_the_selected_row_alone_is_pressed(outputs: Path) -> None:
    html = table_view(audited(outputs, GOOD), EPOCH_2)

    pressed = re.findall(r'aria-pressed="true".*?data-ck-value="([^"]*)"', html)
    assert pressed == [EPOCH_2]


def test_a_run_without_checkpoints_has_no_table_and_says_why(outputs: Path) -> None:
    for state in (outputs / GOOD).glob("*-state"):
        shutil.rmtree(state)
    run = audited(outputs, GOOD)

    assert table_view(run, None) == ""
    assert "checkpoint" in headline_view(run)


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        (DAMAGED, "ck-warning", "Epoch 1 is ready. Epoch 2, the latest, is damaged: "),
        (RESUMED, "ck-warning", "Epoch 2 is ready. Epoch 6, the latest, needs a fix: "),
    ],
)
def test_the_headline_and_its_colour(outputs: Path, name: str, kind: str, says: str) -> None:
    html = headline_view(audited(outputs, name))

    assert f'class="ck-notice {kind}"' in html
    assert says in html


def test_no_checkpoint_that_resumes_is_bad_news(outputs: Path) -> None:
    shutil.rmtree(outputs / DAMAGED / EPOCH_1)

    html = headline_view(audited(outputs, DAMAGED))

    assert 'class="ck-notice ck-bad"' in html
    assert "None of the 1 checkpoints resumes as it is." in html


def test_names_are_text(outputs: Path) -> None:
    hostile = '<img src=x onerror="harm()">'
    (outputs / GOOD).rename(outputs / hostile)
    (outputs / hostile / EPOCH_2).rename(outputs / hostile / f"{hostile}-000002-state")
    run = audited(outputs, hostile)

    html = headline_view(run) + table_view(run, None)

    assert "<img" not in html
    assert "&lt;img src=x onerror=&quot;harm()&quot;&gt;-000002-state" in html
