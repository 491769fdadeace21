"""Repairs and recovery options, on the page: shown, asked, done, reverted."""

from __future__ import annotations

import json
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import AddRun, OpenTab, Server, pick, refresh_quietly, resume_button, row, select
from tests.damage import add_custom_checkpoint, remove, truncate
from tests.fake_accelerate import FakeAccelerate, trainer_reads
from tests.world import age

SECOND, THIRD, LAST = "tiny-lora-000002-state", "tiny-lora-000003-state", "tiny-lora-state"


def repair_button(page: Page) -> Locator:
    return page.get_by_role("button", name="Repair and resume", exact=True)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def badge(page: Page, name: str) -> Locator:
    return row(page, name).locator(".ck-badge")


def test_repair_and_resume_then_undo(
    alone: Server, open_tab: OpenTab, add_run: AddRun, tmp_path: Path
) -> None:
    run = add_run(alone, "to-be-repaired")
    truncate(run / LAST / "scheduler.bin")
    add_custom_checkpoint(run / LAST)
    age(run / LAST / "custom_checkpoint_0.pkl", 3600)  # else it looks like a save that is going on
    broken, script = bytes_of(run / LAST), (run / "train.sh").read_bytes()
    page = open_tab(alone)
    pick(page, run.name)
    select(page, LAST)
    expect(resume_button(page)).to_be_disabled()
    preview = page.locator(".ck-preview").filter(has_text="Repair and resume")
    expect(preview).to_contain_text("scheduler.bin (")
    expect(preview).to_contain_text("custom_checkpoint_0.pkl is set aside")
    expect(preview).to_contain_text("Nothing of the training is lost.")
    expect(preview.locator(".ck-diff .ck-add").last).to_contain_text(LAST)

    repair_button(page).click()

    result = page.locator("#ck-result")
    expect(result).to_contain_text("Repaired. The train script now resumes from epoch 4.")
    expect(badge(page, LAST)).to_have_text("Ready")
    arguments = FakeAccelerate(tmp_path / "bash").arguments((run / "train.sh").read_bytes())
    assert trainer_reads(arguments)[0] == str(run / LAST)
    assert not (run / LAST / "custom_checkpoint_0.pkl").exists()
    (record,) = json.loads((run / "repairs.json").read_bytes())["repairs"]
    assert (record["state"], record["status"]) == (LAST, "applied")

    page.get_by_role("button", name="Undo", exact=True).click()

    expect(result).to_contain_text("is as it was before the repair")
    expect(badge(page, LAST)).to_have_text("Needs a fix")
    assert bytes_of(run / LAST) == broken
    assert (run / "train.sh").read_bytes() == script


def test_a_repair_can_be_taken_back_after_a_reload(alone: Server, open_tab: OpenTab, add_run: AddRun) -> None:
    run = add_run(alone, "repaired-before")
    remove(run / LAST / "scheduler.bin")
    broken = bytes_of(run / LAST)
    page = open_tab(alone)
    pick(page, run.name)
    select(page, LAST)
    repair_button(page).click()
    expect(page.locator("#ck-result")).to_contain_text("Repaired.")

    page = open_tab(alone)
    pick(page, run.name)
    select(page, LAST)
    page.locator(".ck-repaired summary").click()
    page.get_by_role("button", name="Undo this repair").click()
    expect(page.locator("#ck-result")).to_contain_text(
        "This brings back as it was before: scheduler.bin, train.sh."
    )
    page.get_by_role("button", name="Yes, do it").click()

    expect(page.locator("#ck-result")).to_contain_text("is as it was before the repair")
    assert bytes_of(run / LAST) == broken


def choose(page: Page, option: str) -> None:
    page.locator(".ck-way").filter(has_text=option).get_by_role("button").click()


def test_the_recommended_way_is_shown_whole_and_asked_for(
    alone: Server, open_tab: OpenTab, add_run: AddRun
) -> None:
    run = add_run(alone, "finished", epochs=4)
    script = (run / "train.sh").read_bytes()
    page = open_tab(alone)
    pick(page, run.name)
    first = page.locator(".ck-way").first
    expect(first).to_contain_text("Train 8 more epochs from epoch 4 on")
    expect(first.locator(".ck-badge")).to_have_text("Recommended")
    page.get_by_role("button", name="Options").click()
    field = page.get_by_label("Epochs to add to a finished training")
    expect(field).to_have_value("8")
    field.fill("5")
    field.press("Tab")
    expect(first).to_contain_text("Train 5 more epochs from epoch 4 on")

    choose(page, "Train 5 more epochs")
    expect(page.locator("#ck-result .ck-add").first).to_contain_text('--max_train_epochs "9"')
    page.get_by_role("button", name="No, keep it").click()
    expect(page.locator("#ck-result")).to_have_text("")
    assert (run / "train.sh").read_bytes() == script

    choose(page, "Train 5 more epochs")
    page.get_by_role("button", name="Yes, do it").click()
    expect(page.locator("#ck-result")).to_contain_text("now resumes from epoch 4")
    assert b'--max_train_epochs "9"' in (run / "train.sh").read_bytes()


def test_the_only_checkpoint_is_damaged(alone: Server, open_tab: OpenTab, add_run: AddRun) -> None:
    run = add_run(alone, "only-one")
    for name in ("tiny-lora-000001-state", SECOND, THIRD):
        remove(run / name)
    truncate(run / LAST / "optimizer.bin")
    page = open_tab(alone)
    pick(page, run.name)

    expect(page.locator(".ck-ways")).to_contain_text("the only checkpoint is damaged beyond repair")
    choose(page, "Start from the LoRA file of epoch 4")
    expect(page.locator("#ck-result")).to_contain_text("--network_weights")
    page.get_by_role("button", name="Yes, do it").click()
    expect(page.locator("#ck-result")).to_contain_text("Done: start from the LoRA file of epoch 4.")
    written = (run / "train.sh").read_bytes()
    assert f'--network_weights "{run}/tiny-lora.safetensors"'.encode() in written
    assert b'--initial_epoch "5"' in written
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(page.locator("#ck-result")).to_contain_text("train.sh is as it was before")


def test_what_changed_since_it_was_shown_is_not_repaired(
    alone: Server, open_tab: OpenTab, add_run: AddRun
) -> None:
    run = add_run(alone, "repair-changed")
    remove(run / LAST / "scheduler.bin")
    page = open_tab(alone)
    pick(page, run.name)
    select(page, LAST)
    expect(repair_button(page)).to_be_visible()
    truncate(run / LAST / "optimizer.bin")
    before = bytes_of(run / LAST)

    repair_button(page).click()

    expect(page.locator("#ck-result")).to_contain_text(
        "was changed after it was shown here; nothing was repaired"
    )
    assert bytes_of(run / LAST) == before
    refresh_quietly(page)
    expect(repair_button(page)).to_be_hidden()
