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

from checkpoint_core.atomic_write import WriteFailed
from checkpoint_core.installation import PROJECT, is_installed, module_folder
from checkpoint_core.recovery import Choices
from checkpoint_core.states import OutputsFolderError
from checkpoint_core.tab import (
    ASKED,
    DEFAULT_SORT,
    DOWNLOAD,
    LAYOUTS,
    OPENED,
    SCRIPT,
    SELECTED_BOX,
    SORT_BOX,
    STYLE,
    WAY_BOX,
    Gym,
    NotEdited,
    NotFluxGym,
    Outcome,
    PageSession,
    RunView,
    TabPresenter,
    Told,
    TrainingView,
    add_tab,
    app_in,
    apply_resume,
    check,
    checkpoint_table,
    error_view,
    find_gym,
    info_view,
    outputs_in,
    preview_resume,
    remove_tab,
    run_app,
    runs,
    snapshot,
)

_EPOCH_PLACES = [("the train script (--initial_epoch)", False), ("the checkpoint (train_state.json)", True)]
_SKIP_LABEL = "In an unfinished epoch, skip the steps that were trained already (--skip_until_initial_step)"
_LAYOUT_LABEL = "Judge checkpoints by the files of"
#: How many outputs show a run; see ``_Page.views``.
_VIEWS = 17
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
    :param gym: FluxGym's own components, found by :func:`checkpoint_core.tab.host.gym.find_gym`, to keep them in step.
    :param python: the Python that trains, if it is neither this one nor found in FluxGym's folder.
    :param hosting: this process is FluxGym itself, so its own Python starts the training.
    :returns: the column that holds everything (``elem_id`` ``ck-root``).
    """
    presenter = TabPresenter(outputs, python=python, hosting=hosting)
    with gr.Column(elem_id="ck-root") as root:
        page = _Page(gym)
    _wire_views(presenter, page)
    _wire_script(presenter, page, gym)
    _wire_training(presenter, page)
    _wire_long_work(presenter, page)
    _wire_python(presenter, page)
    _wire_download(presenter, page)
    _wire_api(presenter)
    return root


class _Page:
    """The components of one built tab, in their order on the page."""

    def __init__(self, gym: Gym | None) -> None:
        gr.HTML(f"<style>{STYLE}</style>", elem_classes=["ck-hidden"])
        with gr.Row(elem_classes=["ck-bar"]):
            self.runs = gr.Dropdown([], label="Run", scale=6, min_width=240, interactive=True)
            self.refresh = _button("Refresh", 110, scale=0)
        self.headline = _html()
        self.training = _html()
        with gr.Row(elem_classes=["ck-bar"]):
            self.stop = _button("Stop training", 150, visible=False, scale=0)
            self.watch = _button("Watch it", 120, visible=False, scale=0)
        with gr.Accordion("Log", open=False, visible=False) as self.log_part:
            self.log = _html()
        with gr.Accordion(
            "Journal: what was decided, and why", open=False, visible=False
        ) as self.journal_part:
            self.journal = _html()
        self.table, self.options, self.panel, self.preview = (_html() for _ in range(4))
        with gr.Row(elem_classes=["ck-bar"]):
            self.resume_now = _button("Resume now", 130, variant="primary", interactive=False)
            self.resume = _button("Resume from this checkpoint", 240, interactive=False)
            self.repair = _button("Repair and resume", 170, variant="primary", visible=False)
            self.rehearse = _button("Rehearse resume", 150, interactive=False)
            self.verify = _button("Verify every byte", 150, interactive=False)
            self.cancel = _button("Cancel", 120, visible=False)
            self.fresh = _button("Start fresh", 120, interactive=False)
            self.download = _button("Download diagnosis", 160, interactive=False)
        with gr.Row(elem_classes=["ck-bar"]):
            self.start = _button("Start training", 150, scale=0, visible=False)
            self.bring_back = gr.Checkbox(
                True, label="Bring it back if it crashes", container=False, min_width=240, interactive=True
            )
        self.refusal, self.progress = _html("ck-refusal"), _html()
        self.result = _html("ck-result")
        with gr.Row(elem_classes=["ck-bar"]):
            self.undo = _button("Undo", 120, visible=False, scale=0)
            self.fresh_yes = _button("Yes, remove --resume", 180, variant="primary", visible=False, scale=0)
            self.way_yes = _button("Yes, do it", 120, variant="primary", visible=False, scale=0)
            self.fresh_no = _button("No, keep it", 120, visible=False, scale=0)
        self.report = gr.File(label="Diagnosis", visible=False, interactive=False)
        with gr.Accordion("Room on the disk", open=False) as self.room_part:
            self.disk = _html()
            self.spare = gr.CheckboxGroup([], label="Checkpoints to remove", visible=False, interactive=True)
            self.remove = _button("Remove the ticked checkpoints", 240, visible=False)
        with gr.Accordion("Options", open=False):
            self.layout = gr.Dropdown(LAYOUTS, value="auto", label=_LAYOUT_LABEL, interactive=True)
            self.python = gr.Dropdown([], label="Python that trains", interactive=True)
            self.epoch_in = gr.Radio(
                _EPOCH_PLACES, value=False, label="Write a corrected epoch into", interactive=True
            )
            self.epochs = gr.Number(
                8, label="Epochs to add to a finished training", precision=0, minimum=1, interactive=True
            )
            self.skip = gr.Checkbox(False, label=_SKIP_LABEL, interactive=True)
            self.environment = _html()
            gr.HTML(info_view(gym.describe()) if gym else "")
        # In the page though not seen: `visible=False` would keep them out of it on Gradio 5 and 6.
        self.selected_box = gr.Textbox("", elem_id=SELECTED_BOX, elem_classes=["ck-hidden"], label="Selected")
        self.sort_box = gr.Textbox("", elem_id=SORT_BOX, elem_classes=["ck-hidden"], label="Sort")
        self.way_box = gr.Textbox("", elem_id=WAY_BOX, elem_classes=["ck-hidden"], label="Way")
        self.poll = gr.Button("Poll", elem_id="ck-poll", elem_classes=["ck-hidden"])
        self.live = gr.Button("Live", elem_id="ck-live", elem_classes=["ck-hidden"])
        self.session = gr.State(PageSession())
        self.choices, self.pythons, self.fresh_change, self.question = (gr.State(None) for _ in range(4))
        self.receipt, self.resumed_from, self.working = (gr.State(None) for _ in range(3))

    @property
    def who(self) -> list[Any]:
        """The inputs of every handler that shows a run: the page's seat, and the picker's run where that is empty."""
        return [self.session, self.runs]

    @property
    def views(self) -> list[Any]:
        """The outputs that show a run, in the order of :func:`_view_updates`."""
        return [
            *(self.headline, self.table, self.options, self.panel, self.preview, self.refusal),
            *(
                self.repair,
                self.resume_now,
                self.resume,
                self.rehearse,
                self.verify,
                self.fresh,
                self.download,
            ),
            *(self.room_part, self.disk, self.spare, self.remove),
        ]

    @property
    def training_views(self) -> list[Any]:
        """The outputs that show a run's training, in the order of :func:`_training_updates`."""
        return [
            *(self.training, self.log_part, self.log, self.journal_part, self.journal),
            *(self.start, self.stop, self.watch, self.bring_back),
        ]

    @property
    def talk(self) -> list[Any]:
        """The outputs below the buttons that speak of one run and must not outlive a change to another."""
        return [self.result, self.undo, self.fresh_yes, self.way_yes, self.fresh_no]


def _button(label: str, min_width: int, **more: Any) -> gr.Button:
    return gr.Button(label, size="sm", min_width=min_width, **more)


def _html(elem_id: str | None = None) -> gr.HTML:
    return gr.HTML("", elem_id=elem_id, elem_classes=["ck-part"])


def _shown(is_shown: bool) -> Any:
    return gr.update(visible=is_shown)


def _silence() -> list[Any]:
    """Updates for ``talk``: nothing said, nothing asked."""
    return _told("")


def _told(message: str, *, undo: bool = False, fresh: bool = False, option: bool = False) -> list[Any]:
    """Updates for ``talk``: what is said, and which buttons answer it."""
    return [message, _shown(undo), _shown(fresh), _shown(option), _shown(fresh or option)]


def _view_updates(view: RunView, before: RunView | None = None) -> list[Any]:
    """Updates for ``views``; none at all where nothing differs, so that a refresh moves nothing."""
    if view == before:
        return [gr.skip()] * _VIEWS
    refusal = error_view(view.refusal) if view.refusal else ""
    has_run, has_row = gr.update(interactive=bool(view.run)), gr.update(interactive=bool(view.selected))
    return [
        *(view.headline, view.table, view.options, view.panel, view.preview, refusal),
        *(
            _shown(view.repair_plan is not None),
            gr.update(interactive=view.resumes),
            gr.update(interactive=view.resumes),
            has_row,
            has_row,
            has_run,
            has_run,
        ),
        *_room_updates(view, before),
    ]


def _room_updates(view: RunView, before: RunView | None) -> list[Any]:
    """Updates for the room on the disk; what is ticked stays while the choice is the same."""
    choices = list(view.disk.choices)
    same = before is not None and (before.run, before.disk.choices) == (view.run, view.disk.choices)
    ticks = gr.skip() if same else gr.update(choices=choices, value=[], visible=bool(choices))
    was_tight = before is not None and before.run == view.run and before.disk.is_tight
    opened = gr.update(open=True) if view.disk.is_tight and not was_tight else gr.skip()
    return [opened, view.disk.view, ticks, _shown(bool(choices))]


def _training_updates(now: TrainingView, before: TrainingView | None) -> list[Any]:
    """Updates for ``training_views``; each part only where it differs, so that an open log stays where it is."""

    def part(name: str, update: Any) -> Any:
        value = getattr(now, name)
        return gr.skip() if before is not None and getattr(before, name) == value else update(value)

    return [
        part("training", str),
        part("has_trace", _shown),
        part("log", str),
        part("has_trace", _shown),
        part("journal", str),
        part("can_start", _shown),
        part("can_stop", _shown),
        part("can_watch", _shown),
        part("bring_back", lambda value: gr.update(value=value)),
    ]


def _show(
    presenter: TabPresenter, session: PageSession, picked: str | None, *, again: bool = False, **chosen: Any
) -> list[Any]:
    """Updates for ``views`` after what was chosen: ``run``, ``selected``, ``sort``, ``layout``, ``choices``."""
    with session.turn:
        session.pick(chosen.pop("run", session.run or picked or ""))
        for name, value in chosen.items():
            setattr(session, name, value)
        view, before = session.look(presenter)
        return _view_updates(view, None if again else before)


def _wire_views(presenter: TabPresenter, page: _Page) -> None:
    """Everything that shows and changes nothing."""
    show = partial(_show, presenter)

    def pythons(told: Any) -> list[Any]:
        now = (presenter.python.choices(), presenter.python.chosen(), presenter.python.view())
        picker = gr.update(choices=now[0], value=now[1])
        return [gr.skip()] * 3 if now == told else [now, picker, now[2]]

    def refresh(listed: Any, told: Any, session: PageSession, run: str | None) -> list[Any]:
        choices = presenter.choices()
        with session.turn:
            kept = session.keep([name for _, name in choices], run or "")
            # An unchanged list is not sent again: it would close the picker under the user's hand.
            same = choices == listed and kept == (run or "")
            picker = gr.skip() if same else gr.update(choices=choices, value=kept or None)
            talk = [gr.skip()] * 5 if kept == (run or "") else _silence()
            return [choices, picker, *talk, *pythons(told), *show(session, kept)]

    def pick(session: PageSession, run: str | None) -> list[Any]:
        # Gradio's picker tells one choice twice: the second may come after the user has gone on.
        if run == session.run:
            return [gr.skip()] * (_VIEWS + 6)
        return [*_silence(), "", *show(session, run, run=run or "")]

    def select(message: str, *who: Any) -> list[Any]:
        # The page puts a counter before the value: the same row can be pressed twice, and 5.x may fire twice.
        return show(*who, selected=message.partition("|")[2])

    def choose(epoch_in_state: bool, epochs: float | None, skip: bool, *who: Any) -> list[Any]:
        return show(*who, choices=Choices.of(epoch_in_state, epochs, skip))

    def resort(message: str, *who: Any) -> list[Any]:
        return show(*who, sort=message.partition("|")[2] or DEFAULT_SORT)

    known = [page.choices, page.pythons, *page.who]
    told = [page.pythons, page.python, page.environment]
    refreshed = [page.choices, page.runs, *page.talk, *told, *page.views]
    events = (
        page.refresh.click(refresh, known, refreshed, **_UNLISTED),
        page.poll.click(refresh, known, refreshed, **_QUIET),
        # `input`, not `change`: a refresh that sets the same value again must not start everything anew.
        page.runs.input(pick, page.who, [*page.talk, page.progress, *page.views], **_QUIET),
    )
    for event in events:
        _then_look_at_training(event, presenter, page)
    layout = [page.layout, *page.who]
    page.layout.input(lambda name, *who: show(*who, layout=name), layout, page.views, **_QUIET)
    boxes = (page.epoch_in, page.epochs, page.skip)
    chosen = [*boxes, *page.who]
    for box in boxes:
        # `change`: Gradio may tell an input before the number has its new value; nothing else sets these.
        box.change(choose, chosen, page.views, **_QUIET)
    page.selected_box.change(select, [page.selected_box, *page.who], page.views, **_QUIET)
    page.sort_box.change(resort, [page.sort_box, *page.who], page.views, **_QUIET)


def _then_look_at_training(event: Any, presenter: TabPresenter, page: _Page) -> None:
    """After an event: how the training of the run stands."""
    event.then(partial(_look_at_training, presenter), page.session, page.training_views, **_QUIET)


def _look_at_training(presenter: TabPresenter, session: PageSession) -> list[Any]:
    return _training_updates(*session.look_at_training(presenter))


def _wire_training(presenter: TabPresenter, page: _Page) -> None:
    """Trainings: seen while they run, started, watched, stopped; and room made for their saves."""
    asked_outputs = [*page.talk, page.question]

    def told(result: Told) -> list[Any]:
        return [*_told(result.message, option=result.question is not None), result.question]

    def start(bring_back: bool, session: PageSession) -> list[Any]:
        return told(presenter.training.start(session.run, bring_back))

    def watch(bring_back: bool, session: PageSession) -> list[Any]:
        return told(presenter.training.watch(session.run, bring_back))

    def ask_stop(session: PageSession) -> list[Any]:
        return told(presenter.training.ask_stop(session.run))

    def ask_remove(names: list[str], session: PageSession) -> list[Any]:
        return told(presenter.training.ask_remove(session.run, names or [], session.layout))

    def set_bring_back(wanted: bool, session: PageSession) -> None:
        presenter.training.set_bring_back(session.run, wanted)

    page.live.click(partial(_look_at_training, presenter), page.session, page.training_views, **_QUIET)
    page.bring_back.input(set_bring_back, [page.bring_back, page.session], None, **_QUIET)
    chosen = [page.bring_back, page.session]
    events = (
        page.start.click(start, chosen, asked_outputs, **_UNLISTED),
        page.watch.click(watch, chosen, asked_outputs, **_UNLISTED),
        page.stop.click(ask_stop, page.session, asked_outputs, **_UNLISTED),
        page.remove.click(ask_remove, [page.spare, page.session], asked_outputs, **_UNLISTED),
    )
    for event in events:
        _then_look_at_training(event, presenter, page)
        event.then(None, None, None, js=ASKED, **_UNLISTED)


def _wire_python(presenter: TabPresenter, page: _Page) -> None:
    """Which Python trains: chosen from those that this machine names."""
    chosen = page.python.input(presenter.python.choose, page.python, page.environment, **_UNLISTED)
    chosen.then(partial(_show, presenter), page.who, page.views, **_QUIET)


def _written(presenter: TabPresenter, result: Outcome, session: PageSession, run: str | None) -> list[Any]:
    """Updates after a press that may have changed the script."""
    # The path is a token too: True after “Start fresh”, None where nothing was written.
    resumed_from = (str(result.state_path) if result.state_path else True) if result.written else None
    talk = _told(result.message, undo=result.receipt is not None, option=result.question is not None)
    return [*talk, result.receipt, resumed_from, *_show(presenter, session, run, again=True)]


def _wire_script(presenter: TabPresenter, page: _Page, gym: Gym | None) -> None:
    """Everything that changes a script."""
    written = [*page.talk, page.receipt, page.resumed_from, *page.views]

    written_by = partial(_written, presenter)

    def try_first(session: PageSession, run: str | None) -> Iterator[list[Any]]:
        # What was shown when the button was pressed is what is written, wherever the user goes meanwhile.
        session.pressed = session.shown
        yield from _follow(presenter.trials.rehearse_unusual, session, run)

    def resume(session: PageSession, run: str | None) -> list[Any]:
        return written_by(presenter.resume_shown(session.pressed, session.layout), session, run)

    def start_fresh(change: Any, session: PageSession, run: str | None) -> list[Any]:
        return written_by(presenter.start_fresh(session.run, change), session, run)

    def undo(receipt: Any, session: PageSession, run: str | None) -> list[Any]:
        return written_by(presenter.undo(session.run, receipt), session, run)

    def ask_fresh(session: PageSession, run: str | None) -> list[Any]:
        told, change = presenter.preview_fresh(session.run or run or "")
        return [*_told(told, fresh=change is not None), change]

    def ask_way(message: str, session: PageSession, run: str | None) -> list[Any]:
        wanted = message.partition("|")[2]
        asked = presenter.repairs.ask(
            session.run or run or "", session.selected, wanted, session.layout, session.choices
        )
        return [*_told(asked[0], option=asked[1] is not None), asked[1]]

    def resume_now(bring_back: bool, session: PageSession, run: str | None) -> list[Any]:
        result = presenter.resume_now(session.pressed, session.layout, bring_back)
        return [*written_by(result, session, run), result.question]

    def answer(question: Any, session: PageSession, run: str | None) -> list[Any]:
        result = presenter.answer(session.run, question)
        return [*written_by(result, session, run), result.question]

    def repair(session: PageSession, run: str | None) -> list[Any]:
        return written_by(presenter.repair_shown(session.shown, session.layout), session, run)

    # Versions that nobody has tried are tried first; what that shows decides with the rest.
    tried = page.resume.click(try_first, *_followed(page), **_UNLISTED)
    page.fresh.click(ask_fresh, page.who, [*page.talk, page.fresh_change], **_UNLISTED)
    page.fresh_no.click(_silence, None, page.talk, **_UNLISTED)
    asked = page.way_box.change(ask_way, [page.way_box, *page.who], [*page.talk, page.question], **_QUIET)
    asked.then(None, None, None, js=ASKED, **_UNLISTED)
    tried_now = page.resume_now.click(try_first, *_followed(page), **_UNLISTED)
    now = [page.bring_back, *page.who]
    events = (
        tried_now.then(resume_now, now, [*written, page.question], **_QUIET),
        tried.then(resume, page.who, written, **_QUIET),
        page.repair.click(repair, page.who, written, **_UNLISTED),
        page.way_yes.click(answer, [page.question, *page.who], [*written, page.question], **_UNLISTED),
        page.fresh_yes.click(start_fresh, [page.fresh_change, *page.who], written, **_UNLISTED),
        page.undo.click(undo, [page.receipt, *page.who], written, **_UNLISTED),
    )
    for event in events:
        _then_look_at_training(event, presenter, page)
    for event in events if gym is not None and gym.is_connected else ():
        _carry_into_gym(event, page, gym, presenter)


def _carry_into_gym(event: Any, page: _Page, gym: Gym, presenter: TabPresenter) -> None:
    """After a change: set FluxGym's own components, so that its “Start training” does not undo the choice."""

    def carry(state: str | bool | None, run: str, message: str, *values: Any) -> list[Any]:
        if state is None:
            return [gr.skip()] * (len(gym.targets) + 1)
        result, told = presenter.carry(gym, values, run, state)
        kept = result if result is not None else [gr.skip()] * len(gym.targets)
        return [message + info_view(told), *kept]

    inputs = [page.resumed_from, page.runs, page.result, *gym.inputs]
    event.then(carry, inputs, [page.result, *gym.targets], **_QUIET)


def _wire_long_work(presenter: TabPresenter, page: _Page) -> None:
    """What takes its time, with progress and cancel. The user may go on to other checkpoints meanwhile."""

    def on(button: gr.Button, work: Callable[..., Iterator[str]]) -> None:
        done = button.click(partial(_follow, work), *_followed(page), concurrency_limit=4, **_QUIET)
        # A step of its own, so that it shows what is selected when the work ends, not when it began.
        done.then(partial(_show, presenter), page.who, page.views, **_QUIET)

    on(page.verify, presenter.trials.verify)
    on(page.rehearse, presenter.trials.rehearse)
    page.cancel.click(
        lambda key: presenter.trials.cancel(*key) if key else None, page.working, None, **_UNLISTED
    )


def _followed(page: _Page) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs of long work."""
    return page.who, [page.progress, page.cancel, page.working]


def _follow(
    work: Callable[..., Iterator[str]], session: PageSession, picked: str | None
) -> Iterator[list[Any]]:
    told, about = "", (session.run or picked or "", session.selected)
    for told in work(*about, session.layout):
        yield [told, _shown(True), about]
    yield [told, _shown(False), None]


def _wire_download(presenter: TabPresenter, page: _Page) -> None:
    def make(session: PageSession, run: str | None) -> Any:
        return gr.update(
            value=str(presenter.diagnosis_file(session.run or run or "", session.layout)), visible=True
        )

    made = page.download.click(_telling(make), page.who, page.report, **_UNLISTED)
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


def _wire_api(presenter: TabPresenter) -> None:
    """Named endpoints for ``gradio_client``: names in, JSON out. Components of theirs are never in the page."""
    run, checkpoint = gr.Textbox(visible=False, label="run"), gr.Textbox(visible=False, label="checkpoint")
    answer, file = gr.JSON(visible=False), gr.File(visible=False)

    def endpoint(name: str, function: Any, inputs: list[Any], output: Any = answer) -> None:
        gr.Button(name, visible=False).click(_telling(function), inputs, output, api_name=name, **_LISTED)

    endpoint("runs", partial(runs, presenter), [])
    endpoint("checkpoint_table", partial(checkpoint_table, presenter), [run])
    for function in (check, preview_resume, apply_resume):
        endpoint(function.__name__, partial(function, presenter), [run, checkpoint])
    endpoint("diagnosis_report", lambda name: str(presenter.diagnosis_file(name)), [run], file)


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
