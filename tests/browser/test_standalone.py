"""The whole path on the page alone: pick, select, resume, verify, start fresh, download."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import AddRun, OpenTab, Server, pick, refresh_quietly, resume_button, row, select
from tests.fake_accelerate import BASH, FakeAccelerate, trainer_reads

SECOND = "tiny-lora-000002-state"


def resumed_path(script: Path, folder: Path) -> str | None:
    """What the trainer is handed for ``--resume`` when the real bash runs the script."""
    folder.mkdir()
    return trainer_reads(FakeAccelerate(folder).arguments(script.read_bytes()))[0]


def test_the_headline_says_the_one_thing_to_know(alone: Server, open_tab: OpenTab) -> None:
    page = open_tab(alone)
    pick(page, "killed-in-optimizer")

    headline = page.locator(".ck-headline").first
    expect(headline).to_contain_text("Epoch 1 is ready. Epoch 2, the latest, is damaged: ")
    expect(page.locator(".ck-row")).to_have_count(2)


def test_the_newest_that_resumes_is_selected_at_first(alone: Server, open_tab: OpenTab) -> None:
    page = open_tab(alone)
    pick(page, "resumed-once")

    expect(page.locator(".ck-title")).to_contain_text("Epoch 2")
    expect(row(page, SECOND)).to_have_attribute("aria-pressed", "true")
    expect(resume_button(page)).to_be_enabled()


def test_resume_undo_and_the_script_in_between(
    alone: Server, open_tab: OpenTab, add_run: AddRun, tmp_path: Path
) -> None:
    run = add_run(alone, "it's $HOME & `more` (1)")
    before = (run / "train.sh").read_bytes()
    page = open_tab(alone)
    pick(page, run.name)
    select(page, SECOND)
    expect(page.locator(".ck-diff .ck-add").last).to_contain_text("--resume")

    resume_button(page).click()

    result = page.locator("#ck-result")
    expect(result).to_contain_text("The train script now resumes from epoch 2.")
    expect(result).to_contain_text(f"run this in {alone.root}")
    expect(result.locator(".ck-command")).to_contain_text("bash ")
    assert resumed_path(run / "train.sh", tmp_path / "bash") == str(run / SECOND)
    assert (run / "train.sh.bak").read_bytes() == before
    expect(page.locator(".ck-preview")).to_contain_text("already resumes from this checkpoint")

    page.get_by_role("button", name="Undo").click()

    expect(result).to_contain_text("train.sh is as it was before")
    assert (run / "train.sh").read_bytes() == before


def test_the_command_that_is_shown_starts_the_training(
    alone: Server, open_tab: OpenTab, add_run: AddRun, tmp_path: Path
) -> None:
    run = add_run(alone, "the command")
    page = open_tab(alone)
    pick(page, run.name)
    resume_button(page).click()
    command = page.locator("#ck-result .ck-command").inner_text()

    stand_in = FakeAccelerate(tmp_path / "bash")
    assert command.startswith("bash ")
    arguments = stand_in.arguments(f'cd "{alone.root}"\n{BASH}{command.removeprefix("bash")}\n'.encode())

    assert "sd-scripts/flux_train_network.py" in arguments


def test_start_fresh_asks_first_and_can_be_declined(
    alone: Server, open_tab: OpenTab, add_run: AddRun
) -> None:
    run = add_run(alone, "start-fresh")
    original = (run / "train.sh").read_bytes()
    page = open_tab(alone)
    pick(page, run.name)
    resume_button(page).click()
    expect(page.locator("#ck-result")).to_contain_text("now resumes")
    resuming = (run / "train.sh").read_bytes()

    page.get_by_role("button", name="Start fresh").click()
    expect(page.locator("#ck-result .ck-del").last).to_contain_text("--resume")
    page.get_by_role("button", name="No, keep it").click()
    expect(page.get_by_role("button", name="No, keep it")).to_be_hidden()
    assert (run / "train.sh").read_bytes() == resuming

    page.get_by_role("button", name="Start fresh").click()
    page.get_by_role("button", name="Yes, remove --resume").click()
    expect(page.locator("#ck-result")).to_contain_text("--resume is gone")
    assert (run / "train.sh").read_bytes() == original


@pytest.mark.parametrize(
    ("run", "state", "reason"),
    [
        ("killed-while-overwriting", SECOND, "It is damaged; choose another checkpoint."),
        ("resumed-once", "tiny-lora-000004-state", "It needs a fix first; see above."),
    ],
)
def test_what_does_not_resume_disables_the_button_and_says_why(
    alone: Server, open_tab: OpenTab, run: str, state: str, reason: str
) -> None:
    page = open_tab(alone)
    pick(page, run)
    select(page, state)

    expect(resume_button(page)).to_be_disabled()
    expect(page.locator("#ck-refusal")).to_contain_text(reason)
    expect(page.locator(".ck-finding").first).to_contain_text("What to do")


def test_a_script_that_changed_meanwhile_is_not_overwritten(
    alone: Server, open_tab: OpenTab, add_run: AddRun
) -> None:
    run = add_run(alone, "changed-meanwhile")
    page = open_tab(alone)
    pick(page, run.name)
    expect(resume_button(page)).to_be_enabled()
    edited = (run / "train.sh").read_bytes().replace(b"--seed 42", b"--seed 43")
    (run / "train.sh").write_bytes(edited)

    resume_button(page).click()

    expect(page.locator("#ck-result")).to_contain_text("was changed after it was shown")
    assert (run / "train.sh").read_bytes() == edited
    resume_button(page).click()
    expect(page.locator("#ck-result")).to_contain_text("now resumes")
    assert b"--seed 43" in (run / "train.sh").read_bytes()


def test_the_keyboard_selects_and_keeps_its_place(alone: Server, open_tab: OpenTab) -> None:
    page = open_tab(alone)
    pick(page, "resumed-once")
    expect(page.locator(".ck-row")).to_have_count(6)
    row(page, SECOND).focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")

    expect(page.locator(".ck-title")).to_contain_text("Epoch 3")
    expect(row(page, "tiny-lora-000003-state")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(page.locator(".ck-title")).to_contain_text("Epoch 2")


@pytest.mark.parametrize("heading", ["Epoch", "Checkpoint", "Step", "Saved"])
def test_headings_sort_both_ways(alone: Server, open_tab: OpenTab, heading: str) -> None:
    page = open_tab(alone)
    pick(page, "resumed-once")
    expect(page.locator(".ck-row")).to_have_count(6)
    first = page.locator(".ck-row").first

    for direction in sort_by(page, heading):
        newest_first = direction == "descending"
        expect(first).to_have_attribute(
            "data-ck-value", "tiny-lora-state" if newest_first else "tiny-lora-000001-state"
        )


def sort_by(page: Page, heading: str) -> Iterator[str]:
    """Press a heading twice; gives the direction after each press."""
    head = page.get_by_role("columnheader", name=re.compile(f"^{heading}"))
    for _ in range(2):
        before = head.get_attribute("aria-sort")
        head.get_by_role("button").click()
        expect(head).not_to_have_attribute("aria-sort", before or "")
        yield head.get_attribute("aria-sort") or ""


def test_the_state_heading_brings_the_best_or_the_worst_to_the_top(alone: Server, open_tab: OpenTab) -> None:
    page = open_tab(alone)
    pick(page, "resumed-once")
    expect(page.locator(".ck-row")).to_have_count(6)

    for direction in sort_by(page, "State"):
        word = "Needs a fix" if direction == "descending" else "Ready"
        expect(page.locator(".ck-row .ck-badge").first).to_have_text(word)


def test_a_refresh_shows_what_is_new_and_keeps_selection_and_sort(
    alone: Server, open_tab: OpenTab, add_run: AddRun
) -> None:
    run = add_run(alone, "growing")
    shutil.move(run / "tiny-lora-000003-state", alone.root / "later")
    page = open_tab(alone)
    pick(page, run.name)
    select(page, "tiny-lora-000001-state")
    page.get_by_role("columnheader", name=re.compile("^Saved")).get_by_role("button").click()
    expect(page.get_by_role("columnheader", name=re.compile("^Saved"))).to_have_attribute(
        "aria-sort", "descending"
    )
    shutil.move(alone.root / "later", run / "tiny-lora-000003-state")

    refresh_quietly(page)

    expect(row(page, "tiny-lora-000003-state")).to_be_visible()
    expect(row(page, "tiny-lora-000001-state")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("columnheader", name=re.compile("^Saved"))).to_have_attribute(
        "aria-sort", "descending"
    )


def test_a_checkpoint_that_disappears_gives_way_to_the_best_that_is_left(
    alone: Server, open_tab: OpenTab, add_run: AddRun
) -> None:
    run = add_run(alone, "shrinking")
    page = open_tab(alone)
    pick(page, run.name)
    select(page, "tiny-lora-000003-state")
    shutil.rmtree(run / "tiny-lora-000003-state")

    refresh_quietly(page)

    expect(row(page, "tiny-lora-000003-state")).to_have_count(0)
    expect(page.locator('.ck-row[aria-pressed="true"]')).to_have_count(1)


def test_verifying_tells_that_every_byte_is_right(alone: Server, open_tab: OpenTab) -> None:
    page = open_tab(alone)
    pick(page, "accelerate-1.6.0-adafactor")
    select(page, SECOND)
    page.get_by_role("button", name="Verify every byte").click()

    told = page.locator(".ck-panel details").filter(has_text="Good to know").first
    expect(told).to_contain_text("equal tiny-lora-000002.safetensors to the bit")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()


def test_verifying_finds_a_flipped_byte(alone: Server, open_tab: OpenTab, add_run: AddRun) -> None:
    run = add_run(alone, "flipped")
    weights = run / SECOND / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 0x40
    weights.write_bytes(data)
    page = open_tab(alone)
    pick(page, run.name)
    select(page, SECOND)
    page.get_by_role("button", name="Verify every byte").click()

    expect(page.locator(".ck-finding").first).to_contain_text("weights-differ-from-lora")
    expect(resume_button(page)).to_be_disabled()


def test_verifying_can_be_cancelled(alone: Server, open_tab: OpenTab, add_run: AddRun) -> None:
    run = add_run(alone, "large")
    make_large(run / SECOND / "model.safetensors", gigabytes=8)
    page = open_tab(alone)
    pick(page, run.name)
    select(page, SECOND)
    page.get_by_role("button", name="Verify every byte").click()
    expect(page.locator("#ck-root progress")).to_be_visible()

    page.get_by_role("button", name="Cancel").click()

    expect(page.locator("#ck-root")).to_contain_text("Cancelled. Nothing was changed.")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()


def make_large(weights: Path, gigabytes: int) -> None:
    """A valid weights file with holes, so that it costs no disk and takes seconds to read."""
    count, length = gigabytes * 256, 1 << 20
    entries = {
        f"lora_unet_x_{index}.lora_down.weight": {
            "dtype": "F32",
            "shape": [4, length // 4],
            "data_offsets": [index * 4 * length, (index + 1) * 4 * length],
        }
        for index in range(count)
    }
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with weights.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + count * 4 * length)


def test_the_diagnosis_downloads_as_a_zip_that_opens(alone: Server, open_tab: OpenTab) -> None:
    page = open_tab(alone)
    pick(page, "killed-while-overwriting")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download diagnosis").click()

    download = waiting.value
    assert download.suggested_filename.startswith("killed-while-overwriting-diagnosis-")
    with zipfile.ZipFile(io.BytesIO(Path(download.path()).read_bytes())) as archive:
        names = archive.namelist()
        report = json.loads(archive.read(next(name for name in names if name.endswith("diagnosis.json"))))
        text = archive.read(next(name for name in names if name.endswith("diagnosis.md"))).decode()
    assert "mixed-saves" in json.dumps(report)
    assert "Epoch 1 is ready" in text


NASTY = """<img src=x onerror="window.harmed=1"> & "quotes" 'n' <b>bold<b>"""


def test_names_from_the_disk_are_text(
    alone: Server, open_tab: OpenTab, add_run: AddRun, tmp_path: Path
) -> None:
    run = add_run(alone, NASTY)
    (run / SECOND).rename(run / f"{NASTY}-000002-state")
    page = open_tab(alone)
    pick(page, NASTY)
    page.locator(".ck-row").filter(has_text=NASTY).click()
    expect(page.locator(".ck-title")).to_contain_text(NASTY)
    resume_button(page).click()
    expect(page.locator("#ck-result")).to_contain_text("now resumes")

    assert resumed_path(run / "train.sh", tmp_path / "bash") == str(run / f"{NASTY}-000002-state")
    assert page.evaluate("window.harmed") is None
    assert page.locator("#ck-root b").count() == 0


def test_a_name_that_is_no_utf_8_does_no_harm(alone: Server, open_tab: OpenTab, add_run: AddRun) -> None:
    try:
        add_run(alone, "caf\udce9")
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system takes no names that are no UTF-8")
    page = open_tab(alone)
    pick(page, "caf\\udce9")

    expect(page.locator(".ck-headline").first).to_contain_text("ready")


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_scrolls_sideways(alone: Server, open_tab: OpenTab, width: int) -> None:
    page = open_tab(alone)
    page.set_viewport_size({"width": width, "height": 800})
    for run in ("killed-while-overwriting", "resumed-once"):
        pick(page, run)
        expect(page.locator(".ck-row").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        for button in ("Refresh", "Resume from this checkpoint", "Download diagnosis"):
            box = page.get_by_role("button", name=button).bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width


CONTRAST = """(selector) => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (it) => {
    for (let at = it; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length && (colour.length < 4 || colour[3] > 0.99)) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll(selector)].map((it) => {
    const a = light(parse(getComputedStyle(it).color)), b = light(behind(it));
    return [it.textContent.trim().slice(0, 40), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  });
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_can_be_read_in_both_themes(alone: Server, page: Page, theme: str) -> None:
    page.goto(f"{alone.url}/?__theme={theme}", wait_until="domcontentloaded")
    expect(page.locator(".ck-headline").first).to_be_visible()
    for run in ("killed-while-overwriting", "resumed-once"):
        pick(page, run)
        expect(page.locator(".ck-row").first).to_be_visible()
        measured = page.evaluate(
            CONTRAST, "#ck-root .ck-badge, #ck-root .ck-quiet, #ck-root .ck-headline, #ck-root dt"
        )
        assert [item for item in measured if item[0] and item[1] < 4.5] == []


def test_the_layout_can_be_chosen(alone: Server, open_tab: OpenTab) -> None:
    page = open_tab(alone)
    pick(page, "accelerate-1.6.0-adafactor")
    expect(page.locator(".ck-table caption")).to_contain_text("sd-scripts (from the trainer in train.sh)")
    page.get_by_role("button", name="Options").click()
    page.get_by_label("Judge checkpoints by the files of").click()
    page.get_by_role("option").filter(has_text="accelerate with registered objects").click()

    expect(page.locator(".ck-table caption")).to_contain_text("accelerate-objects (chosen by you)")
    expect(page.locator(".ck-headline").first).to_contain_text("custom_checkpoint_0.pkl is missing")
