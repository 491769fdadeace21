"""FluxGym's folder and its app.py on the disk: edited, given back, or left alone with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint_core.tab.host.app_edit import NotEdited, NotFluxGym, add_tab, app_in, outputs_in, remove_tab

PROJECT = Path("/opt/fluxgym-checkpoints")
SOURCE = b"with gr.Blocks() as demo:\r\n    with gr.Tabs() as tabs:\r\n        pass\r\n    refresh.click(update)\r\n"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_bytes(SOURCE)
    path.chmod(0o750)
    return path


def test_adding_and_removing_gives_the_bytes_and_the_mode_back(app: Path) -> None:
    said = add_tab(app, PROJECT)
    added = app.read_bytes()

    assert "is kept as app.py.bak. Restart FluxGym" in said
    assert added.count(b"# fluxgym-checkpoints") == 2
    assert app.with_name("app.py.bak").read_bytes() == SOURCE
    remove_tab(app)
    assert app.read_bytes() == SOURCE
    assert app.stat().st_mode & 0o777 == 0o750


def test_removing_leaves_none_of_our_backups(app: Path) -> None:
    add_tab(app, PROJECT)
    add_tab(app, Path("/opt/moved"))
    remove_tab(app)

    assert [path.name for path in app.parent.iterdir()] == ["app.py"]
    add_tab(app, PROJECT)
    app.write_bytes(SOURCE)  # somebody took the lines out by hand
    assert "does not have the tab" in remove_tab(app)
    assert [path.name for path in app.parent.iterdir()] == ["app.py"]


def test_a_backup_that_holds_something_else_is_left_and_said(app: Path) -> None:
    add_tab(app, PROJECT)
    app.with_name("app.py.bak.1").write_bytes(b"mine")
    app.write_bytes(app.read_bytes() + b"# a newer FluxGym\n")

    said = remove_tab(app)

    assert app.read_bytes() == SOURCE + b"# a newer FluxGym\n"
    assert sorted(path.name for path in app.parent.iterdir()) == ["app.py", "app.py.bak.1", "app.py.bak.2"]
    assert "app.py.bak.1 holds another app.py than this and is left." in said
    assert app.with_name("app.py.bak.1").read_bytes() == SOURCE
    assert app.with_name("app.py.bak.2").read_bytes() == b"mine"


def test_a_second_time_changes_nothing_and_says_so(app: Path) -> None:
    add_tab(app, PROJECT)
    added = app.read_bytes()

    assert add_tab(app, PROJECT) == f"{app}: it has the tab already; nothing was changed."
    assert app.read_bytes() == added
    remove_tab(app)
    assert remove_tab(app) == f"{app}: it does not have the tab; nothing was changed."


def test_another_app_is_left_alone(app: Path) -> None:
    app.write_bytes(b"print('something else')\n")

    with pytest.raises(NotEdited, match="was not changed"):
        add_tab(app, PROJECT)

    assert app.read_bytes() == b"print('something else')\n"
    assert [path.name for path in app.parent.iterdir()] == ["app.py"]


def test_a_write_that_fails_leaves_the_app(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)

    with pytest.raises(NotEdited, match="was not changed"):
        add_tab(app, PROJECT)

    assert app.read_bytes() == SOURCE


def test_an_app_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NotEdited, match="was not changed"):
        remove_tab(tmp_path / "app.py")


def test_the_folder_a_person_names(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(app.parent)

    assert app_in(Path()) == app
    assert outputs_in(Path()) == app.parent / "outputs"


@pytest.mark.parametrize("name", ["nowhere", "app.py"])
def test_what_is_no_fluxgym_is_said(app: Path, name: str) -> None:
    for ask in (app_in, outputs_in):
        with pytest.raises(NotFluxGym, match="Give the folder that FluxGym was installed into"):
            ask(app.parent / name)
