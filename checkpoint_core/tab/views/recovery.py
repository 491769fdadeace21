"""The recovery options for a run, as HTML: the list, what one of them changes, and what a repair does."""

from __future__ import annotations

from collections.abc import Iterable

from checkpoint_core.recovery import OptionKind, RecoveryOption, RecoveryPlan, RepairPlan
from checkpoint_core.states import RepairRecord
from checkpoint_core.tab.views.markup import OPTION_BOX, diff_block, notice, sets, text

#: What is written into the box in the place of a number: take a repair back, finish one that was interrupted.
UNDO, FINISH = "undo", "finish"


def recovery_view(recovery: RecoveryPlan) -> str:
    """The list, best first; each entry is pressed to see everything that it would change. Folded where all is well."""
    best = recovery.recommended
    is_plain = best is not None and best.kind is OptionKind.RESUME and len(recovery.options) > 1
    items = "".join(
        _option(number, option, option is best) for number, option in enumerate(recovery.options, 1)
    )
    opened = "" if is_plain else " open"
    told = "" if is_plain else f"<p>{text(recovery.headline)}</p>"
    return (
        f'<details class="ck-ways"{opened}><summary>Recovery options</summary>{told}'
        f"<ol>{items}</ol></details>"
    )


def _option(number: int, option: RecoveryOption, is_best: bool) -> str:
    best = ' <span class="ck-badge ck-ready">Recommended</span>' if is_best else ""
    forecast = f"<div>{text(option.forecast)}</div>" if option.forecast else ""
    label = "Show what it changes"
    return (
        f'<li class="ck-way"><div><strong>{text(option.title)}</strong>{best}</div>'
        f'<div class="ck-quiet">Keeps: {text(option.keeps)}</div>'
        f'<div class="ck-quiet">Loses: {text(option.loses)}</div>'
        f'{forecast}<button type="button" class="ck-choose" aria-label="{label}: {text(option.title)}" '
        f"{sets(OPTION_BOX, str(number))}>{label}</button></li>"
    )


def repair_view(repair_plan: RepairPlan) -> str:
    """What “Repair and resume” does with the selected checkpoint, before it is done."""
    return (
        '<details class="ck-preview" open><summary>What “Repair and resume” changes</summary>'
        f"{_changes(repair_plan)}</details>"
    )


def _changes(repair_plan: RepairPlan) -> str:
    costs, notes = _list(repair_plan.costs), _list(repair_plan.notes)
    lost = f"<p>What is lost:</p>{costs}" if costs else "<p>Nothing of the training is lost.</p>"
    return (
        f"{_list(repair_plan.does)}{lost}{f'<p>What to know:</p>{notes}' if notes else ''}"
        f"{f'<p class=ck-outlook>{text(repair_plan.forecast)}</p>' if repair_plan.forecast else ''}"
        f"{diff_block(repair_plan.diff) if repair_plan.diff else ''}"
    )


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def question_view(option: RecoveryOption, diff: str) -> str:
    """Everything that an option changes, with the question whether to do it."""
    changes = _changes(option.repair_plan) if option.repair_plan else diff_block(diff) if diff else ""
    nothing = "" if changes else "<p>The train script already says this.</p>"
    # A repair that loses nothing says so itself, with what it changes.
    loses = "" if option.repair_plan and option.loses_nothing else f"<p>Loses: {text(option.loses)}</p>"
    return notice("warning", f'<p class="ck-headline">{text(option.title)}?</p>{loses}{changes}{nothing}')


def repaired_view(record: RepairRecord) -> str:
    """That a checkpoint was repaired, and the way back."""
    lines = _list(f"{file.name}: {file.does}" for file in record.files)
    script = _list([f"{record.script.name} was changed."]) if record.script else ""
    return (
        f'<details class="ck-repaired"><summary>Repaired {text(record.made_at[:10])}</summary>{lines}{script}'
        f'<button type="button" class="ck-choose" {sets(OPTION_BOX, UNDO)}>Undo this repair</button></details>'
    )


def interrupted_view(half: Iterable[RepairRecord]) -> str:
    """That repairs were interrupted, and the button that finishes them."""
    names = ", ".join(record.state for record in half)
    return notice(
        "bad",
        f"<p>A repair of {text(names)} was interrupted before its last file was in its place. Nothing is lost; do not "
        f'resume before it is finished.</p><button type="button" class="ck-choose" {sets(OPTION_BOX, FINISH)}>'
        "Finish the repair</button>",
    )


def undo_question(record: RepairRecord, keeps_script: bool) -> str:
    """What an undo brings back, with the question whether to do it."""
    names = [file.name for file in record.files]
    names += [record.script.name] if record.script and not keeps_script else []
    note = (
        f"<p>{text(record.script.name)} was changed since and stays as it is.</p>"
        if keeps_script and record.script
        else ""
    )
    brings = f"<p>This brings back as it was before: {text(', '.join(names))}.</p>" if names else ""
    asked = f'<p class="ck-headline">Undo the repair of {text(record.state)}?</p>'
    return notice("warning", asked + brings + note)
