"""The components of one built tab, in their order on the page."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.blocks import Block

from checkpoint_core.tab.host.gym import Gym
from checkpoint_core.tab.presenter import LAYOUTS
from checkpoint_core.tab.session import PageSession
from checkpoint_core.tab.views.actions import info_view
from checkpoint_core.tab.views.assets import STYLE
from checkpoint_core.tab.views.markup import OPTION_BOX, SELECTED_BOX, SORT_BOX

_EPOCH_PLACES = [("the train script (--initial_epoch)", False), ("the checkpoint (train_state.json)", True)]
_SKIP_LABEL = "In an unfinished epoch, skip the steps that were trained already (--skip_until_initial_step)"
_LAYOUT_LABEL = "Judge checkpoints by the files of"
_HIDDEN = ["ck-hidden"]


class Page:
    """The components of one built tab; to be made where they shall stand.

    :param gym: FluxGym's own components, to say whether they are kept in step.
    """

    def __init__(self, gym: Gym | None) -> None:
        gr.HTML(f"<style>{STYLE}</style>", elem_classes=_HIDDEN)
        self._add_run()
        self._add_training()
        self.table, self.recovery, self.panel, self.preview = (_html() for _ in range(4))
        self._add_buttons()
        self._add_answers()
        self._add_disk()
        self._add_options(gym)
        self._add_channels()
        self._add_memory()

    def _add_run(self) -> None:
        with _bar():
            self.runs = gr.Dropdown([], label="Run", scale=6, min_width=240, interactive=True)
            self.refresh = _button("Refresh", 110, scale=0)
        self.headline = _html()

    def _add_training(self) -> None:
        self.training = _html()
        with _bar():
            self.stop = _button("Stop training", 150, visible=False, scale=0)
            self.retry = _button("Restart now", 120, visible=False, scale=0)
            self.watch = _button("Monitor this training", 120, visible=False, scale=0)
        with gr.Accordion("Log", open=False, visible=False) as self.log_part:
            self.log = _html()
        journal = gr.Accordion("Event log", open=False, visible=False)
        with journal as self.journal_part:
            self.journal = _html()

    def _add_buttons(self) -> None:
        with _bar():
            self.resume_now = _button("Resume now", 130, variant="primary", interactive=False)
            self.resume = _button("Resume from this checkpoint", 240, interactive=False)
            self.repair = _button("Repair and resume", 170, variant="primary", visible=False)
            self.rehearse = _button("Rehearse resume", 150, interactive=False)
            self.verify = _button("Verify every byte", 150, interactive=False)
            self.cancel = _button("Cancel", 120, visible=False)
            self.fresh = _button("Start fresh", 120, interactive=False)
            self.download = _button("Download diagnosis", 160, interactive=False)
        with _bar():
            self.start = _button("Start training", 150, scale=0, visible=False)
            self.restart = gr.Checkbox(
                True,
                label="Restart automatically after a crash",
                container=False,
                min_width=240,
                interactive=True,
            )

    def _add_answers(self) -> None:
        self.refusal, self.progress = _html("ck-refusal"), _html()
        self.result = _html("ck-result")
        with _bar():
            self.undo = _button("Undo", 120, visible=False, scale=0)
            self.confirm_fresh = _button(
                "Yes, remove --resume", 180, variant="primary", visible=False, scale=0
            )
            self.confirm = _button("Yes, do it", 120, variant="primary", visible=False, scale=0)
            self.decline = _button("No, keep it", 120, visible=False, scale=0)
        self.report = gr.File(label="Diagnosis", visible=False, interactive=False)

    def _add_disk(self) -> None:
        with gr.Accordion("Disk space", open=False) as self.disk_part:
            self.disk = _html()
            self.removable = gr.CheckboxGroup(
                [], label="Checkpoints to remove", visible=False, interactive=True
            )
            self.remove = _button("Remove the ticked checkpoints", 240, visible=False)

    def _add_options(self, gym: Gym | None) -> None:
        with gr.Accordion("Options", open=False):
            self.layout = gr.Dropdown(LAYOUTS, value="auto", label=_LAYOUT_LABEL, interactive=True)
            self.interpreter = gr.Dropdown([], label="Training interpreter", interactive=True)
            self.epoch_in = gr.Radio(
                _EPOCH_PLACES, value=False, label="Write a corrected epoch into", interactive=True
            )
            self.epochs = gr.Number(
                8, label="Epochs to add to a finished training", precision=0, minimum=1, interactive=True
            )
            self.skip = gr.Checkbox(False, label=_SKIP_LABEL, interactive=True)
            self.environment = _html()
            gr.HTML(info_view(gym.describe()) if gym else "")

    def _add_channels(self) -> None:
        """What the page's script writes into and presses."""
        # In the page though not seen: `visible=False` would keep them out of it on Gradio 5 and 6.
        self.selected_box = gr.Textbox("", elem_id=SELECTED_BOX, elem_classes=_HIDDEN, label="Selected")
        self.sort_box = gr.Textbox("", elem_id=SORT_BOX, elem_classes=_HIDDEN, label="Sort")
        self.option_box = gr.Textbox("", elem_id=OPTION_BOX, elem_classes=_HIDDEN, label="Way")
        self.poll = gr.Button("Poll", elem_id="ck-poll", elem_classes=_HIDDEN)
        self.live = gr.Button("Live", elem_id="ck-live", elem_classes=_HIDDEN)

    def _add_memory(self) -> None:
        """What the server keeps for one open page."""
        self.session = gr.State(PageSession())
        self.interpreters = gr.State(None)
        self.fresh_change, self.question, self.receipt = (gr.State(None) for _ in range(3))
        self.written, self.working = gr.State(None), gr.State(None)
        self.carried, self.followed = gr.State(None), gr.State(False)

    @property
    def who(self) -> list[Block]:
        """The inputs of a handler that shows a run: the page's session, and the picker's run where that is empty."""
        return [self.session, self.runs]

    @property
    def run_parts(self) -> list[Block]:
        """What shows a run; see :func:`checkpoint_core.tab.ui.updates.run_updates`."""
        return [
            *(self.headline, self.table, self.recovery, self.panel, self.preview, self.refusal),
            *(self.repair, self.resume_now, self.resume, self.rehearse),
            *(self.verify, self.fresh, self.download),
            *(self.disk_part, self.disk, self.removable, self.remove),
        ]

    @property
    def shown_parts(self) -> list[Block]:
        """What shows a run, and the picker, whose label says how it stands."""
        return [self.runs, *self.run_parts]

    @property
    def training_parts(self) -> list[Block]:
        """What shows a run's training; see :func:`checkpoint_core.tab.ui.updates.training_updates`."""
        return [
            *(self.training, self.log_part, self.log, self.journal_part, self.journal),
            *(self.start, self.stop, self.retry, self.watch, self.restart),
        ]

    @property
    def message_parts(self) -> list[Block]:
        """What speaks of one run below the buttons, and must not outlive a change to another."""
        return [self.result, self.undo, self.confirm_fresh, self.confirm, self.decline]


def _bar() -> gr.Row:
    return gr.Row(elem_classes=["ck-bar"])


def _button(label: str, min_width: int, **more: Any) -> gr.Button:
    return gr.Button(label, size="sm", min_width=min_width, **more)


def _html(elem_id: str | None = None) -> gr.HTML:
    return gr.HTML("", elem_id=elem_id, elem_classes=["ck-part"])
