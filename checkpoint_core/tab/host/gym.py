"""FluxGym's own components, found from outside.

FluxGym's "Start training" overwrites the train script with what its Gym tab generates: by the function behind the
hidden button ``#refresh``, from boxes such as ``--resume`` of "Advanced options". What is set in them is the
business of :mod:`checkpoint_core.tab.host.carrying`. Source: FluxGym ``app.py`` (``init_advanced``, ``update``).

The components are Gradio's, but nothing of Gradio is needed to find them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoint_core.scripts import Dialect, bash, batch

_NAME_LABEL = "name of your lora"
#: Further boxes of "Advanced options" that a recovery option may need: where the training begins.
_BEGINNINGS = ("--initial_epoch", "--initial_step", "--network_weights", "--skip_until_initial_step")
#: What a recovery option may change besides. FluxGym's own boxes for them are known by their labels alone.
_SETTINGS = {
    "--max_train_epochs": "max train epochs",
    "--network_dim": "--network_dim",
    "--network_alpha": "--network_alpha",
    "--save_last_n_epochs_state": "--save_last_n_epochs_state",
}


@dataclass(frozen=True)
class Gym:
    """What was found of FluxGym's Gym tab. ``missing`` names in words what was not."""

    resume: Any = None
    save_state: Any = None
    lora_name: Any = None
    generate: Callable[..., Any] | None = None
    inputs: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()
    missing: tuple[str, ...] = ()
    #: Flag to box, of those in ``_BEGINNINGS`` that FluxGym has.
    beginnings: Mapping[str, Any] = field(default_factory=dict)
    #: Flag to box, of those in ``_SETTINGS`` that FluxGym has.
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_connected(self) -> bool:
        """Whether a resume can be carried into the Gym tab."""
        return self.generate is not None and self.resume in self.inputs

    def describe(self) -> str:
        """In words, what the tab is connected to."""
        if self.is_connected and not self.missing:
            return "Connected to FluxGym's Gym tab: resuming also sets --resume and --save_state there."
        return (
            f"Not connected to FluxGym's Gym tab: {', '.join(self.missing)} not found. Resuming changes the run's "
            "train script; “Start training” in the Gym tab would overwrite it, so run the script as shown."
        )

    @property
    def own(self) -> list[Any]:
        """The components that a resume may set, in a fixed order."""
        boxes = (*self.beginnings.values(), *self.settings.values())
        wanted = (self.lora_name, self.resume, self.save_state, *boxes)
        return [component for component in wanted if component in self.inputs]

    @property
    def targets(self) -> list[Any]:
        """The components that are given new values, in that order: :attr:`own` and what FluxGym generates."""
        return [*self.own, *self.outputs]


def find_gym(blocks: Iterable[Any], functions: Iterable[Any]) -> Gym:
    """Find FluxGym's components among all components and events of its page.

    :param blocks: ``demo.blocks.values()``
    :param functions: ``demo.fns.values()``
    """
    by_id = {getattr(block, "elem_id", None): block for block in blocks}
    refresh, resume, save_state = by_id.get("refresh"), by_id.get("--resume"), by_id.get("--save_state")
    event = next((each for each in functions if refresh is not None and _is_click_of(each, refresh)), None)
    inputs = tuple(event.inputs) if event else ()
    named = (("#refresh", event), ("--resume", resume), ("--save_state", save_state))
    return Gym(
        resume=resume,
        save_state=save_state,
        lora_name=next(
            (each for each in inputs if _NAME_LABEL in str(getattr(each, "label", "")).lower()), None
        ),
        generate=event.fn if event else None,
        inputs=inputs,
        outputs=tuple(event.outputs) if event else (),
        missing=tuple(name for name, found in named if found is None),
        beginnings={flag: by_id[flag] for flag in _BEGINNINGS if by_id.get(flag) in inputs},
        settings={flag: box for flag, label in _SETTINGS.items() if (box := _labelled(inputs, label))},
    )


def _labelled(inputs: Iterable[Any], label: str) -> Any:
    return next((each for each in inputs if str(getattr(each, "label", "")).lower() == label), None)


def _is_click_of(event: Any, button: Any) -> bool:
    # Gradio names an event's targets by this number and has no public name for it.
    number = button._id  # noqa: SLF001
    return any(target == (number, "click") for target in map(tuple, event.targets))


def slug(name: str) -> str:
    """A LoRA's name as a folder name, as python-slugify makes it from Latin text."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^a-z0-9]+", "-", plain.lower().replace("'", "")).strip("-")


def box_value(state: Path | None, dialect: Dialect) -> str:
    """What the text box ``--resume`` must hold: FluxGym appends it to the script as it is, without quotes."""
    return "" if state is None else quoted(str(state), dialect)


def quoted(text: str, dialect: Dialect) -> str:
    """A value as bash or cmd takes it."""
    return batch.quote(text) if dialect is Dialect.BAT else bash.quote(text)
