"""Two things at once: a refresh under the user's hand, a long reading, another page, a disk that changes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.browser.conftest import AddRun, OpenTab, Server, pick, refresh_quietly, resume_button, row, select
from tests.browser.test_standalone import SECOND, make_large

FIRST = "tiny-lora-000001-state"


def test_a_long_reading_leaves_the_user_where_he_went(
    alone: Server, open_tab: OpenTab, add_run: AddRun
) -> None:
    run = add_run(alone, "read-for-long")
    make_large(run / SECOND / "model.safetensors", gigabytes=8)
    page = open_tab(alone)
    pick(page, run.name)
    select(page, SECOND)
    page.get_by_role("button", name="Verify every byte").click()
    expect(page.locator("#ck-root progress")).to_be_visible()
    select(page, FIRST)

    page.get_by_role("button", name="Cancel").click()

    expect(page.locator("#ck-root")).to_contain_text("Cancelled. Nothing was changed.")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(row(page, FIRST)).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".ck-title .ck-quiet")).to_have_text(FIRST)


#: Looks at every frame how faint the faintest part is, and counts what Gradio lays over one.
_WATCH_PARTS = """() => {
  window.faintest = 1;
  window.covered = 0;
  const look = () => {
    for (const it of document.querySelectorAll("#ck-root .ck-part, #ck-root .ck-part div")) {
      const over = it.closest(".wrap");
      if (over && over.closest(".ck-part")) continue;
      window.faintest = Math.min(window.faintest, Number(getComputedStyle(it).opacity));
    }
    window.covered += document.querySelectorAll("#ck-root .ck-part .wrap:not(.hide)").length;
    requestAnimationFrame(look);
  };
  look();
}"""


def test_selecting_refreshing_and_polling_fade_nothing(
    alone: Server, open_tab: OpenTab, add_run: AddRun
) -> None:
    run = add_run(alone, "never faint")
    page = open_tab(alone)
    pick(page, run.name)
    page.evaluate(_WATCH_PARTS)

    select(page, FIRST)
    page.get_by_role("button", name="Refresh").click()
    refresh_quietly(page)
    for _ in range(3):
        page.evaluate("document.getElementById('ck-live').click()")
        page.evaluate("new Promise((done) => setTimeout(done, 400))")
    select(page, SECOND)

    assert page.evaluate("[window.faintest, window.covered]") == [1, 0]


def test_the_picker_says_of_a_run_what_its_headline_says(
    alone: Server, open_tab: OpenTab, add_run: AddRun
) -> None:
    run = add_run(alone, "in step")
    page = open_tab(alone)
    pick(page, run.name)
    field = page.locator("#ck-root").get_by_label("Run")
    before = field.input_value()
    for state in run.glob("*-state"):
        (state / "optimizer.bin").write_bytes(b"")

    # No refresh: another row alone brings the news.
    row(page, FIRST).click()

    expect(page.locator(".ck-headline").first).not_to_contain_text("can be resumed")
    expect(field).not_to_have_value(before)


def test_a_question_that_is_declined_leaves_undo(alone: Server, open_tab: OpenTab, add_run: AddRun) -> None:
    run = add_run(alone, "declined")
    before = (run / "train.sh").read_bytes()
    page = open_tab(alone)
    asked_to_start_fresh(page, run)
    undo = page.get_by_role("button", name="Undo", exact=True)
    expect(undo).to_be_hidden()

    page.get_by_role("button", name="No, keep it").click()
    expect(page.locator("#ck-result")).to_contain_text("Nothing more was changed")
    undo.click()

    expect(page.locator("#ck-result")).to_contain_text("train.sh is as it was before")
    assert (run / "train.sh").read_bytes() == before


def test_undo_does_not_follow_to_another_run(alone: Server, open_tab: OpenTab, add_run: AddRun) -> None:
    run, other = add_run(alone, "undone here"), add_run(alone, "not there")
    (other / "train.sh").write_bytes((run / "train.sh").read_bytes().rstrip(b"\n \\") + b" --resume x\n")
    page = open_tab(alone)
    pick(page, run.name)
    resume_button(page).click()
    expect(page.get_by_role("button", name="Undo", exact=True)).to_be_visible()
    pick(page, other.name)
    page.get_by_role("button", name="Start fresh").click()

    page.get_by_role("button", name="No, keep it").click()

    expect(page.get_by_role("button", name="No, keep it")).to_be_hidden()
    expect(page.get_by_role("button", name="Undo", exact=True)).to_be_hidden()
    expect(page.locator("#ck-result")).to_have_text("")


def test_a_poll_says_nothing_in_the_console(alone: Server, open_tab: OpenTab, page: Page) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    open_tab(alone)
    refresh_quietly(page)
    page.evaluate("document.getElementById('ck-live').click()")
    page.evaluate("new Promise((done) => setTimeout(done, 1500))")
    page.evaluate("console.warn('another warning')")

    assert not [text for text in said if "Too many arguments" in text]
    assert "another warning" in said


def asked_to_start_fresh(page: Page, run: Path) -> Locator:
    """Resume a run, press “Start fresh”, and wait for its question; gives the button that says yes."""
    pick(page, run.name)
    resume_button(page).click()
    expect(page.locator("#ck-result")).to_contain_text("now resumes")
    page.get_by_role("button", name="Start fresh").click()
    yes = page.get_by_role("button", name="Yes, remove --resume")
    expect(yes).to_be_visible()
    return yes


def test_a_question_does_not_outlive_its_run(alone: Server, open_tab: OpenTab, add_run: AddRun) -> None:
    run = add_run(alone, "asked")
    page = open_tab(alone)
    yes = asked_to_start_fresh(page, run)

    pick(page, "resumed-once")

    expect(yes).to_be_hidden()
    expect(page.locator("#ck-result")).to_have_text("")


def test_starting_fresh_is_refused_when_the_script_changed_after_the_question(
    alone: Server, open_tab: OpenTab, add_run: AddRun
) -> None:
    run = add_run(alone, "asked-and-changed")
    page = open_tab(alone)
    yes = asked_to_start_fresh(page, run)
    edited = (run / "train.sh").read_bytes().replace(b"--seed 42", b"--seed 43")
    (run / "train.sh").write_bytes(edited)

    yes.click()

    expect(page.locator("#ck-result")).to_contain_text("was changed after it was shown")
    assert (run / "train.sh").read_bytes() == edited


def test_of_two_pages_the_second_is_shown_what_the_first_did(
    alone: Server, open_tab: OpenTab, add_run: AddRun, browser: Browser
) -> None:
    run = add_run(alone, "two-pages")
    page = open_tab(alone)
    context = browser.new_context()
    other = context.new_page()
    other.goto(alone.url, wait_until="domcontentloaded")
    expect(other.locator(".ck-headline").first).to_be_visible()
    for each, state in ((page, SECOND), (other, FIRST)):
        pick(each, run.name)
        select(each, state)
        expect(each.locator(".ck-diff .ck-add").last).to_contain_text(state)
    resume_button(page).click()
    expect(page.locator("#ck-result")).to_contain_text("now resumes from epoch 2")
    written = (run / "train.sh").read_bytes()

    resume_button(other).click()

    expect(other.locator("#ck-result")).to_contain_text("was changed after it was shown")
    expect(other.locator(".ck-diff .ck-del").last).to_contain_text(SECOND)
    assert (run / "train.sh").read_bytes() == written
    context.close()


def test_a_refresh_leaves_the_picker_to_the_user(alone: Server, open_tab: OpenTab) -> None:
    page = open_tab(alone)
    pick(page, "resumed-once")
    refresh_quietly(page)
    field = page.locator("#ck-root").get_by_label("Run")
    field.click()
    field.press("Control+a")
    field.press_sequentially("killed-in")
    expect(page.get_by_role("option")).to_have_count(2)
    with page.expect_response(lambda answer: "queue/join" in answer.url):
        refresh_quietly(page)
    # The page's own next event is answered after the refresh was.
    page.get_by_role("columnheader", name="Size").get_by_role("button").dispatch_event("click")
    expect(page.get_by_role("columnheader", name="Size")).to_have_attribute("aria-sort", "descending")

    expect(field).to_have_value("killed-in")
    expect(page.get_by_role("option")).to_have_count(2)


def test_a_choice_that_the_picker_tells_twice_is_heeded_once(
    alone: Server, open_tab: OpenTab, add_run: AddRun
) -> None:
    run = add_run(alone, "told-twice")
    page = open_tab(alone)
    seen: list[int] = []
    held: list[Route] = []

    def hold_the_second(route: Route) -> None:
        sent = json.loads(route.request.post_data or "{}")
        if run.name in sent["data"]:
            seen.append(sent["fn_index"])
        if not held and len(seen) == 2 and seen[0] == sent["fn_index"]:
            held.append(route)
        else:
            route.continue_()

    page.route("**/queue/join*", hold_the_second)
    pick(page, run.name)
    select(page, SECOND)
    resume_button(page).click()
    expect(page.locator("#ck-result")).to_contain_text("now resumes from epoch 2")
    for late in held:
        late.continue_()
    # The page's own next event is answered after the late one was.
    page.get_by_role("columnheader", name="Size").get_by_role("button").click()
    expect(page.get_by_role("columnheader", name="Size")).to_have_attribute("aria-sort", "descending")

    expect(page.locator("#ck-result")).to_contain_text("now resumes from epoch 2")
    expect(row(page, SECOND)).to_have_attribute("aria-pressed", "true")


@contextmanager
def refresh_on_its_way(page: Page) -> Iterator[None]:
    """A quiet refresh that the page has sent before the block, and the server gets after it."""
    held: list[Route] = []
    page.route("**/queue/join*", lambda route: held.append(route) if not held else route.continue_())
    with page.expect_request(lambda request: "queue/join" in request.url):
        refresh_quietly(page)
    yield
    with page.expect_response(lambda answer: answer.request == held[0].request):
        held[0].continue_()


WATCH_THE_TABLE = """
window.runsShown = new Set();
new MutationObserver(() => window.runsShown.add(document.querySelector("#ck-root .ck-table")?.dataset.ckRun))
  .observe(document.getElementById("ck-root"), { childList: true, subtree: true, attributes: true });
"""


def test_a_refresh_that_was_under_way_does_not_bring_the_old_choice_back(
    alone: Server, open_tab: OpenTab, add_run: AddRun
) -> None:
    run = add_run(alone, "chosen-meanwhile")
    page = open_tab(alone)
    pick(page, "killed-in-optimizer")
    with refresh_on_its_way(page):
        pick(page, run.name)
        select(page, SECOND)
        page.evaluate(WATCH_THE_TABLE)
    # The page's own next event is answered after the refresh was.
    page.get_by_role("columnheader", name="Size").get_by_role("button").click()
    expect(page.get_by_role("columnheader", name="Size")).to_have_attribute("aria-sort", "descending")

    expect(page.locator("#ck-root").get_by_label("Run")).to_have_value(re.compile("^chosen-meanwhile "))
    assert page.evaluate("[...window.runsShown]") == [run.name]
    expect(row(page, SECOND)).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".ck-title .ck-quiet")).to_have_text(SECOND)


def test_a_run_that_disappears_gives_way_to_another(
    alone: Server, open_tab: OpenTab, add_run: AddRun
) -> None:
    run = add_run(alone, "vanishing")
    page = open_tab(alone)
    pick(page, run.name)
    resume_button(page).click()
    expect(page.get_by_role("button", name="Undo")).to_be_visible()
    shutil.rmtree(run)

    refresh_quietly(page)

    expect(page.locator("#ck-root .ck-table")).not_to_have_attribute("data-ck-run", run.name)
    expect(page.get_by_role("button", name="Undo")).to_be_hidden()
    expect(page.locator("#ck-root")).not_to_contain_text("Error")


def test_pressing_on_a_run_that_is_gone_says_so(alone: Server, open_tab: OpenTab, add_run: AddRun) -> None:
    run = add_run(alone, "gone-when-pressed")
    page = open_tab(alone)
    pick(page, run.name)
    expect(resume_button(page)).to_be_enabled()
    shutil.rmtree(run)

    resume_button(page).click()

    expect(page.locator("#ck-result")).to_contain_text("There is no run “gone-when-pressed”")


def scroll_of(page: Page) -> float:
    return float(page.evaluate("window.scrollY"))


def test_a_refresh_moves_neither_the_page_nor_the_focus(
    alone: Server, open_tab: OpenTab, add_run: AddRun, tmp_path: Path
) -> None:
    run = add_run(alone, "steady")
    shutil.move(run / "tiny-lora-000003-state", tmp_path / "later")
    page = open_tab(alone)
    page.set_viewport_size({"width": 1280, "height": 400})
    pick(page, run.name)
    select(page, SECOND)
    row(page, FIRST).focus()
    page.evaluate("window.scrollTo(0, 150)")
    shutil.move(tmp_path / "later", run / "tiny-lora-000003-state")

    refresh_quietly(page)

    expect(row(page, "tiny-lora-000003-state")).to_be_visible()
    expect(row(page, FIRST)).to_be_focused()
    assert scroll_of(page) == 150


def test_the_keyboard_never_lands_on_what_is_hidden(alone: Server, open_tab: OpenTab) -> None:
    page = open_tab(alone)
    pick(page, "resumed-once")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.closest('[id^=ck-]')?.id ?? ''"))

    assert "ck-root" in reached
    assert reached.isdisjoint({"ck-poll", "ck-selected", "ck-sort"})
