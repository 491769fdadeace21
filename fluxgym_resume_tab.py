"""The Checkpoints tab: ``build_tab()``, ``mount()`` into FluxGym, and the commands that serve or install it.

It runs on Gradio 4.44.1 (FluxGym's), 5.x and 6.x. The page itself is built in ``checkpoint_core/tab/ui``.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import gradio as gr
import typer

from checkpoint_core.installation import PROJECT, is_installed, module_folder
from checkpoint_core.tab import (
    NotEdited,
    NotFluxGym,
    add_tab,
    add_to_page,
    app_in,
    build_tab,
    make_app,
    outputs_in,
    remove_tab,
    run_app,
    snapshot,
    tabs_of,
)

__all__ = ["build_tab", "cli", "launch", "make_app", "mount"]


def mount(demo: gr.Blocks, fluxgym: Path | str | None = None) -> None:
    """Add the tab to a FluxGym that is being built: inside its ``with gr.Blocks() as demo``, after its ``gr.Tabs``.

    Never raises: a defect here must not keep FluxGym from starting; it is logged, and the tab is left out.

    :param demo: FluxGym's page.
    :param fluxgym: FluxGym's folder; by default the one that the running ``app.py`` lies in.
    """
    restore = None
    try:
        restore = snapshot(demo)
        root = fluxgym or Path(getattr(sys.modules["__main__"], "__file__", None) or "app.py").parent
        add_to_page(demo, Path(root).absolute() / "outputs")
    except BaseException as error:  # whatever happens, FluxGym starts
        if restore:
            restore()
        if not isinstance(error, Exception):
            raise
        logging.getLogger(__name__).exception("The Checkpoints tab was not added.")


def launch(fluxgym: Path, arguments: list[str]) -> None:
    """Run the unedited FluxGym with the tab in it, as ``python app.py`` in its folder would; returns when it ends.

    The tab is added just before the page's own ``with`` closes, so theme, css, js, events and the arguments of
    ``demo.launch()`` stay FluxGym's own.
    """
    folder = fluxgym.absolute()
    with _before_the_page_closes(lambda page: mount(page, folder)):
        run_app(folder, arguments)


@contextmanager
def _before_the_page_closes(add: Callable[[gr.Blocks], None]) -> Iterator[None]:
    """Call ``add`` once, with the first page that has tabs; Gradio is as it was from then on, and after the block."""
    close = gr.Blocks.__exit__

    def add_then_close(self: gr.Blocks, kind: Any = None, error: Any = None, trace: Any = None) -> Any:
        if kind is None and self.parent is None and tabs_of(self) is not None:
            gr.Blocks.__exit__ = close  # type: ignore[method-assign]
            try:
                add(self)
            except BaseException as stopped:
                close(self, type(stopped), stopped, stopped.__traceback__)
                raise
        return close(self, kind, error, trace)

    gr.Blocks.__exit__ = add_then_close  # type: ignore[method-assign]
    try:
        yield
    finally:
        gr.Blocks.__exit__ = close  # type: ignore[method-assign]


cli = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: the same text on every terminal, and in docs/cli.md
    context_settings={"terminal_width": 80, "max_content_width": 80},
    help="The Checkpoints tab for FluxGym.",
)
_FluxGym = Annotated[Path, typer.Option("--fluxgym", help="FluxGym's folder, the one with app.py in it.")]
_Port = Annotated[int, typer.Option(help="Port to serve on; 0 takes the first free one from 7860.")]
_Folder = Annotated[Path | None, typer.Option(help="Where to make the example; by default a new folder.")]
_Python = Annotated[
    Path | None, typer.Option(help="The training interpreter, if it is not found in FluxGym's folder.")
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
    maker = [sys.executable, "-m", "checkpoint_core.demo.make_outputs", str(target)]
    made = subprocess.run(maker, cwd=module_folder())
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
        typer.echo(add_tab(app_in(fluxgym), None if is_installed() else PROJECT))
    if is_installed():
        typer.echo(f"FluxGym has to be started with the Python of {sys.prefix}: the tab is installed there.")


@cli.command()
def uninstall(fluxgym: _FluxGym) -> None:
    """Take the two lines out of FluxGym's app.py again."""
    with _telling_refusals():
        typer.echo(remove_tab(app_in(fluxgym)))


if __name__ == "__main__":
    cli()
