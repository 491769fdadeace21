"""What a train script gives the trainer for a flag, or that it cannot be told; pure.

Three answers: a value, certainly none, and :class:`Undetermined`, which is never taken for none.
"""

from __future__ import annotations

from checkpoint_core.scripts import ScriptFacts


class Undetermined(Exception):
    """What the trainer will do cannot be told; the text says why."""


def given(script: ScriptFacts, flag: str) -> str | None:
    """The flag's value; ``None`` where it is certain that there is none.

    :raises Undetermined: where only the running shell knows, or the flag has no value.
    """
    if script.lacks(flag):
        return None
    value = script.value(flag)
    if value is None:
        raise Undetermined(script.hidden or f"the value of {flag} is not known")
    return value


def given_or(script: ScriptFacts, flag: str, default: str) -> str:
    """The flag's value, or the trainer's default; raises Undetermined as :func:`given`."""
    value = given(script, flag)
    return default if value is None else value


def given_values(script: ScriptFacts, flag: str) -> tuple[str, ...]:
    """All values of a flag, empty where it is certain that there are none.

    :raises Undetermined: where one of them, or whether it is given, is not known.
    """
    values = script.values(flag)
    if values is None or not (script.has(flag) or script.lacks(flag)):
        raise Undetermined(script.hidden or f"the values of {flag} are not known")
    return values


def given_number(script: ScriptFacts, flag: str) -> float | None:
    """The flag's value as a finite number; raises Undetermined as :func:`given`, and for what is no number."""
    if given(script, flag) is None:
        return None
    number = script.number(flag)
    if number is None:
        raise Undetermined(f"{flag} is no number")
    return number


def given_count(script: ScriptFacts, flag: str) -> int | None:
    """The flag's value as a whole number that can count something; raises as :func:`given_number`."""
    number = given_number(script, flag)
    if number is None:
        return None
    if number < 0 or number != int(number):
        raise Undetermined(f"{flag} is no count")
    return int(number)


def is_given(script: ScriptFacts, flag: str) -> bool:
    """Whether a switch is set; raises Undetermined where only the running shell knows."""
    given_values(script, flag)
    return script.has(flag)
