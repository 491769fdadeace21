"""The learning rate that the script's schedule gives at a step; pure arithmetic.

sd-scripts ``train_util.py`` (``get_scheduler_fix``) builds transformers' schedules (``optimization.py``, 4.49). After a
resume the optimizer keeps the saved rate for the first step; from then on torch's ``LambdaLR`` multiplies the saved
base rate by the script's present formula at the saved count of updates (``load_state_dict`` restores ``base_lrs`` and
``last_epoch``, not the formula). accelerate's ``scheduler.py`` counts an update once a process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.states import SchedulerFacts, StateFacts
from checkpoint_core.trainer.given import Undetermined, given, given_number

#: ``train_util.py`` (``add_optimizer_arguments``): the default of ``--learning_rate``.
_DEFAULT_RATE = 2e-6
#: transformers' ``get_polynomial_decay_schedule_with_warmup`` ends at this rate.
_POLYNOMIAL_END = 1e-7


@dataclass(frozen=True)
class _Course:
    """A schedule's settings; steps are counted as the scheduler does, once a process."""

    warmup: int
    decay: int
    total: int
    cycles: int
    power: float
    timescale: int
    least: float | None
    script_rate: float


def learning_rate_at(script: ScriptFacts, base_lr: float, step: int, total_steps: int) -> float | None:
    """The learning rate after ``step`` updates of a training that has ``total_steps``.

    ``None`` where the script's schedule is not known: one of another library, Adafactor's own, a flag that only the
    shell knows, settings that the trainer refuses.

    :param base_lr: the rate that the schedule multiplies, of the state (``base_lrs``) after a resume.
    """
    try:
        factor = _FACTORS[_schedule_name(script)]
        return base_lr * factor(_course(script, total_steps), step * max(1, script.num_processes))
    except (Undetermined, KeyError, ArithmeticError):
        return None


def highest_rate(
    script: ScriptFacts, base_lr: float, first: int, last: int, total_steps: int
) -> float | None:
    """The highest learning rate from one step to another, looked at in 64 places; ``None`` as above."""
    stride = max(1, (last - first) // 64)
    rates = [
        learning_rate_at(script, base_lr, step, total_steps) for step in (*range(first, last, stride), last)
    ]
    known = [rate for rate in rates if rate is not None]
    return max(known) if len(known) == len(rates) else None


def rate_text(rate: float) -> str:
    """A learning rate as people write it: ``8e-4``."""
    mantissa, _, power = f"{rate:.2e}".partition("e")
    return f"{rate:.3g}" if not rate or int(power) > -3 else f"{float(mantissa):g}e{int(power)}"


def _schedule_name(script: ScriptFacts) -> str:
    if given(script, "--lr_scheduler_type") or not script.lacks("--lr_scheduler_args"):
        raise Undetermined("a schedule of another library, or with arguments of its own")
    optimizer = (given(script, "--optimizer_type") or "").lower()
    if optimizer.endswith("schedulefree") or (optimizer == "adafactor" and not _keeps_schedule(script)):
        raise Undetermined("the optimizer brings its own schedule")
    return given(script, "--lr_scheduler") or "constant"


def _keeps_schedule(script: ScriptFacts) -> bool:
    """Adafactor replaces ``--lr_scheduler`` unless ``relative_step=False`` (``train_util.py``, ``get_optimizer``)."""
    arguments = script.values("--optimizer_args") or ()
    warms_up = any(argument.startswith("warmup_init=") for argument in arguments)
    return "relative_step=False" in arguments and (not warms_up or "warmup_init=False" in arguments)


def _course(script: ScriptFacts, total_steps: int) -> _Course:
    total = total_steps * max(1, script.num_processes)
    warmup = _steps_or_share(script, "--lr_warmup_steps", total)
    least = given(script, "--lr_scheduler_min_lr_ratio")
    return _Course(
        warmup=warmup,
        decay=_steps_or_share(script, "--lr_decay_steps", total),
        total=total,
        cycles=int(_number_or(script, "--lr_scheduler_num_cycles", 1)),
        power=_number_or(script, "--lr_scheduler_power", 1.0),
        timescale=int(_number_or(script, "--lr_scheduler_timescale", 0)) or warmup or 10_000,
        least=None if least is None else _number_or(script, "--lr_scheduler_min_lr_ratio", 0.0),
        script_rate=_number_or(script, "--learning_rate", _DEFAULT_RATE),
    )


def _number_or(script: ScriptFacts, flag: str, absent: float) -> float:
    number = given_number(script, flag)
    return absent if number is None else number


def _steps_or_share(script: ScriptFacts, flag: str, total: int) -> int:
    """A number of steps, or a share of all: ``10``, ``0.1``, ``10%`` (``train_util.py``, ``int_or_float``)."""
    written = given(script, flag) or "0"
    try:
        if written.endswith("%"):
            return int(float(written[:-1]) / 100 * total)
        return int(written) if float(written) >= 1 else int(float(written) * total)
    except ValueError as error:
        raise Undetermined(flag) from error


def _constant(course: _Course, _step: int) -> float:
    if course.warmup:
        raise Undetermined("the trainer refuses a warm-up here")
    return 1.0


def _warming(shape: Callable[[_Course, int], float]) -> Callable[[_Course, int], float]:
    """A schedule that begins with a linear warm-up."""

    def factor(course: _Course, step: int) -> float:
        return step / max(1, course.warmup) if step < course.warmup else shape(course, step)

    return factor


def _progress(course: _Course, step: int) -> float:
    return (step - course.warmup) / max(1, course.total - course.warmup)


def _linear(course: _Course, step: int) -> float:
    return max(0.0, (course.total - step) / max(1, course.total - course.warmup))


def _cosine(course: _Course, step: int) -> float:
    # Past its end it rises again: the trainer lets it, when steps are trained a second time.
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * _progress(course, step))))


def _restarts(course: _Course, step: int) -> float:
    progress = _progress(course, step)
    return 0.0 if progress >= 1 else 0.5 * (1.0 + math.cos(math.pi * (course.cycles * progress % 1.0)))


def _polynomial(course: _Course, step: int) -> float:
    start, end = course.script_rate, _POLYNOMIAL_END
    if start <= end:
        raise Undetermined("the trainer refuses so low a rate")
    if step > course.total:
        return end / start
    remaining = 1 - (step - course.warmup) / (course.total - course.warmup)
    return float(((start - end) * remaining**course.power + end) / start)


def _inverse_sqrt(course: _Course, step: int) -> float:
    return 1.0 / math.sqrt((step - course.warmup + course.timescale) / course.timescale)


def _cosine_with_min_lr(course: _Course, step: int) -> float:
    if course.least is None:
        raise Undetermined("the trainer refuses it without --lr_scheduler_min_lr_ratio")
    # sd-scripts halves the cycles, and the formula doubles them.
    wave = 0.5 * (1.0 + math.cos(math.pi * course.cycles * _progress(course, step)))
    return max(0.0, wave * (1 - course.least) + course.least)


def _warmup_stable_decay(course: _Course, step: int) -> float:
    least, stable = course.least or 0.0, course.total - course.warmup - course.decay
    if step < course.warmup:
        return max(0.0, step / max(1, course.warmup) * (1 - least) + least)
    if step < course.warmup + stable:
        return 1.0
    if step >= course.warmup + stable + course.decay:
        return least
    progress = (step - course.warmup - stable) / max(1, course.decay)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * course.cycles * progress)) * (1 - least) + least)


_FACTORS: dict[str, Callable[[_Course, int], float]] = {
    "constant": _constant,
    "constant_with_warmup": _warming(lambda _course, _step: 1.0),
    "linear": _warming(_linear),
    "cosine": _warming(_cosine),
    "cosine_with_restarts": _warming(_restarts),
    "polynomial": _warming(_polynomial),
    "inverse_sqrt": _warming(_inverse_sqrt),
    "cosine_with_min_lr": _warming(_cosine_with_min_lr),
    "warmup_stable_decay": _warmup_stable_decay,
}


def saved_rates(facts: StateFacts) -> tuple[float, float, int] | None:
    """Of the parameter group with the highest rate: the base rate, the rate at the save, the scheduler's count.

    ``None`` where ``scheduler.bin`` does not tell all three.
    """
    scheduler = facts.scheduler
    if not isinstance(scheduler, SchedulerFacts) or scheduler.last_epoch is None:
        return None
    if not scheduler.base_lrs or len(scheduler.base_lrs) != len(scheduler.last_lrs):
        return None
    base, rate = max(zip(scheduler.base_lrs, scheduler.last_lrs, strict=True))
    return base, rate, scheduler.last_epoch


def differs(rate: float, other: float) -> bool:
    """Whether two learning rates are far enough apart to matter: by more than a twentieth."""
    return abs(rate - other) > 0.05 * max(abs(rate), abs(other))
