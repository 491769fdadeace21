"""The Checkpoints tab: ``build_tab()``, ``mount()`` into FluxGym, and the commands that serve or install it.

The only file that imports Gradio. It runs on 4.44.1 (FluxGym's), 5.x and 6.x; where they differ, a comment says so.
A handler reads its inputs, makes one call into ``checkpoint_core`` and returns updates.
"""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import gradio as gr
import typer

from checkpoint_core.app_edit import NotEdited, NotFluxGym, add_tab, app_in, outputs_in, remove_tab
from checkpoint_core.discovery import OutputsFolderError
from checkpoint_core.gym import Gym, find_gym
from checkpoint_core.host_page import run_app, snapshot
from checkpoint_core.page import answers
from checkpoint_core.page.action_view import error_view, info_view
from checkpoint_core.page.assets import DOWNLOAD, OPENED, SCRIPT, STYLE
from checkpoint_core.page.desk import LAYOUTS, Desk, Outcome, RunView
from checkpoint_core.page.markup import SELECTED_BOX, SORT_BOX
from checkpoint_core.page.table_view import DEFAULT_SORT
from checkpoint_core.safe_write import WriteFailed

_LAYOUT_LABEL = "Judge checkpoints by the files of"
_KNOWS_SHOW_API = "show_api" in inspect.signature(gr.Button.click).parameters
#: Gradio 6 renamed the switch that keeps an event out of the API's documentation.
_UNLISTED: dict[str, Any] = {"show_api": False} if _KNOWS_SHOW_API else {"api_visibility": "private"}
_LISTED: dict[str, Any] = {} if _KNOWS_SHOW_API else {"api_visibility": "public"}
_QUIET: dict[str, Any] = {"show_progress": "hidden", **_UNLISTED}


def build_tab(
    outputs: Path | str, gym: Gym | None = None, *, python: Path | None = None, hosting: bool = False
) -> gr.Column:
    """Build the tab's content into the present Gradio context.

    :param outputs: FluxGym's ``outputs`` folder; it need not exist yet.
    :param gym: FluxGym's own components, found by :func:`checkpoint_core.gym.find_gym`, to keep them in step.
    :param python: the Python that trains, if it is neither this one nor found in FluxGym's folder.
    :param hosting: this process is FluxGym itself, so its own Python starts the training.
    :returns: the column that holds everything (``elem_id`` ``ck-root``).
    """
    desk = Desk(outputs, python=python, hosting=hosting)
    with gr.Column(elem_id="ck-root") as root:
        page = _Page(gym)
    _wire_views(desk, page)
    _wire_script(desk, page, gym)
    _wire_long_work(desk, page)
    _wire_python(desk, page)
    _wire_download(desk, page)
    _wire_api(desk)
    return root


class _Page:
    """The components of one built tab, in their order on the page."""

    def __init__(self, gym: Gym | None) -> None:
        gr.HTML(f"<style>{STYLE}</style>", elem_classes=["ck-hidden"])
        with gr.Row(elem_classes=["ck-bar"]):
            self.runs = gr.Dropdown([], label="Run", scale=6, min_width=240, interactive=True)
            self.refresh = _button("Refresh", 110, scale=0)
        self.headline, self.table, self.panel, self.preview = (_html() for _ in range(4))
        with gr.Row(elem_classes=["ck-bar"]):
            self.resume = _button("Resume from this checkpoint", 240, variant="primary", interactive=False)
            self.rehearse = _button("Rehearse resume", 150, interactive=False)
            self.verify = _button("Verify every byte", 150, interactive=False)
            self.cancel = _button("Cancel", 120, visible=False)
            self.fresh = _button("Start fresh", 120, interactive=False)
            self.download = _button("Download diagnosis", 160, interactive=False)
        self.refusal, self.progress = _html("ck-refusal"), _html()
        self.result = _html("ck-result")
        with gr.Row(elem_classes=["ck-bar"]):
            self.undo = _button("Undo", 120, visible=False, scale=0)
            self.fresh_yes = _button("Yes, remove --resume", 180, variant="primary", visible=False, scale=0)
            self.fresh_no = _button("No, keep it", 120, visible=False, scale=0)
        self.report = gr.File(label="Diagnosis", visible=False, interactive=False)
        with gr.Accordion("Options", open=False):
            self.layout = gr.Dropdown(LAYOUTS, value="auto", label=_LAYOUT_LABEL, interactive=True)
            self.python = gr.Dropdown([], label="Python that trains", interactive=True)
            self.environment = _html()
            gr.HTML(info_view(gym.describe()) if gym else "")
        # In the page though not seen: `visible=False` would keep them out of it on Gradio 5 and 6.
        self.selected_box = gr.Textbox("", elem_id=SELECTED_BOX, elem_classes=["ck-hidden"], label="Selected")
        self.sort_box = gr.Textbox("", elem_id=SORT_BOX, elem_classes=["ck-hidden"], label="Sort")
        self.poll = gr.Button("Poll", elem_id="ck-poll", elem_classes=["ck-hidden"])
        self.selected, self.sort = gr.State(""), gr.State(DEFAULT_SORT)
        self.choices, self.pythons, self.shown, self.change, self.fresh_change = (
            gr.State(None) for _ in range(5)
        )
        self.receipt, self.resumed_from, self.working = (gr.State(None) for _ in range(3))

    @property
    def seen(self) -> list[Any]:
        """The inputs of every handler that shows a run: what the user has chosen, and what is shown."""
        return [self.runs, self.selected, self.sort, self.layout, self.shown]

    @property
    def views(self) -> list[Any]:
        """The outputs that show a run, in the order of :func:`_view_updates`."""
        return [
            *(self.headline, self.table, self.panel, self.preview, self.refusal),
            *(self.selected, self.change, self.shown),
            *(self.resume, self.rehearse, self.verify, self.fresh, self.download),
        ]

    @property
    def talk(self) -> list[Any]:
        """The outputs below the buttons that speak of one run and must not outlive a change to another."""
        return [self.result, self.undo, self.fresh_yes, self.fresh_no]


def _button(label: str, min_width: int, **more: Any) -> gr.Button:
    return gr.Button(label, size="sm", min_width=min_width, **more)


def _html(elem_id: str | None = None) -> gr.HTML:
    return gr.HTML("", elem_id=elem_id, elem_classes=["ck-part"])


def _shown(is_shown: bool) -> Any:
    return gr.update(visible=is_shown)


def _silence() -> list[Any]:
    """Updates for ``talk``: nothing said, nothing asked."""
    return ["", _shown(False), _shown(False), _shown(False)]


def _view_updates(view: RunView, before: RunView | None = None) -> list[Any]:
    """Updates for ``views``; none at all where nothing differs, so that a refresh moves nothing."""
    if view == before:
        return [gr.skip()] * 13
    refusal = error_view(view.refusal) if view.refusal else ""
    has_run, has_row = gr.update(interactive=bool(view.run)), gr.update(interactive=bool(view.selected))
    return [
        *(view.headline, view.table, view.panel, view.preview, refusal, view.selected, view.change, view),
        *(gr.update(interactive=view.resumes), has_row, has_row, has_run, has_run),
    ]


def _show(desk: Desk, run: str | None, selected: str, sort: str, layout: str, before: Any) -> list[Any]:
    return _view_updates(desk.show(run or "", selected, sort, layout), before)


def _wire_views(desk: Desk, page: _Page) -> None:
    """Everything that shows and changes nothing."""
    show = partial(_show, desk)

    def pythons(told: Any) -> list[Any]:
        now = (desk.python.choices(), desk.python.chosen(), desk.python.view())
        picker = gr.update(choices=now[0], value=now[1])
        return [gr.skip()] * 3 if now == told else [now, picker, now[2]]

    def refresh(listed: Any, told: Any, run: str | None, *seen: Any) -> list[Any]:
        choices = desk.choices()
        names = [name for _, name in choices]
        kept = run if run in names else next(iter(names), None)
        # An unchanged list is not sent again: it would close the picker under the user's hand.
        picker = gr.skip() if choices == listed and kept == run else gr.update(choices=choices, value=kept)
        talk = [gr.skip()] * 4 if kept == run else _silence()
        return [choices, picker, *talk, *pythons(told), *show(kept, *seen)]

    def pick(run: str | None, _: str, sort: str, layout: str, before: RunView | None) -> list[Any]:
        return [*_silence(), "", *show(run, "", sort, layout, before)]

    def select(message: str, run: str | None, _: str, *seen: Any) -> list[Any]:
        # The page puts a counter before the value: the same row can be pressed twice, and 5.x may fire twice.
        return show(run, message.partition("|")[2], *seen)

    def resort(message: str, run: str | None, selected: str, _: str, *seen: Any) -> list[Any]:
        sort = message.partition("|")[2] or DEFAULT_SORT
        return [sort, *show(run, selected, sort, *seen)]

    known = [page.choices, page.pythons, *page.seen]
    told = [page.pythons, page.python, page.environment]
    refreshed = [page.choices, page.runs, *page.talk, *told, *page.views]
    page.refresh.click(refresh, known, refreshed, **_UNLISTED)
    page.poll.click(refresh, known, refreshed, **_QUIET)
    # `input`, not `change`: a refresh that sets the same value again must not start everything anew.
    page.runs.input(pick, page.seen, [*page.talk, page.progress, *page.views], **_QUIET)
    page.layout.input(show, page.seen, page.views, **_QUIET)
    page.selected_box.change(select, [page.selected_box, *page.seen], page.views, **_QUIET)
    page.sort_box.change(resort, [page.sort_box, *page.seen], [page.sort, *page.views], **_QUIET)


def _wire_python(desk: Desk, page: _Page) -> None:
    """Which Python trains: chosen from those that this machine names."""
    chosen = page.python.input(desk.python.choose, page.python, page.environment, **_UNLISTED)
    chosen.then(partial(_show, desk), page.seen, page.views, **_QUIET)


def _wire_script(desk: Desk, page: _Page, gym: Gym | None) -> None:
    """Everything that changes a script."""
    written = [*page.talk, page.receipt, page.resumed_from, *page.views]

    def on(button: gr.Button, given: gr.State, act: Callable[..., Outcome]) -> Any:
        def press(what: Any, run: str | None, selected: str, sort: str, layout: str, _: Any) -> list[Any]:
            result = act(what, run or "", selected, layout)
            # The path is a token too: True after “Start fresh”, None where nothing was written.
            resumed_from = (str(result.state_path) if result.state_path else True) if result.written else None
            talk = [result.message, _shown(result.receipt is not None), _shown(False), _shown(False)]
            return [*talk, result.receipt, resumed_from, *_show(desk, run, selected, sort, layout, None)]

        inputs = [given, *page.seen]
        if button is not page.resume:
            return button.click(press, inputs, written, **_UNLISTED)
        # Versions that nobody has tried are tried first; what that shows decides with the rest.
        tried = button.click(partial(_follow, desk.rehearse_unusual), *_followed(page), **_UNLISTED)
        return tried.then(press, inputs, written, **_QUIET)

    def ask_fresh(run: str) -> list[Any]:
        told, change = desk.preview_fresh(run or "")
        return [told, _shown(False), _shown(change is not None), _shown(change is not None), change]

    page.fresh.click(ask_fresh, page.runs, [*page.talk, page.fresh_change], **_UNLISTED)
    page.fresh_no.click(_silence, None, page.talk, **_UNLISTED)
    events = (
        on(page.resume, page.change, lambda plan, run, name, layout: desk.resume(run, name, plan, layout)),
        on(page.fresh_yes, page.fresh_change, lambda plan, run, *_: desk.start_fresh(run, plan)),
        on(page.undo, page.receipt, lambda receipt, *_: desk.undo(receipt)),
    )
    if gym is not None and gym.is_connected:
        for event in events:
            _carry_into_gym(event, page, gym, desk)


def _carry_into_gym(event: Any, page: _Page, gym: Gym, desk: Desk) -> None:
    """After a change: set FluxGym's own components, so that its “Start training” does not undo the choice."""

    def carry(state: str | bool | None, run: str, message: str, *values: Any) -> list[Any]:
        if state is None:
            return [gr.skip()] * (len(gym.targets) + 1)
        result, told = gym.carry(values, run, desk.box_value(state))
        kept = result if result is not None else [gr.skip()] * len(gym.targets)
        return [message + info_view(told), *kept]

    inputs = [page.resumed_from, page.runs, page.result, *gym.inputs]
    event.then(carry, inputs, [page.result, *gym.targets], **_QUIET)


def _wire_long_work(desk: Desk, page: _Page) -> None:
    """What takes its time, with progress and cancel. The user may go on to other checkpoints meanwhile."""

    def on(button: gr.Button, work: Callable[..., Iterator[str]]) -> None:
        done = button.click(partial(_follow, work), *_followed(page), concurrency_limit=4, **_QUIET)
        # A step of its own, so that it shows what is selected when the work ends, not when it began.
        done.then(partial(_show, desk), page.seen, page.views, **_QUIET)

    on(page.verify, desk.verify)
    on(page.rehearse, desk.rehearse)
    page.cancel.click(lambda key: desk.cancel(*key) if key else None, page.working, None, **_UNLISTED)


def _followed(page: _Page) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs of long work."""
    return [page.runs, page.selected, page.layout], [page.progress, page.cancel, page.working]


def _follow(work: Callable[..., Iterator[str]], run: str, selected: str, layout: str) -> Iterator[list[Any]]:
    told = ""
    for told in work(run or "", selected, layout):
        yield [told, _shown(True), (run or "", selected)]
    yield [told, _shown(False), None]


def _wire_download(desk: Desk, page: _Page) -> None:
    def make(run: str, layout: str) -> Any:
        return gr.update(value=str(desk.diagnosis_file(run or "", layout)), visible=True)

    made = page.download.click(_telling(make), [page.runs, page.layout], page.report, **_UNLISTED)
    made.then(None, page.report, None, js=DOWNLOAD, **_UNLISTED)


def _telling(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with what it raises for the caller's mistakes as a message that Gradio passes on."""

    def told(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (LookupError, OutputsFolderError, WriteFailed) as error:
            raise gr.Error(str(error)) from error

    # For the names of an endpoint's parameters; `functools.wraps` does more than Gradio 4 can read.
    told.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return told


def _wire_api(desk: Desk) -> None:
    """Named endpoints for ``gradio_client``: names in, JSON out. Components of theirs are never in the page."""
    run, checkpoint = gr.Textbox(visible=False, label="run"), gr.Textbox(visible=False, label="checkpoint")
    answer, file = gr.JSON(visible=False), gr.File(visible=False)

    def endpoint(name: str, function: Any, inputs: list[Any], output: Any = answer) -> None:
        gr.Button(name, visible=False).click(_telling(function), inputs, output, api_name=name, **_LISTED)

    endpoint("runs", partial(answers.runs, desk), [])
    endpoint("checkpoint_table", partial(answers.checkpoint_table, desk), [run])
    for function in (answers.check, answers.preview_resume, answers.apply_resume):
        endpoint(function.__name__, partial(function, desk), [run, checkpoint])
    endpoint("diagnosis_report", lambda name: str(desk.diagnosis_file(name)), [run], file)


def mount(demo: gr.Blocks, fluxgym: Path | str | None = None) -> None:
    """Add the tab to a FluxGym that is being built: inside its ``with gr.Blocks() as demo``, after its ``gr.Tabs``.

    Never raises: a defect here must not keep FluxGym from starting; it is logged, and the tab is left out.

    :param demo: FluxGym's page.
    :param fluxgym: FluxGym's folder; by default the one that the running ``app.py`` lies in.
    """
    restore = snapshot(demo)
    try:
        tabs = _tabs_of(demo)
        if tabs is None:
            raise LookupError("the page has no tabs")
        root = fluxgym or Path(getattr(sys.modules["__main__"], "__file__", None) or "app.py").parent
        with tabs, gr.TabItem("Checkpoints", id="checkpoints", elem_id="ck-tab") as tab:
            gym = find_gym(demo.blocks.values(), demo.fns.values())
            build_tab(Path(root).absolute() / "outputs", gym, hosting=True)
        # A tab that is opened shows what is on the disk now; opened or not, it costs FluxGym's page nothing.
        tab.select(None, None, None, js=OPENED, **_UNLISTED)
        demo.load(None, None, None, js=SCRIPT, **_UNLISTED)
    except Exception:  # whatever happens, FluxGym starts
        restore()
        logging.getLogger(__name__).exception("The Checkpoints tab was not added.")


def _tabs_of(page: gr.Blocks) -> gr.Tabs | None:
    return next((block for block in page.blocks.values() if isinstance(block, gr.Tabs)), None)


def make_app(outputs: Path | str, python: Path | None = None) -> gr.Blocks:
    """The tab alone, as a page of its own.

    :param python: the Python that trains, if it is not found in FluxGym's folder.
    """
    with gr.Blocks(title="Checkpoints") as demo:
        build_tab(outputs, python=python)
        demo.load(None, None, None, js=SCRIPT, **_UNLISTED)
        demo.load(None, None, None, js=OPENED, **_UNLISTED)
    return demo


def launch(fluxgym: Path, arguments: list[str]) -> None:
    """Run the unedited FluxGym with the tab in it, as ``python app.py`` in its folder would; returns when it ends.

    The tab is added just before the page's own ``with`` closes, so theme, css, js, events and the arguments of
    ``demo.launch()`` stay FluxGym's own.
    """
    close = gr.Blocks.__exit__

    def mount_then_close(self: gr.Blocks, kind: Any = None, error: Any = None, trace: Any = None) -> Any:
        if kind is None and self.parent is None and _tabs_of(self) is not None:
            gr.Blocks.__exit__ = close  # type: ignore[method-assign]
            mount(self, fluxgym)
        return close(self, kind, error, trace)

    gr.Blocks.__exit__ = mount_then_close  # type: ignore[method-assign]
    run_app(fluxgym, arguments)


cli = typer.Typer(add_completion=False, no_args_is_help=True, help="The Checkpoints tab for FluxGym.")
_FluxGym = Annotated[Path, typer.Option("--fluxgym", help="FluxGym's folder, the one with app.py in it.")]
_Port = Annotated[int, typer.Option(help="Port to serve on; 0 takes the first free one from 7860.")]
_Folder = Annotated[Path | None, typer.Option(help="Where to make the example; by default a new folder.")]
_Python = Annotated[
    Path | None, typer.Option(help="The Python that trains, if it is not found in FluxGym's folder.")
]
_Listen = Annotated[str, typer.Option(help="Address to serve on; 0.0.0.0 lets other machines in.")]


def _serve(outputs: Path, port: int, listen: str, python: Path | None) -> None:
    make_app(outputs, python).launch(
        server_port=port or None, server_name=listen, show_error=True, inbrowser=False
    )


@contextmanager
def _telling_refusals() -> Iterator[None]:
    """End the command with a sentence: status 2 for a wrong folder, 1 for an ``app.py`` that was left alone."""
    try:
        yield
    except (NotFluxGym, NotEdited) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2 if isinstance(error, NotFluxGym) else 1) from error


@cli.command()
def demo(folder: _Folder = None, port: _Port = 0, listen: _Listen = "127.0.0.1") -> None:
    """Make a sample outputs folder with real states, good and broken, and serve the tab on it."""
    target = folder or Path(tempfile.mkdtemp(prefix="fluxgym-demo-"))
    typer.echo(f"Training a few small LoRAs for real, to have something to look at: {target}")
    maker = [sys.executable, "-m", "checkpoint_core.trainer_side.sample_outputs", str(target)]
    made = subprocess.run(maker, cwd=Path(__file__).parent)
    if made.returncode:
        raise typer.Exit(made.returncode)
    _serve(target / "outputs", port, listen, Path(sys.executable))


@cli.command()
def serve(fluxgym: _FluxGym, port: _Port = 0, listen: _Listen = "127.0.0.1", python: _Python = None) -> None:
    """Serve the tab alone, on a FluxGym's outputs folder."""
    with _telling_refusals():
        _serve(outputs_in(fluxgym), port, listen, python)


@cli.command(name="launch", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def launch_command(context: typer.Context, fluxgym: _FluxGym) -> None:
    """Run the unedited FluxGym with the tab in it; further arguments go to FluxGym's app.py."""
    with _telling_refusals():
        folder = app_in(fluxgym).parent
    launch(folder, list(context.args))


@cli.command()
def install(fluxgym: _FluxGym) -> None:
    """Add two marked lines to FluxGym's app.py, so that the tab is there at every start."""
    with _telling_refusals():
        typer.echo(add_tab(app_in(fluxgym), Path(__file__).resolve().parent))


@cli.command()
def uninstall(fluxgym: _FluxGym) -> None:
    """Take the two lines out of FluxGym's app.py again."""
    with _telling_refusals():
        typer.echo(remove_tab(app_in(fluxgym)))


if __name__ == "__main__":
    cli()
