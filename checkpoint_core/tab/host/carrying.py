"""A run's resume, carried into FluxGym's own boxes, and taken out of them again.

What is set in the boxes stays there when the LoRA's name is changed, and goes into the next LoRA's script (FluxGym
``app.py``, ``update``). So what the tab sets belongs to one run: it is remembered with what was there before, taken
out when the name becomes another or the change is undone, and never where somebody has typed since.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from checkpoint_core.scripts import (
    Dialect,
    ScriptFacts,
    ScriptNotUnderstood,
    TrainScript,
    path_here,
    script_facts,
)
from checkpoint_core.tab.host.gym import Gym, quoted, slug

#: Of a long list of differences, so many are named.
_MOST_NAMED = 6
_NOT_GENERATED = (
    "FluxGym could not generate its script, so the Gym tab was left alone. “Start training” there would "
    "overwrite the train script: run it as shown."
)


@dataclass(frozen=True)
class Carried:
    """What the tab has set in the Gym tab for a run; of the boxes by their numbers, what they held before and hold now.

    :param is_out: it was taken out, because the LoRA's name is another one at the moment.
    """

    run: str
    before: Mapping[int, Any]
    after: Mapping[int, Any]
    is_out: bool = False

    @property
    def swapped(self) -> Carried:
        """The same, out where it was in, and in where it was out."""
        return replace(self, before=self.after, after=self.before, is_out=not self.is_out)


@dataclass(frozen=True)
class Carrying:
    """New values for :attr:`Gym.targets` or none, in words what became of them, and what is carried now.

    Where FluxGym could not generate its script, the values are those of :attr:`Gym.own` alone.
    """

    values: list[Any] | None
    told: str
    carried: Carried | None


def carry(
    gym: Gym,
    values: Sequence[Any],
    run: Path,
    resume: str,
    script: ScriptFacts | None = None,
    carried: Carried | None = None,
    *,
    is_undo: bool = False,
) -> Carrying:
    """Put a change of a run's script into the Gym tab, unless that is set up for another LoRA.

    :param values: the present values of :attr:`Gym.inputs`.
    :param resume: what the text box ``--resume`` is to hold; empty to clear it.
    :param script: the run's script as it is now, for the flags that say where the training begins.
    :param carried: what the tab has set before.
    :param is_undo: the change took one back: what the boxes held before is there again.
    """
    present = _by_number(gym, values)
    name = _name(gym, present)
    if name.strip() and not is_name_of(name, run.name):
        return Carrying(
            None, f"The Gym tab is set up for “{name}”, another LoRA; it was left alone.", carried
        )
    mine = carried if carried is not None and carried.run == run.name and not carried.is_out else None
    restored = _with(present, mine.swapped) if mine else present
    wanted: dict[int, Any] = {id(gym.lora_name): name if name.strip() else run.name}
    if resume or not is_undo:
        wanted |= _wanted(gym, restored, resume, script)
    now = restored | {key: value for key, value in wanted.items() if key in restored}
    generated = _generated(gym, now)
    if generated is None:
        return Carrying(None, _NOT_GENERATED, carried)
    told = _told(gym, now, run, name, resume)
    if script is not None and (other := _differing(script, generated, run)):
        told += (
            f" “Start training” there would still write {other}. Change that in the Gym tab too, or run the script as "
            "shown."
        )
    new = {key: value for key, value in now.items() if key in wanted and value != restored[key]}
    new.pop(id(gym.lora_name), None)
    left = Carried(run.name, {key: restored[key] for key in new}, new) if new else None
    return Carrying(_for_targets(gym, now, generated), told, left)


def follow_name(gym: Gym, values: Sequence[Any], carried: Carried | None) -> Carrying | None:
    """What a new LoRA name means for what was carried: out with it, or in again where the name is its run's again.

    ``None`` where nothing is to be done.
    """
    if carried is None:
        return None
    present = _by_number(gym, values)
    if is_name_of(_name(gym, present), carried.run) is not carried.is_out:
        return None
    turned = carried.swapped
    now = _with(present, turned)
    generated = _generated(gym, now)
    boxes = ", ".join(_names_of(gym, carried)) or "nothing"
    told = f"The resume of “{carried.run}” is no longer set in the Gym tab ({boxes}): this is another LoRA."
    if carried.is_out:
        told = f"The resume of “{carried.run}” is set in the Gym tab again: {boxes}."
    return Carrying(_for_targets(gym, now, generated or []), told, turned)


def is_name_of(name: str, run: str) -> bool:
    """Whether a LoRA's name, as it is typed, is that of a run's folder."""
    return name == run or (bool(name.strip()) and slug(name) == run)


def _by_number(gym: Gym, values: Sequence[Any]) -> dict[int, Any]:
    return dict(zip(map(id, gym.inputs), values, strict=True))


def _name(gym: Gym, present: Mapping[int, Any]) -> str:
    return str(present.get(id(gym.lora_name), "") or "")


def _with(present: Mapping[int, Any], carried: Carried) -> dict[int, Any]:
    """The values with what is carried in them; a box that holds something else by now is left as it is."""
    mine = {
        key: value
        for key, value in carried.after.items()
        if key in present and present[key] == carried.before[key]
    }
    return {**present, **mine}


def _names_of(gym: Gym, carried: Carried) -> list[str]:
    boxes = {"--resume": gym.resume, "--save_state": gym.save_state, **gym.beginnings, **gym.settings}
    return [flag for flag, box in boxes.items() if id(box) in carried.after]


def _wanted(gym: Gym, present: Mapping[int, Any], resume: str, script: ScriptFacts | None) -> dict[int, Any]:
    """What the boxes must hold, by their numbers, so that FluxGym's own script does what the run's does."""
    wanted: dict[int, Any] = {id(gym.resume): resume}
    if resume or (script is not None and script.save_state):
        wanted[id(gym.save_state)] = True
    if script is not None:
        wanted |= {id(box): _box_of(flag, script) for flag, box in gym.beginnings.items()}
        for flag, box in gym.settings.items():
            value = _setting_of(flag, script, box, present.get(id(box)))
            wanted |= {} if value is None else {id(box): value}
    return wanted


def _box_of(flag: str, script: ScriptFacts) -> Any:
    """What a box must hold to give the script's flag: whether it is there, or its value as bash or cmd takes it."""
    if flag == "--skip_until_initial_step":
        return script.has(flag)
    value = script.value(flag)
    if value is None:
        return ""
    return value if value.isdigit() else quoted(value, _dialect())


def _setting_of(flag: str, script: ScriptFacts, box: Any, present: Any) -> Any:
    """The script's number for a box, of the kind that the box holds; none where it cannot hold it."""
    number = script.number(flag)
    if number is None:
        return None
    if isinstance(present, str):
        return present if _same_number(present, str(number)) else script.value(flag)
    # A gr.Number refuses what is outside its bounds, at every event that reads it from then on.
    least, most = getattr(box, "minimum", None), getattr(box, "maximum", None)
    fits = (least is None or number >= least) and (most is None or number <= most)
    return (int(number) if number.is_integer() else number) if fits else None


def _generated(gym: Gym, present: Mapping[int, Any]) -> list[Any] | None:
    """What FluxGym's own function makes of the values; none where it fails."""
    assert gym.generate is not None  # noqa: S101 - `is_connected` is asked first
    try:
        generated = gym.generate(*(present[id(component)] for component in gym.inputs))
    except Exception:  # FluxGym's own code; the train script is written by now
        logging.getLogger(__name__).exception("FluxGym could not generate its script")
        return None
    return list(generated) if len(gym.outputs) > 1 else [generated]


def _for_targets(gym: Gym, present: Mapping[int, Any], generated: Sequence[Any]) -> list[Any]:
    return [*(present[id(component)] for component in gym.own), *generated]


def _told(gym: Gym, now: Mapping[int, Any], run: Path, name: str, resume: str) -> str:
    told = "The Gym tab was updated too: --resume and --save_state are set under “Advanced options”."
    if not resume:
        told = "The Gym tab was updated too: its --resume is empty."
        if now.get(id(gym.resume)):
            told = "The Gym tab holds again what it held before."
    if not name.strip():
        told += f" Its LoRA name was empty and is now “{run.name}”."
    return told


def _differing(script: ScriptFacts, generated: Sequence[Any], run: Path) -> str:
    """What FluxGym's generated script sets otherwise than the run's, the first few, with both values."""
    try:
        parsed = TrainScript.parse(_text_of(generated[0]).encode(), _dialect())
    except (ScriptNotUnderstood, IndexError):
        return ""
    theirs = script_facts(parsed, script.file)
    if not theirs.flags:
        return ""
    differences = list(_differences(script, theirs, run))
    more = [f"and {len(differences) - _MOST_NAMED} more"] if len(differences) > _MOST_NAMED else []
    return "; ".join([*differences[:_MOST_NAMED], *more])


def _differences(script: ScriptFacts, theirs: ScriptFacts, run: Path) -> Iterator[str]:
    for flag in {**script.flags, **theirs.flags}:
        mine, other = script.flags.get(flag), theirs.flags.get(flag)
        if not _same_values(script, mine, theirs, other, run):
            yield f"{_written(flag, other)} (the run's script: {_value_written(mine)})"


def _same_values(
    script: ScriptFacts,
    mine: tuple[str | None, ...] | None,
    theirs: ScriptFacts,
    other: tuple[str | None, ...] | None,
    run: Path,
) -> bool:
    """Whether two values say the same: letter by letter, as numbers, or as paths of two machines."""
    if mine is None or other is None or mine == other:
        return mine == other
    for first, second in zip_longest(mine, other):
        if first is None or second is None:
            return False
        # A relative path of the Gym begins in FluxGym's folder too; its --output_dir says so by itself.
        same_path = path_here(first, script, run) == path_here(second, theirs, run) is not None
        if first != second and not _same_number(first, second) and not same_path:
            return False
    return True


def _same_number(first: str, second: str) -> bool:
    try:
        return float(first) == float(second)
    except ValueError:
        return False


def _written(flag: str, values: tuple[str | None, ...] | None) -> str:
    return f"no {flag}" if values is None else " ".join([flag, *(value or "…" for value in values)])


def _value_written(values: tuple[str | None, ...] | None) -> str:
    if values is None:
        return "none"
    return " ".join(value or "…" for value in values) or "set"


def _text_of(generated: Any) -> str:
    """The text of a generated script: FluxGym's function returns ``gr.update(value=…)``, which is a dict."""
    return str(generated.get("value") or "") if isinstance(generated, dict) else str(generated)


def _dialect() -> Dialect:
    return Dialect.BAT if os.name == "nt" else Dialect.SH
