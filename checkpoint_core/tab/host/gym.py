"""FluxGym's own components, found from outside, and kept in step with a resume.

FluxGym's "Start training" overwrites the train script with what its Gym tab generates. So a resume is also written into
the text box ``--resume`` and the check box ``--save_state`` of "Advanced options", and FluxGym's own function behind
the hidden button ``#refresh`` generates the script anew. Source: FluxGym ``app.py`` (``init_advanced``, ``update``).

The components are Gradio's, but nothing of Gradio is needed to find them.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoint_core.scripts import (
    Dialect,
    ScriptFacts,
    ScriptNotUnderstood,
    TrainScript,
    bash,
    batch,
    script_facts,
)

_NAME_LABEL = "name of your lora"
#: Further boxes of "Advanced options" that a recovery option may need: where the training begins.
_BEGINNINGS = ("--initial_epoch", "--initial_step", "--network_weights", "--skip_until_initial_step")
#: Of a long list of differences, so many are named.
_MOST_NAMED = 6


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

    def carry(
        self, values: Sequence[Any], run: str, resume: str, script: ScriptFacts | None = None
    ) -> tuple[list[Any] | None, str]:
        """The values for the components :attr:`targets` after a resume, or ``None`` with the reason in words.

        :param values: the present values of :attr:`inputs`.
        :param resume: what the text box ``--resume`` is to hold; empty to clear it.
        :param script: the run's script as it is now, for the flags that say where the training begins.
        """
        present = dict(zip(map(id, self.inputs), values, strict=True))
        name = str(present.get(id(self.lora_name), "") or "")
        if name.strip() and slug(name) != run and name != run:
            return None, f"The Gym tab is set up for “{name}”, another LoRA; it was left alone."
        wanted: dict[int, Any] = {id(self.resume): resume, id(self.lora_name): name if name.strip() else run}
        if resume:
            wanted[id(self.save_state)] = True
        wanted |= {id(box): _box_of(flag, script) for flag, box in self.beginnings.items() if script}
        present.update({key: value for key, value in wanted.items() if key in present})
        assert self.generate is not None  # noqa: S101 - `is_connected` is asked first
        try:
            generated = self.generate(*(present[id(component)] for component in self.inputs))
        except Exception:  # FluxGym's own code; the train script is written by now
            logging.getLogger(__name__).exception("FluxGym could not generate its script")
            return None, (
                "FluxGym could not generate its script, so the Gym tab was left alone. “Start training” there would "
                "overwrite the train script: run it as shown."
            )
        told = "The Gym tab was updated too: --resume and --save_state are set under “Advanced options”."
        if not resume:
            told = "The Gym tab was updated too: its --resume is empty."
        if not name.strip():
            told += f" Its LoRA name was empty and is now “{run}”; compare its other settings before “Start training”."
        kept = [present[id(component)] for component in self.targets[: len(self.targets) - len(self.outputs)]]
        written = _as_list(generated, len(self.outputs))
        if script is not None and name.strip() and (other := _differing(script, written)):
            told += (
                f" “Start training” there would still set {', '.join(other)} differently from the run's script: change "
                "that in the Gym tab too, or run the script as shown."
            )
        return [*kept, *written], told

    @property
    def targets(self) -> list[Any]:
        """The components that :meth:`carry` gives values for, in that order."""
        own = [
            component
            for component in (self.lora_name, self.resume, self.save_state, *self.beginnings.values())
            if component in self.inputs
        ]
        return [*own, *self.outputs]


def _box_of(flag: str, script: ScriptFacts) -> Any:
    """What a box must hold to give the script's flag: whether it is there, or its value as bash or cmd takes it."""
    if flag == "--skip_until_initial_step":
        return script.has(flag)
    value = script.value(flag)
    if value is None:
        return ""
    return value if value.isdigit() else _quote(value, Dialect.BAT if os.name == "nt" else Dialect.SH)


def _differing(script: ScriptFacts, generated: Sequence[Any]) -> list[str]:
    """The flags that FluxGym's generated script sets otherwise than the run's, the first few."""
    dialect = Dialect.BAT if os.name == "nt" else Dialect.SH
    try:
        theirs = script_facts(TrainScript.parse(str(generated[0]).encode(), dialect), script.file).flags
    except (ScriptNotUnderstood, IndexError):
        return []
    flags = [flag for flag in {**script.flags, **theirs} if script.flags.get(flag) != theirs.get(flag)]
    return [*flags[:_MOST_NAMED], *(["and others"] if len(flags) > _MOST_NAMED else [])]


def _as_list(generated: Any, count: int) -> list[Any]:
    return list(generated) if count > 1 else [generated]


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
    )


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
    return "" if state is None else _quote(str(state), dialect)


def _quote(text: str, dialect: Dialect) -> str:
    return batch.quote(text) if dialect is Dialect.BAT else bash.quote(text)
