"""Trainings on the page, with the real watcher and a real trainer: started, seen, found again, stopped, given room."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.soak import RUN, make_run
from checkpoint_core.training.record import read_record
from tests.browser.conftest import OpenTab, Server, refresh_quietly, served, tab_command
from tests.damage import truncate
from tests.training.test_processes import until
from tests.training.test_watcher import clear, without_launcher
from tests.world import age

EPOCHS = 400


@pytest.fixture
def gym(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A FluxGym folder with one run that trains for minutes."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    run = make_run(tmp_path / "fluxgym", EPOCHS)
    without_launcher(run)
    yield run.parent.parent
    clear(run)


@pytest.fixture
def server(gym: Path, tmp_path: Path) -> Iterator[Server]:
    with served(tab_command("serve", "--fluxgym", str(gym), "--port", "PORT"), gym, tmp_path / "log") as it:
        yield it


def run_of(server: Server) -> Path:
    return server.outputs / RUN


def start(page: Page) -> None:
    page.get_by_role("button", name="Start training", exact=True).click()
    expect(page.locator("#ck-result")).to_contain_text("The training is starting.")
    expect(page.locator(".ck-training .ck-badge")).to_have_text("Training")
    expect(page.locator(".ck-training dd").first).to_contain_text(f"of {EPOCHS}")


def test_it_is_started_seen_found_again_by_a_new_server_and_stopped(
    gym: Path, tmp_path: Path, open_tab: OpenTab
) -> None:
    command = tab_command("serve", "--fluxgym", str(gym), "--port", "PORT")
    with served(command, gym, tmp_path / "log") as first:
        page = open_tab(first)
        start(page)
        expect(page.get_by_role("button", name="Start training", exact=True)).to_be_hidden()
        expect(page.locator(".ck-plot .ck-loss")).to_be_visible()
        page.get_by_text("Log", exact=True).click()
        expect(page.locator(".ck-log")).to_contain_text("avr_loss=")
        step = page.locator(".ck-training dt", has_text="Step").locator("xpath=following-sibling::dd")
        before = step.inner_text()
        expect(step).not_to_have_text(before)  # by itself
    record = read_record(gym / "outputs" / RUN)
    assert record is not None

    with served(command, gym, tmp_path / "log2") as second:
        page = open_tab(second)
        expect(page.locator(".ck-training .ck-badge")).to_have_text("Training")
        expect(page.locator(".ck-plot .ck-loss")).to_be_visible()
        page.get_by_role("button", name="Stop training").click()
        expect(page.locator("#ck-result")).to_contain_text("Stop the training of “soaked-cat”?")
        page.get_by_role("button", name="Yes, do it").click()
        expect(page.locator(".ck-training .ck-badge")).to_have_text("Stopped")
        page.get_by_text("Event log").click()
        expect(page.locator(".ck-journal")).to_contain_text("Stopped, as you asked.")
        expect(page.get_by_role("button", name="Start training", exact=True)).to_be_visible()


def test_two_tabs_that_press_start_at_the_same_moment_start_one(
    server: Server, open_tab: OpenTab, browser: Browser
) -> None:
    page = open_tab(server)
    context = browser.new_context()
    other = context.new_page()
    other.goto(server.url, wait_until="domcontentloaded")
    for each in (page, other):
        expect(each.get_by_role("button", name="Start training", exact=True)).to_be_visible()
    for each in (page, other):
        each.get_by_role("button", name="Start training", exact=True).click(no_wait_after=True)
    for each in (page, other):
        expect(each.locator("#ck-result")).to_contain_text(re.compile("is starting|is already training"))
    told = sorted("starting" in each.locator("#ck-result").inner_text() for each in (page, other))
    assert told == [False, True]
    expect(page.locator(".ck-training .ck-badge")).to_have_text("Training")
    expect(other.locator(".ck-training .ck-badge")).to_have_text("Training")
    context.close()


def test_resume_now_writes_the_script_and_trains(server: Server, open_tab: OpenTab) -> None:
    run = run_of(server)
    page = open_tab(server)
    start(page)
    until(lambda: list(run.glob("*-0*-state/random_states_0.pkl")))
    page.get_by_role("button", name="Stop training").click()
    page.get_by_role("button", name="Yes, do it").click()
    expect(page.locator(".ck-training .ck-badge")).to_have_text("Stopped")
    page.get_by_role("button", name="Refresh").click()
    expect(page.get_by_role("button", name="Resume now")).to_be_enabled()
    assert "--resume" not in (run / "train.sh").read_text()

    page.get_by_role("button", name="Resume now").click()

    expect(page.locator("#ck-result")).to_contain_text("The training is starting.")
    assert "--resume" in (run / "train.sh").read_text()
    expect(page.locator(".ck-training")).to_contain_text("resumed from soaked-cat-")
    expect(page.get_by_role("button", name="Undo", exact=True)).to_be_visible()


def test_a_bad_save_is_told_while_it_trains_and_the_box_is_heeded(server: Server, open_tab: OpenTab) -> None:
    run = run_of(server)
    page = open_tab(server)
    start(page)
    bad = run / "other-000001-state"
    until(lambda: len(list(run.glob("*-0*-state"))) >= 3)
    # Neither the newest, which may be being written, nor the oldest, which may be being removed.
    shutil.copytree(sorted(run.glob("*-0*-state"))[1], run / "copying")
    truncate(run / "copying" / "optimizer.bin")
    age(run / "copying", 3600)  # else it is taken for a save that is going on
    (run / "copying").rename(bad)

    expect(page.locator(".ck-training .ck-notice.ck-bad").first).to_contain_text(
        "other-000001-state) failed its check"
    )
    expect(page.locator(".ck-training .ck-badge")).to_have_text("Training")
    page.get_by_label("Restart automatically after a crash").uncheck()
    page.get_by_text("Event log").click()
    expect(page.locator(".ck-journal")).to_contain_text("It will not restart automatically after a crash")


def test_room_is_made_item_by_item_after_a_question(server: Server, open_tab: OpenTab) -> None:
    run = run_of(server)
    page = open_tab(server)
    start(page)
    until(lambda: len(list(run.glob("*-0*-state/random_states_0.pkl"))) >= 3)
    page.get_by_role("button", name="Stop training").click()
    page.get_by_role("button", name="Yes, do it").click()
    expect(page.locator(".ck-training .ck-badge")).to_have_text("Stopped")
    page.get_by_role("button", name="Refresh").click()
    page.get_by_text("Disk space").click()
    # The trainer's own retention may have removed one that was offered before: the oldest that is left is meant.
    oldest = min(int(path.name.split("-")[-2]) for path in run.glob("*-0*-state"))
    box = page.get_by_role("checkbox", name=re.compile(rf"^Epoch {oldest} \("))
    expect(box.first).to_be_visible()
    before = {path.name for path in run.glob("*-state")}
    box.first.check()
    page.get_by_role("button", name="Remove the ticked checkpoints").click()
    expect(page.locator("#ck-result")).to_contain_text("This cannot be undone.")
    assert {path.name for path in run.glob("*-state")} == before
    page.get_by_role("button", name="Yes, do it").click()

    expect(page.locator("#ck-result")).to_contain_text("1 checkpoint was removed")
    after = {path.name for path in run.glob("*-state")}
    assert len(before - after) == 1


def test_a_log_of_a_million_lines_is_shown_by_its_end(server: Server, open_tab: OpenTab) -> None:
    run = run_of(server)
    page = open_tab(server)
    start(page)
    with (run / ".training" / "train.log").open("ab") as log:
        line = "\rsteps:  1%|▏| 9/3200 [00:06<00:10,  1.37it/s, avr_loss=1.55] 学習 {}\n"
        for start_at in range(0, 1_000_000, 10_000):
            log.write("".join(line.format(n) for n in range(start_at, start_at + 10_000)).encode())
    page.get_by_text("Log", exact=True).click()
    expect(page.locator(".ck-log")).to_contain_text("学習 999999")
    assert len(page.locator(".ck-log pre").inner_text().splitlines()) <= 200
    expect(page.locator(".ck-training .ck-badge")).to_have_text("Training")
    refresh_quietly(page)
    expect(page.locator(".ck-table")).to_be_visible()
