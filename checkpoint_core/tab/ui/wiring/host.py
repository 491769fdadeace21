"""FluxGym's own boxes: a resume is carried into them, and leaves them when the LoRA's name becomes another."""

from __future__ import annotations

from functools import partial
from itertools import zip_longest
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from checkpoint_core.tab.host.carrying import Carried, Carrying, follow_name
from checkpoint_core.tab.host.gym import Gym
from checkpoint_core.tab.page_names import PageName
from checkpoint_core.tab.results import Written
from checkpoint_core.tab.ui.compat import QUIET
from checkpoint_core.tab.ui.updates import Updates, unchanged
from checkpoint_core.tab.ui.wiring.shared import Tab
from checkpoint_core.tab.views.actions import info_view


def wire(tab: Tab, gym: Gym, events: tuple[Dependency, ...]) -> None:
    """Connect FluxGym's components, so that its “Start training” does what was chosen here, and only for that run.

    :param events: those that change a run.
    """
    page = tab.page
    inputs = [page.written, page.runs, page.result, page.carried, *gym.inputs]
    for event in events:
        event.then(partial(carry, tab, gym), inputs, [page.result, page.carried, *gym.targets], **QUIET)
    if gym.lora_name is None:
        return
    changed = gym.lora_name.change(
        partial(follow, tab, gym),
        [page.carried, *gym.inputs],
        # Never the name itself: an answer that comes late would take back what was typed meanwhile.
        [page.carried, page.followed, *(each for each in gym.targets if each is not gym.lora_name)],
        trigger_mode="always_last",
        **QUIET,
    )
    # FluxGym generates its script a second after any typing. Where that began before the boxes were changed it may end
    # after, with what they held: the last word is had with what they hold now, in the queue of FluxGym's own function.
    changed.then(
        partial(generate, gym),
        [page.followed, *gym.inputs],
        gym.outputs,
        concurrency_id=str(id(gym.generate)),
        trigger_mode="always_last",
        **QUIET,
    )


def carry(
    tab: Tab,
    gym: Gym,
    written: Written | None,
    run: PageName,
    message: str,
    carried: Carried | None,
    *values: Any,
) -> Updates:
    """FluxGym's own components after a change, and in words what became of them.

    :param values: what FluxGym's inputs hold.
    """
    if written is None:
        return unchanged(tab.page.result)
    done = tab.presenter.carry(gym, values, run, written, carried)
    said: Updates = {tab.page.result: message + info_view(done.told), tab.page.carried: done.carried}
    return {**said, **_of_gym(gym, done)}


def follow(tab: Tab, gym: Gym, carried: Carried | None, *values: Any) -> Updates:
    """FluxGym's own components after its LoRA's name was changed."""
    done = follow_name(gym, values, carried)
    if done is None:
        # While a name is typed letter by letter, the boxes change at its first one.
        return {tab.page.followed: carried is not None and carried.is_out}
    gr.Info(done.told)
    updates = _of_gym(gym, done)
    updates.pop(gym.lora_name, None)
    return {tab.page.carried: done.carried, tab.page.followed: True, **updates}


def generate(gym: Gym, followed: bool, *values: Any) -> Updates:
    """FluxGym's script once more, where the boxes were changed."""
    assert gym.generate is not None  # noqa: S101 - only a connected one is wired
    if not followed:
        return unchanged(gym.outputs[0])
    generated = gym.generate(*values)
    return dict(zip(gym.outputs, generated if len(gym.outputs) > 1 else [generated], strict=True))


def _of_gym(gym: Gym, done: Carrying) -> dict[Block, Any]:
    return dict(zip_longest(gym.targets, done.values or [], fillvalue=gr.skip()))
