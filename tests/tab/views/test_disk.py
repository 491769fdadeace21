"""The disk and the proposal on the page."""

from __future__ import annotations

import pytest

from checkpoint_core.recovery.retention import Candidate, DiskForecast, Kept, RetentionPlan
from checkpoint_core.tab.views.disk import chosen_names, disk_view, retention_choices, retention_view

PLAN = RetentionPlan(
    candidates=(
        Candidate("x-<2>-state", "Epoch <2>", 957_000_000, "damaged", "optimizer.bin is <cut>."),
        Candidate(
            "x-\udcff-state", "Epoch 1", 957_000_000, "older", "epoch 4 and epoch 3 stay, and can be resumed."
        ),
    ),
    kept=(Kept("x-4-state", "Epoch 4", "It is the <newest>."),),
    gain_bytes=1_914_000_000,
)


def forecast(is_enough: bool | None) -> DiskForecast:
    return DiskForecast(1, 2, 3, is_enough, "The saves <need> 3.2 GB.")


@pytest.mark.parametrize("is_enough", [True, False, None])
def test_only_too_little_room_warns(is_enough: bool | None) -> None:
    html = disk_view(forecast(is_enough))
    assert "The saves &lt;need&gt; 3.2 GB." in html
    assert ("ck-warning" in html) == (is_enough is False)
    assert ("Could not tell" in html) == (is_enough is None)
    assert ("<details" in retention_view(forecast(is_enough), PLAN)) is True
    assert (" open>" in retention_view(forecast(is_enough), PLAN)) == (is_enough is False)


def test_the_proposal_tells_sizes_reasons_and_what_stays() -> None:
    html = retention_view(forecast(True), PLAN)
    assert "2 checkpoints could go and free 1.9 GB" in html
    assert "<strong>Epoch &lt;2&gt;</strong> (957 MB): damaged: optimizer.bin is &lt;cut&gt;." in html
    assert "<strong>Epoch 4</strong>: It is the &lt;newest&gt;." in html
    html.encode("utf-8")


def test_nothing_to_spare_says_so() -> None:
    html = retention_view(forecast(False), RetentionPlan((), (), 0))
    assert "No checkpoint can be spared" in html
    assert "<ul>" not in html


def test_choices_go_there_and_back() -> None:
    choices = retention_choices(PLAN)
    assert choices == [
        ("Epoch <2> (957 MB): damaged", "x-<2>-state"),
        ("Epoch 1 (957 MB): older", r"x-\udcff-state"),
    ]
    assert chosen_names(PLAN, [value for _, value in choices]) == ("x-<2>-state", "x-\udcff-state")
    assert chosen_names(PLAN, ["../x"]) == ("../x",)
