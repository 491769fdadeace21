"""install: the two lines in app.py, on the stand-in's text, with one thing changed at a time."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoint_core.tab.host.install import (
    INSTALLED_MARK,
    MARK,
    AppNotRecognised,
    install,
    installed,
    uninstall,
)

APP = (Path(__file__).parents[2] / "stand_in_fluxgym.py").read_bytes()
PROJECT = Path("/opt/fluxgym-checkpoints")
SMALL_APP = b"""\
with gr.Blocks() as demo:
    with gr.Tabs() as tabs:
        pass
    refresh.click(update)
"""
ODD_FOLDERS = [
    "/with space",
    "/it's",
    '/say "x"',
    "C:\\fluxgym\\new",
    "/a # b",
    "/r\u00e9sum\u00e9",
    "/two\nlines",
    "/{braces}",
]


def added_lines(source: bytes) -> list[bytes]:
    return [line for line in source.splitlines() if line.endswith((MARK, INSTALLED_MARK))]


def test_two_lines_are_added_behind_the_refresh_event() -> None:
    lines = install(APP, PROJECT).splitlines()
    first = lines.index(added_lines(install(APP, PROJECT))[0])

    assert lines[first - 1].startswith(b"    refresh.click(update, inputs=listeners")
    assert lines[first].startswith(b"    try: import sys; sys.path.append('/opt/fluxgym-checkpoints'); ")
    assert lines[first + 1].startswith(b"    except Exception as problem: ")
    assert lines[first + 2] == b'if __name__ == "__main__":'
    assert len(lines) == len(APP.splitlines()) + 2


def test_the_lines_belong_to_the_page_and_it_still_compiles() -> None:
    module = ast.parse(install(APP, PROJECT))
    page = next(node for node in module.body if isinstance(node, ast.With))
    assert isinstance(page.body[-1], ast.Try)


VARIANTS = {
    "as it is": APP,
    "CRLF": APP.replace(b"\n", b"\r\n"),
    "CR": APP.replace(b"\n", b"\r"),
    "byte-order mark": b"\xef\xbb\xbf" + APP,
    "no last newline": APP.rstrip(b"\n"),
    "the page is last": SMALL_APP,
    "the page is last, no newline": SMALL_APP.rstrip(b"\n"),
    "the page is last, CRLF, no newline": SMALL_APP.rstrip(b"\n").replace(b"\n", b"\r\n"),
    "indented by tabs": SMALL_APP.replace(b"    ", b"\t"),
    "a comment behind the event": SMALL_APP.replace(b"(update)", b"(update)  # makes the script"),
    "the event over several lines": SMALL_APP.replace(b"(update)", b"(\n  update,\n)"),
    "more events behind it": SMALL_APP + b"    other.click(update)\n",
    "Latin-1": b"# -*- coding: latin-1 -*-\n# caf\xe9\n" + SMALL_APP,
}


@pytest.mark.parametrize("source", VARIANTS.values(), ids=VARIANTS)
def test_removing_gives_the_original_back_byte_for_byte(source: bytes) -> None:
    with_tab = install(source, PROJECT)

    assert installed(with_tab)
    assert not installed(source)
    compile(with_tab, "app.py", "exec")
    assert uninstall(with_tab) == source


@pytest.mark.parametrize("source", VARIANTS.values(), ids=VARIANTS)
def test_installing_twice_changes_nothing(source: bytes) -> None:
    once = install(source, PROJECT)
    assert install(once, PROJECT) == once
    assert uninstall(source) == source


def test_line_endings_are_the_files_own() -> None:
    with_tab = install(APP.replace(b"\n", b"\r\n"), PROJECT)
    assert with_tab.count(b"\n") == with_tab.count(b"\r\n")


def test_a_moved_project_is_followed() -> None:
    moved = install(install(APP, PROJECT), Path("/elsewhere"))
    assert moved == install(APP, Path("/elsewhere"))


def test_one_line_left_over_by_hand_is_replaced() -> None:
    broken = install(APP, PROJECT).replace(added_lines(install(APP, PROJECT))[1] + b"\n", b"")
    assert install(broken, PROJECT) == install(APP, PROJECT)


def test_an_installed_package_is_found_without_a_folder() -> None:
    with_tab = install(APP, None)

    assert b"sys" not in b"".join(added_lines(with_tab))
    assert added_lines(with_tab)[0].endswith(b"to remove: fluxgym-checkpoints uninstall")
    assert uninstall(with_tab) == APP


@pytest.mark.parametrize(("first", "then"), [(PROJECT, None), (None, PROJECT), (None, None)])
def test_a_clone_and_an_installed_package_take_each_other_s_place(
    first: Path | None, then: Path | None
) -> None:
    assert install(install(APP, first), then) == install(APP, then)


@pytest.mark.parametrize("folder", ODD_FOLDERS)
def test_any_folder_name_reaches_sys_path_as_it_is(folder: str) -> None:
    first = added_lines(install(SMALL_APP, Path(folder)))[0]
    appended = next(
        node.args[0]
        for node in ast.walk(ast.parse(first.strip() + b"\nfinally: pass"))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "sys.path.append"
    )
    assert ast.literal_eval(appended) == str(Path(folder))
    assert uninstall(install(SMALL_APP, Path(folder))) == SMALL_APP


def run_added_lines(folder: Path | None) -> str:
    """Run just the two lines in a fresh interpreter, ``demo`` being a string; return what it prints."""
    lines = b"\n".join(line.strip() for line in added_lines(install(SMALL_APP, folder)))
    program = b"demo = 'the page'\n" + lines + b"\nprint('FluxGym goes on')"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_lines_mount_the_tab_in_the_page(tmp_path: Path) -> None:
    (tmp_path / "fluxgym_resume_tab.py").write_text("def mount(demo): print('mounted in', demo)")
    assert run_added_lines(tmp_path) == "mounted in the page\nFluxGym goes on\n"


def test_fluxgym_starts_in_an_environment_without_the_package() -> None:
    assert "ModuleNotFoundError" in run_added_lines(None)
    assert run_added_lines(None).endswith("FluxGym goes on\n")


def test_fluxgym_starts_when_the_folder_is_gone(tmp_path: Path) -> None:
    printed = run_added_lines(tmp_path / "gone")
    assert printed == (
        "FluxGym starts without the Checkpoints tab: "
        """ModuleNotFoundError("No module named 'fluxgym_resume_tab'")\nFluxGym goes on\n"""
    )


def test_fluxgym_starts_when_the_tab_fails(tmp_path: Path) -> None:
    (tmp_path / "fluxgym_resume_tab.py").write_text("def mount(demo): raise RuntimeError('no tabs')")
    assert "without the Checkpoints tab: RuntimeError('no tabs')\nFluxGym goes on" in run_added_lines(
        tmp_path
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((b"as demo:", b"as page:"), "'with gr.Blocks(…) as demo:' at the top level"),
        ((b"gr.Blocks()", b"gr.Interface()"), "'with gr.Blocks(…) as demo:' at the top level"),
        ((b"as tabs:", b"as pages:"), "'with gr.Tabs() as tabs:' inside"),
        ((b"refresh.click", b"renew.click"), "'refresh.click(…)' directly in"),
        ((b"    refresh", b"        refresh"), "'refresh.click(…)' directly in"),
        ((b"with gr.Blocks", b"with with gr.Blocks"), "not Python that can be read"),
        ((b"pass", b"\0"), "not Python that can be read"),
    ],
)
def test_another_app_is_refused_and_told_why(change: tuple[bytes, bytes], said: str) -> None:
    with pytest.raises(AppNotRecognised) as refused:
        install(SMALL_APP.replace(*change), PROJECT)
    assert said in str(refused.value)
    assert "not changed" in str(refused.value)


def test_a_page_inside_a_function_is_refused() -> None:
    inside = b"def make():\n" + b"".join(b"    " + line for line in SMALL_APP.splitlines(keepends=True))
    with pytest.raises(AppNotRecognised):
        install(inside, PROJECT)


def test_nothing_is_run_to_recognise_an_app(capsys: pytest.CaptureFixture[str]) -> None:
    install(b"print('ran')\n" + SMALL_APP, PROJECT)
    assert capsys.readouterr().out == ""
