"""What the trainer will do when it is resumed from a state: the epochs, the rate, the saves to come; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from checkpoint_core.formats import TrainState
from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.states import Damage, Layout, OptimizerFacts, StateFacts
from checkpoint_core.text import counted
from checkpoint_core.trainer.disk_space import lora_size
from checkpoint_core.trainer.launch import LaunchPoint
from checkpoint_core.trainer.learning_rate import differs, learning_rate_at, rate_text, saved_rates
from checkpoint_core.trainer.position import accumulation_steps
from checkpoint_core.trainer.save_plan import (
    Launch,
    SaveEvent,
    changes,
    most_room,
    overwritten_steps,
    removed_states,
    save_rules,
)


@dataclass(frozen=True)
class Forecast:
    """What the trainer will do from a state, if it loads; ``None`` where that cannot be told.

    Epochs count from 1; steps are optimizer updates, those in names counted from the launch on, as the trainer does.
    ``done_epoch`` is the last epoch that is finished, ``should_start`` the epoch at which the training should go on,
    ``start_epoch`` the one at which it will. ``stops_at_once``: the trainer finds nothing left to train.
    ``learning_rate`` is that of the first step, ``later_rate`` that of the second. ``next_save`` is the next state
    (``epoch 16`` or ``step 250``), ``saves_left`` their number. ``bytes_needed`` is the most room that the launch
    takes at any moment besides what is there now. ``will_remove`` are states in the run's folder that retention
    deletes, each with the moment; ``collisions`` names there with a step number that are written anew.
    """

    done_epoch: int | None
    should_start: int | None
    start_epoch: int | None
    last_epoch: int | None
    epochs_left: int | None = None
    steps_left: int | None = None
    stops_at_once: bool = False
    repeated_steps: int = 0
    skipped_steps: int = 0
    learning_rate: float | None = None
    later_rate: float | None = None
    next_save: str | None = None
    saves_left: int | None = None
    bytes_needed: int | None = None
    will_remove: tuple[tuple[str, str], ...] = ()
    collisions: tuple[str, ...] = ()


def make_forecast(
    facts: StateFacts, point: LaunchPoint, names: frozenset[str] = frozenset()
) -> Forecast | None:
    """What the trainer will do; ``None`` where nothing is known, or where it stops over ``train_state.json``.

    :param names: what lies now in the folder into which the launch saves.
    """
    if facts.layout is not Layout.SD_SCRIPTS or facts.problem or _stops_over(facts.train_state):
        return None
    start, last = point.start_epoch, None if point.undecided else point.last_epoch
    if start is None and last is None:
        return None
    following = point.position.next_epoch
    forecast = Forecast(
        done_epoch=following - 1 if following is not None else None,
        should_start=following,
        start_epoch=start,
        last_epoch=last,
    )
    if point.script is not None and start is not None and last is not None:
        launch = Launch(start, last, point.steps_per_epoch)
        forecast = _of_launch(forecast, facts, point, point.script, names, launch)
    return forecast if forecast.stops_at_once else _with_rates(forecast, facts, point)


def _stops_over(train_state: object) -> bool:
    """Whether the trainer stops while it reads ``train_state.json``; without the file it starts at epoch 1."""
    return isinstance(train_state, Damage) or (
        isinstance(train_state, TrainState) and train_state.current_step is None
    )


def _of_launch(
    forecast: Forecast,
    facts: StateFacts,
    point: LaunchPoint,
    script: ScriptFacts,
    names: frozenset[str],
    launch: Launch,
) -> Forecast:
    """With the epochs and steps that the launch trains, and with its saves."""
    if _finds_no_step(point, launch):
        return replace(
            forecast, epochs_left=0, steps_left=0, stops_at_once=True, saves_left=0, bytes_needed=0
        )
    launch, position = _counted(launch, point, script), point.position
    is_known = launch.steps_per_epoch is not None
    begins_anew = launch.first_epoch == position.next_epoch and not launch.first_count
    is_as_saved = launch.steps_per_epoch == position.steps_per_epoch
    forecast = replace(
        forecast,
        # Wrong skipping may lead past the end: then it trains nothing, and saves the last state all the same.
        epochs_left=max(0, launch.last_epoch - launch.first_epoch + 1),
        steps_left=launch.last_count - launch.first_count if is_known else None,
        skipped_steps=launch.first_count,
        repeated_steps=position.repeated_steps if begins_anew and is_as_saved else 0,
    )
    rules = save_rules(script, launch.last_epoch)
    told = changes(rules, launch) if rules else None
    return forecast if told is None else _with_saves(forecast, told, facts, names)


def _finds_no_step(point: LaunchPoint, launch: Launch) -> bool:
    """Whether the trainer stops with “max_train_steps should be greater than initial step”."""
    done, total = point.done_steps or 0, point.total_steps
    return launch.first_epoch > launch.last_epoch if total is None else 0 < done >= total


def launch_of(point: LaunchPoint) -> Launch | None:
    """The epochs and steps that a launch trains; ``None`` where it cannot be told where it begins or ends."""
    start, last = point.start_epoch, None if point.undecided else point.last_epoch
    if point.script is None or start is None or last is None:
        return None
    return _counted(Launch(start, last, point.steps_per_epoch), point, point.script)


def _counted(launch: Launch, point: LaunchPoint, script: ScriptFacts) -> Launch:
    """With the steps that the trainer counts; it starts from 0, or from the steps that it skips."""
    steps, done, total = point.steps_per_epoch, point.done_steps or 0, point.total_steps
    skips = script.skip_until_initial_step and done > 0
    # With several batches an update, the trainer counts what it skips in batches, and all else in updates.
    if steps is None or total is None or (skips and accumulation_steps(script) != 1):
        return replace(launch, steps_per_epoch=None)
    epochs = launch.last_epoch - launch.first_epoch + 1
    # --max_train_steps holds against the steps of this launch, so only a launch from epoch 1 is cut short by it.
    return replace(launch, first_count=done % steps if skips else 0, last_count=min(epochs * steps, total))


def _with_saves(
    forecast: Forecast, told: tuple[SaveEvent, ...], facts: StateFacts, names: frozenset[str]
) -> Forecast:
    """With what the changes add up to, each save taken to be as large as this state and its LoRA file."""
    states = [change for change in told if change.is_state and not change.is_removal]
    # What a start would write over is set aside before, and goes on taking its room.
    beside = names - {change.name for change in told if not change.is_removal}
    room = most_room(told, beside, facts.size_bytes, lora_size(facts)) if facts.size_bytes else None
    return replace(
        forecast,
        next_save=states[0].when if states else None,
        saves_left=len(states),
        bytes_needed=room,
        will_remove=tuple(removed_states(told, names)),
        collisions=overwritten_steps(told, names),
    )


def _with_rates(forecast: Forecast, facts: StateFacts, point: LaunchPoint) -> Forecast:
    saved = saved_rates(facts)
    if saved is None:
        optimizer = facts.optimizer
        rates = optimizer.learning_rates if isinstance(optimizer, OptimizerFacts) else ()
        return replace(forecast, learning_rate=max(rates, default=None))
    base, rate, counted = saved
    script, total = point.script, point.total_steps
    later = None
    if script is not None and total is not None:
        later = learning_rate_at(script, base, counted // max(1, script.num_processes) + 1, total)
    return replace(forecast, learning_rate=rate, later_rate=later)


def forecast_sentence(forecast: Forecast) -> str:
    """The forecast in one sentence; what is not known is left out.

    ``Resumes after epoch 12 of 16, trains 4 epochs (1,000 steps), learning rate 8e-4, next save at epoch 16.``
    """
    if forecast.stops_at_once:
        return f"Trains nothing: {_end(forecast)}."
    parts = (_beginning(forecast), _amount(forecast), _rates(forecast), _saving(forecast))
    return ", ".join(part for part in parts if part) + "."


def _end(forecast: Forecast) -> str:
    done, last = forecast.done_epoch, forecast.last_epoch
    if done is None or last is None or done < last:
        return "the trainer takes the training for finished"
    return f"epoch {done} is done, and the script trains {counted(last, 'epoch')}"


def _beginning(forecast: Forecast) -> str:
    start, done = forecast.start_epoch, forecast.done_epoch
    of = f" of {forecast.last_epoch}" if forecast.last_epoch is not None else ""
    if start is None:
        return f"Trains up to epoch {forecast.last_epoch}"
    if forecast.should_start is None or done is None:
        return f"Starts at epoch {start}{of}"
    if start != forecast.should_start:
        finished = f"{'only ' if start > done else ''}epoch {done}" if done else "no epoch"
        return f"Starts at epoch {start}{of} although {finished} is done"
    if forecast.skipped_steps:
        return f"Resumes in epoch {start}{of} after its first {counted(forecast.skipped_steps, 'step')}"
    if forecast.repeated_steps:
        again = "is" if forecast.repeated_steps == 1 else "are"
        steps = counted(forecast.repeated_steps, "step")
        return f"Resumes at the beginning of epoch {start}{of} ({steps} {again} trained again)"
    return f"Resumes after epoch {done}{of}" if done else f"Starts at epoch {start}{of}"


def _amount(forecast: Forecast) -> str:
    if forecast.epochs_left is None:
        return ""
    steps = f" ({counted(forecast.steps_left, 'step')})" if forecast.steps_left is not None else ""
    return f"trains {counted(forecast.epochs_left, 'epoch')}{steps}"


def _rates(forecast: Forecast) -> str:
    rate, later = forecast.learning_rate, forecast.later_rate
    if rate is None:
        return ""
    jump = f" at first, then {rate_text(later)}" if later is not None and differs(rate, later) else ""
    return f"learning rate {rate_text(rate)}{jump}"


def _saving(forecast: Forecast) -> str:
    if forecast.saves_left is None:
        return ""
    return f"next save at {forecast.next_save}" if forecast.next_save else "saves no further checkpoint"
