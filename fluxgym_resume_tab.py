"""The Checkpoints tab: ``build_tab()``, ``mount()`` into FluxGym, and the commands that serve or install it.

The only file that imports Gradio. It runs on 4.44.1 (FluxGym's), 5.x and 6.x; where they differ, a comment says so.
A handler reads its inputs, makes one call into ``checkpoint_core`` and returns updates.
"""

from __future__ import annotations

import inspect
import logging
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import gradio as gr
import typer

from checkpoint_core import host_install
from checkpoint_core.gym import Gym, find_gym
from checkpoint_core.page import desk as desk_module
from checkpoint_core.page.action_view import error_view, info_view
from checkpoint_core.page.assets import SCRIPT, STYLE
from checkpoint_core.page.desk import Desk, RunView
from checkpoint_core.page.markup import SELECTED_BOX, SORT_BOX
from checkpoint_core.page.table_view import DEFAULT_SORT
from checkpoint_core.safe_write import ChangedMeanwhile, WriteFailed, replace_bytes

_LAYOUTS = [("Automatic (from the train script)", "auto"), ("sd-scripts", "sd-scripts")]
_LAYOUTS.append(("accelerate with registered objects", "accelerate-objects"))
#: Gradio 6 renamed the switch that keeps an event out of the API's documentation.
_UNLISTED: dict[str, Any] = (
    {"show_api": False} if "show_api" in inspect.signature(gr.Button.click).parameters else {"api_visibility": "private"}
)
_LISTED = {} if "show_api" in _UNLISTED else {"api_visibility": "public"}
#: Gradio 5 and 6 pad HTML unless told otherwise; 4.44.1 has no such switch and does not.
_BARE: dict[str, Any] = {"padding": False} if "padding" in inspect.signature(gr.HTML.__init__).parameters else {}
_QUIET: dict[str, Any] = {"show_progress": "hidden", **_UNLISTED}


@dataclass
class _Page:
    """The components of one built tab."""

    runs: gr.Dropdown
    layout: gr.Dropdown
    refresh: gr.Button
    poll: gr.Button
    headline: gr.HTML
    table: gr.HTML
    panel: gr.HTML
    preview: gr.HTML
    refusal: gr.HTML
    resume: gr.Button
    verify: gr.Button
    cancel: gr.Button
    fresh: gr.Button
    fresh_yes: gr.Button
    fresh_no: gr.Button
    download: gr.Button
    undo: gr.Button
    progress: gr.HTML
    result: gr.HTML
    report: gr.File
    selected_box: gr.Textbox
    sort_box: gr.Textbox
    selected: gr.State
    sort: gr.State
    change: gr.State
    receipt: gr.State
    shown: gr.State
    state_path: gr.State


def build_tab(outputs: Path | str, gym: Gym | None = None) -> gr.Column:
    """Build the tab's content into the present Gradio context.

    :param outputs: FluxGym's ``outputs`` folder; it need not exist yet.
    :param gym: FluxGym's own components, found by :func:`checkpoint_core.gym.find_gym`, to keep them in step.
    :returns: the column that holds everything (``elem_id`` ``ck-root``).
    """
    desk = Desk(outputs)
    with gr.Column(elem_id="ck-root") as root:
        page = _components(gym)
    _wire_views(desk, page)
    _wire_actions(desk, page, gym)
    _wire_api(desk)
    return root


def _components(gym: Gym | None) -> _Page:
    gr.HTML(f"<style>{STYLE}</style>", elem_classes=["ck-hidden"])
    with gr.Row(elem_classes=["ck-bar"]):
        runs = gr.Dropdown([], label="Run", scale=6, min_width=240, interactive=True, filterable=True)
        refresh = gr.Button("Refresh", scale=0, min_width=110, size="sm")
    headline, table, panel, preview = (_html() for _ in range(4))
    with gr.Row(elem_classes=["ck-bar"]):
        resume = gr.Button("Resume from this checkpoint", size="sm", variant="primary", interactive=False, min_width=240)
        verify = gr.Button("Verify every byte", size="sm", interactive=False, min_width=150)
        fresh = gr.Button("Start fresh", size="sm", interactive=False, min_width=120)
        download = gr.Button("Download diagnosis", size="sm", interactive=False, min_width=160)
    refusal, progress = _html("ck-refusal"), _html()
    cancel = gr.Button("Cancel", visible=False)
    with gr.Row():
        fresh_yes = gr.Button("Yes, remove --resume", visible=False, variant="primary", min_width=180)
        fresh_no = gr.Button("No, keep it", visible=False, min_width=120)
    result = _html("ck-result")
    undo = gr.Button("Undo", visible=False)
    report = gr.File(label="Diagnosis", visible=False, interactive=False)
    with gr.Accordion("Options", open=False):
        layout = gr.Dropdown(_LAYOUTS, value="auto", label="Judge checkpoints by the files of", interactive=True)
        gr.HTML(info_view(gym.describe()) if gym else "")
    # In the page though not seen: `visible=False` would keep them out of it on Gradio 5 and 6.
    selected_box = gr.Textbox("", elem_id=SELECTED_BOX, elem_classes=["ck-hidden"], label="Selected checkpoint")
    sort_box = gr.Textbox("", elem_id=SORT_BOX, elem_classes=["ck-hidden"], label="Sort")
    poll = gr.Button("Poll", elem_id="ck-poll", elem_classes=["ck-hidden"])
    states = (gr.State(""), gr.State(DEFAULT_SORT), gr.State(None), gr.State(None), gr.State(None), gr.State(None))
    return _Page(
        runs, layout, refresh, poll, headline, table, panel, preview, refusal, resume, verify, cancel, fresh, fresh_yes,
        fresh_no, download, undo, progress, result, report, selected_box, sort_box, *states,
    )  # fmt: skip


def _html(elem_id: str | None = None) -> gr.HTML:
    return gr.HTML("", elem_id=elem_id, elem_classes=["ck-part"], **_BARE)


def _view_outputs(page: _Page) -> list[Any]:
    return [
        page.headline, page.table, page.panel, page.preview, page.refusal, page.selected, page.change, page.shown,
        page.resume, page.verify, page.fresh, page.download,
    ]  # fmt: skip


def _view_updates(view: RunView, before: RunView | None = None) -> list[Any]:
    """Updates for :func:`_view_outputs`; none at all where nothing differs, so that a refresh moves nothing."""
    if view == before:
        return [gr.skip()] * 12
    has_run = bool(view.table)
    return [
        view.headline, view.table, view.panel, view.preview, error_view(view.refusal) if view.refusal else "",
        view.selected, view.change, view,
        gr.update(interactive=view.resumes), gr.update(interactive=bool(view.selected)),
        gr.update(interactive=has_run), gr.update(interactive=has_run),
    ]  # fmt: skip


def _wire_views(desk: Desk, page: _Page) -> None:
    """Everything that shows and changes nothing."""
    seen = [page.runs, page.selected, page.sort, page.layout, page.shown]
    views = _view_outputs(page)

    def show(run: str | None, selected: str, sort: str, layout: str, before: RunView | None) -> list[Any]:
        return _view_updates(desk.show(run or "", selected, sort, layout), before)

    def refresh(run: str | None, selected: str, sort: str, layout: str, before: RunView | None) -> list[Any]:
        choices = desk.choices()
        names = [name for _, name in choices]
        run = run if run in names else (names[0] if names else None)
        return [gr.update(choices=choices, value=run), *show(run, selected, sort, layout, before)]

    def pick(run: str | None, sort: str, layout: str) -> list[Any]:
        return [*_view_updates(desk.show(run or "", "", sort, layout)), "", "", gr.update(visible=False)]

    def select(message: str, run: str | None, sort: str, layout: str, before: RunView | None) -> list[Any]:
        # The page puts a counter before the value: the same row can be pressed twice, and 5.x may fire twice.
        return show(run, message.partition("|")[2], sort, layout, before)

    def resort(message: str, run: str | None, selected: str, layout: str, before: RunView | None) -> list[Any]:
        sort = message.partition("|")[2] or DEFAULT_SORT
        return [sort, *show(run, selected, sort, layout, before)]

    page.refresh.click(refresh, seen, [page.runs, *views], **_UNLISTED)
    page.poll.click(refresh, seen, [page.runs, *views], **_QUIET)
    # `input`, not `change`: a refresh that sets the same value again must not start everything anew.
    page.runs.input(
        pick, [page.runs, page.sort, page.layout], [*views, page.result, page.progress, page.undo], **_QUIET
    )
    page.layout.input(show, seen, views, **_QUIET)
    page.selected_box.change(
        select, [page.selected_box, page.runs, page.sort, page.layout, page.shown], views, **_QUIET
    )
    page.sort_box.change(
        resort, [page.sort_box, page.runs, page.selected, page.layout, page.shown], [page.sort, *views], **_QUIET
    )


def _wire_actions(desk: Desk, page: _Page, gym: Gym | None) -> None:
    """Everything that changes a script, reads for long, or downloads."""
    views = _view_outputs(page)
    seen = [page.runs, page.selected, page.sort, page.layout]
    done = [page.result, page.receipt, page.undo, page.state_path, page.fresh_yes, page.fresh_no]

    def outcome(result: desk_module.Outcome, view: RunView) -> list[Any]:
        can_undo, closed = gr.update(visible=result.receipt is not None), gr.update(visible=False)
        # The path is a token too: True after “Start fresh”, None where nothing was written.
        carried = (str(result.state_path) if result.state_path else True) if result.written else None
        return [result.message, result.receipt, can_undo, carried, closed, closed, *_view_updates(view)]

    def resume(run: str, selected: str, sort: str, layout: str, change: Any) -> list[Any]:
        result = desk.resume(run or "", selected, change, layout)
        return outcome(result, desk.show(run or "", selected, sort, layout))

    def fresh(run: str, selected: str, sort: str, layout: str) -> list[Any]:
        return outcome(desk.start_fresh(run or ""), desk.show(run or "", selected, sort, layout))

    def undo(run: str, selected: str, sort: str, layout: str, receipt: Any) -> list[Any]:
        return outcome(desk.undo(receipt), desk.show(run or "", selected, sort, layout))

    def ask_fresh(run: str) -> list[Any]:
        shown, possible = desk.preview_fresh(run or "")
        return [shown, gr.update(visible=possible), gr.update(visible=possible), gr.update(visible=False)]

    def verify(run: str, selected: str, sort: str, layout: str) -> Iterator[list[Any]]:
        told = ""
        for told in desk.verify(run or "", selected, layout):
            yield [told, gr.update(visible=True), *([gr.skip()] * len(views))]
        yield [told, gr.update(visible=False), *_view_updates(desk.show(run or "", selected, sort, layout))]

    resumed = page.resume.click(resume, [*seen, page.change], [*done, *views], **_UNLISTED)
    freshened = page.fresh_yes.click(fresh, seen, [*done, *views], **_UNLISTED)
    page.fresh.click(ask_fresh, page.runs, [page.result, page.fresh_yes, page.fresh_no, page.undo], **_UNLISTED)
    page.fresh_no.click(
        lambda: ["", gr.update(visible=False), gr.update(visible=False)],
        None,
        [page.result, page.fresh_yes, page.fresh_no],
        **_UNLISTED,
    )
    undone = page.undo.click(undo, [*seen, page.receipt], [*done, *views], **_UNLISTED)
    page.verify.click(verify, seen, [page.progress, page.cancel, *views], concurrency_limit=4, **_QUIET)
    page.cancel.click(lambda run, name: desk.cancel(run or "", name), [page.runs, page.selected], None, **_UNLISTED)
    _wire_download(desk, page)
    if gym is not None and gym.is_connected:
        for event in (resumed, freshened, undone):
            _carry_into_gym(event, page, gym, desk)


def _wire_download(desk: Desk, page: _Page) -> None:
    def make(run: str, layout: str) -> Any:
        return gr.update(value=_written_report(desk, run or "", layout), visible=True)

    made = page.download.click(make, [page.runs, page.layout], page.report, **_UNLISTED)
    # A file that a handler has just made is not downloaded by itself: the page follows its link.
    made.then(None, page.report, None, js=_FOLLOW_LINK, **_UNLISTED)


_FOLLOW_LINK = """(file) => {
  const it = Array.isArray(file) ? file[0] : file;
  if (!it || !it.url) return;
  const link = document.createElement("a");
  link.href = it.url; link.download = it.orig_name || "diagnosis.zip";
  document.body.appendChild(link); link.click(); link.remove();
}"""


def _written_report(desk: Desk, run: str, layout: str = "auto") -> str:
    """A run's diagnosis as a zip file in a folder of its own, from which Gradio serves it."""
    try:
        report = desk.diagnosis(run, layout)
    except LookupError as error:
        raise gr.Error(str(error)) from error
    folder = Path(tempfile.mkdtemp(prefix="fluxgym-diagnosis-"))
    path = folder / report.file_name
    path.write_bytes(report.zip_bytes)
    return str(path)


def _carry_into_gym(event: Any, page: _Page, gym: Gym, desk: Desk) -> None:
    """After a resume: set FluxGym's own components, so that its “Start training” does not undo the choice."""

    def carry(state: str | bool | None, run: str, message: str, *values: Any) -> list[Any]:
        if state is None:
            return [gr.skip()] * (len(gym.targets) + 1)
        result, told = gym.carry(values, run, desk.box_value(state))
        kept = result if result is not None else [gr.skip()] * len(gym.targets)
        return [message + info_view(told), *kept]

    inputs = [page.state_path, page.runs, page.result, *gym.inputs]
    event.then(carry, inputs, [page.result, *gym.targets], **_QUIET)


def _wire_api(desk: Desk) -> None:
    """Named endpoints for ``gradio_client``: names in, JSON out. Components of theirs are never in the page."""
    run, checkpoint = gr.Textbox(visible=False, label="run"), gr.Textbox(visible=False, label="checkpoint")
    answer, file = gr.JSON(visible=False), gr.File(visible=False)

    def endpoint(name: str, function: Any, inputs: list[Any], output: Any = answer) -> None:
        gr.Button(name, visible=False).click(function, inputs, output, api_name=name, **_LISTED)

    endpoint("runs", desk.summary, [])
    endpoint("checkpoint_table", desk.table_records, [run])
    endpoint("check", desk.check, [run, checkpoint])
    endpoint("preview_resume", desk.preview_json, [run, checkpoint])
    endpoint("apply_resume", desk.resume_json, [run, checkpoint])
    endpoint("diagnosis_report", lambda name: _written_report(desk, name), [run], file)


def mount(demo: gr.Blocks, fluxgym: Path | str | None = None) -> None:
    """Add the tab to a FluxGym that is being built: inside its ``with gr.Blocks() as demo``, after its ``gr.Tabs``.

    Never raises: a defect here must not keep FluxGym from starting; it is logged, and the tab is left out.

    :param demo: FluxGym's page.
    :param fluxgym: FluxGym's folder; by default the one that the running ``app.py`` lies in.
    """
    tabs = next((block for block in demo.blocks.values() if isinstance(block, gr.Tabs)), None)
    if tabs is None:
        logging.getLogger(__name__).error("The Checkpoints tab was not added: the page has no tabs.")
        return
    before = list(tabs.children)
    try:
        root = Path(fluxgym) if fluxgym else Path(getattr(sys.modules["__main__"], "__file__", "") or ".").parent
        with tabs, gr.TabItem("Checkpoints", id="checkpoints", elem_id="ck-tab") as tab:
            build_tab(root.absolute() / "outputs", find_gym(demo.blocks.values(), demo.fns.values()))
        # A tab that is opened shows what is on the disk now; opened or not, it costs FluxGym's page nothing.
        tab.select(None, None, None, js=_OPENED, **_UNLISTED)
        demo.load(None, None, None, js=SCRIPT, **_UNLISTED)
    except Exception:  # whatever happens, FluxGym starts
        tabs.children[:] = before
        logging.getLogger(__name__).exception("The Checkpoints tab was not added.")


_OPENED = """() => { const press = () => {
  const it = document.getElementById("ck-poll");
  if (it) it.click(); else window.setTimeout(press, 50);
}; press(); }"""


def make_app(outputs: Path | str) -> gr.Blocks:
    """The tab alone, as a page of its own."""
    with gr.Blocks(title="Checkpoints") as demo:
        build_tab(outputs)
        demo.load(None, None, None, js=SCRIPT, **_UNLISTED)
        demo.load(None, None, None, js=_OPENED, **_UNLISTED)
    return demo


def launch(fluxgym: Path, arguments: list[str]) -> None:
    """Run the unedited FluxGym with the tab in it, as ``python app.py`` in its folder would; returns when it ends.

    The tab is added just before the page's own ``with`` closes, so theme, css, js, events and the arguments of
    ``demo.launch()`` stay FluxGym's own.
    """
    close = gr.Blocks.__exit__

    def mount_then_close(self: gr.Blocks, kind: Any = None, error: Any = None, trace: Any = None) -> Any:
        if kind is None and self.parent is None and any(isinstance(block, gr.Tabs) for block in self.blocks.values()):
            gr.Blocks.__exit__ = close  # type: ignore[method-assign]
            mount(self, fluxgym)
        return close(self, kind, error, trace)

    gr.Blocks.__exit__ = mount_then_close  # type: ignore[method-assign]
    os.chdir(fluxgym)
    # This project moves to the end of the path: nothing of FluxGym is shadowed by it.
    here, sys.path[0] = sys.path[0], str(fluxgym)
    sys.path.append(here)
    sys.argv = ["app.py", *arguments]
    runpy.run_path(str(fluxgym / "app.py"), run_name="__main__")


cli = typer.Typer(add_completion=False, no_args_is_help=True, help="The Checkpoints tab for FluxGym.")
_FluxGym = Annotated[Path, typer.Option("--fluxgym", help="FluxGym's folder, the one with app.py in it.")]
_Port = Annotated[int, typer.Option(help="Port to serve on; 0 takes the first free one from 7860.")]
_Listen = Annotated[str, typer.Option(help="Address to serve on; 0.0.0.0 lets other machines in.")]


def _serve(outputs: Path, port: int, listen: str) -> None:
    make_app(outputs).launch(server_port=port or None, server_name=listen, show_error=True, inbrowser=False)


def _app_of(fluxgym: Path) -> Path:
    """FluxGym's ``app.py``, or an end with a word on what to give."""
    app = fluxgym.absolute() / "app.py"
    if not app.is_file():
        typer.echo(f"There is no app.py in {fluxgym}. Give the folder that FluxGym was installed into.", err=True)
        raise typer.Exit(2)
    return app


@cli.command()
def demo(
    folder: Annotated[Path | None, typer.Option(help="Where to make the example; by default a new folder.")] = None,
    port: _Port = 0,
    listen: _Listen = "127.0.0.1",
) -> None:
    """Make a sample outputs folder with real states, good and broken, and serve the tab on it."""
    target = folder or Path(tempfile.mkdtemp(prefix="fluxgym-demo-"))
    typer.echo(f"Training a few small LoRAs for real, to have something to look at: {target}")
    made = subprocess.run(
        [sys.executable, "-m", "checkpoint_core.trainer_side.sample_outputs", str(target)], cwd=Path(__file__).parent
    )
    if made.returncode:
        raise typer.Exit(made.returncode)
    _serve(target / "outputs", port, listen)


@cli.command()
def serve(fluxgym: _FluxGym, port: _Port = 0, listen: _Listen = "127.0.0.1") -> None:
    """Serve the tab alone, on a FluxGym's outputs folder."""
    if not fluxgym.is_dir():
        typer.echo(f"There is no folder {fluxgym}. Give the folder that FluxGym was installed into.", err=True)
        raise typer.Exit(2)
    _serve(fluxgym / "outputs", port, listen)


@cli.command(name="launch", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def launch_command(context: typer.Context, fluxgym: _FluxGym) -> None:
    """Run the unedited FluxGym with the tab in it; further arguments go to FluxGym's app.py."""
    launch(_app_of(fluxgym).parent, list(context.args))


@cli.command()
def install(fluxgym: _FluxGym) -> None:
    """Add two marked lines to FluxGym's app.py, so that the tab is there at every start."""
    _edit_app(_app_of(fluxgym), lambda source: host_install.install(source, Path(__file__).resolve().parent))


@cli.command()
def uninstall(fluxgym: _FluxGym) -> None:
    """Take the two lines out of FluxGym's app.py again."""
    _edit_app(_app_of(fluxgym), host_install.uninstall)


def _edit_app(app: Path, edit: Callable[[bytes], bytes]) -> None:
    before = app.read_bytes()
    try:
        after = edit(before)
        if after == before:
            typer.echo(f"{app} is so already; nothing was changed.")
            return
        backup = replace_bytes(app, after, expected=before)
    except (host_install.AppNotRecognised, ChangedMeanwhile, WriteFailed) as error:
        typer.echo(f"{app} was not changed. {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{app} was changed; the file as it was is kept as {backup.name if backup else 'before'}.")
    typer.echo("Restart FluxGym to see the change.")


if __name__ == "__main__":
    cli()
