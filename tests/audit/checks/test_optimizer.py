"""The state's optimizer against the script's: family, groups, settings, learning rate."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.findings import Severity, Subject
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.states.facts import LoraFacts, OptimizerFacts, SchedulerFacts, StateFacts, WeightsFacts
from tests.audit.checks.test_settings import facts_of, judged, script_of

ADAMW8BIT = "accelerate-1.6.0-adamw8bit"


def codes_of(run: RunReport, facts: StateFacts, **flags: tuple[str | None, ...] | None) -> list[str]:
    return [found.code for found in judged(facts, script_of(run, **flags))]


def with_optimizer(run: RunReport, **changes: object) -> StateFacts:
    """The state with other facts of its optimizer."""
    optimizer = run.checkpoint("stepped-000002-state").facts.optimizer
    assert isinstance(optimizer, OptimizerFacts)
    return facts_of(run, optimizer=replace(optimizer, **changes))  # type: ignore[arg-type]


def with_rates(run: RunReport, *rates: float) -> StateFacts:
    return facts_of(run, scheduler=SchedulerFacts(16, rates, rates))


# Row 20, 21: another optimizer


@pytest.mark.parametrize(
    ("given", "stops"),
    [
        (("adamw8bit",), "The trainer stops in the first step, after “All optimizer states loaded successfully”: "
         "KeyError: 'betas'."),
        (("SGDNesterov",), "The trainer stops in the first step, after “All optimizer states loaded successfully”: "
         "KeyError: 'momentum'."),
        (("AdamWScheduleFree",), "The trainer stops before the first step: KeyError: 'train_mode'."),
    ],
)  # fmt: skip
def test_another_optimizer_stops_the_trainer(stepped: RunReport, given: tuple[str, ...], stops: str) -> None:
    (found,) = judged(facts_of(stepped), script_of(stepped, optimizer_type=given, optimizer_args=None))
    assert (found.code, found.severity, found.subject) == (
        "script-optimizer",
        Severity.FIXABLE,
        Subject.SCRIPT,
    )
    assert (
        found.message
        == f"The checkpoint was saved by adafactor; the train script has --optimizer_type {given[0]}."
    )
    assert found.effect == stops
    assert (
        "Set --optimizer_type adafactor in the train script again (FluxGym: VRAM 16G or 12G)." in found.cure
    )


def test_fluxgyms_other_choice_is_told_from_a_real_state(real_runs: Path) -> None:
    run = Auditor(real_runs).audit_run(ADAMW8BIT)
    facts = run.checkpoint("tiny-lora-000002-state").facts
    (found,) = judged(facts, script_of(run, optimizer_type=("adafactor",)))
    assert "saved by adamw8bit" in found.message
    assert found.effect.endswith("KeyError: 'beta1'.")
    assert "(FluxGym: VRAM 20G)" in found.cure


def test_without_the_flag_the_optimizer_is_the_trainers_own_adamw(stepped: RunReport) -> None:
    (found,) = judged(facts_of(stepped), script_of(stepped, optimizer_type=None))
    assert "the train script has no --optimizer_type, which means AdamW." in found.message


def test_a_state_that_another_optimizer_takes_without_a_message_is_told(stepped: RunReport) -> None:
    facts = with_optimizer(stepped, family="adamw", settings=())
    (found,) = judged(facts, script_of(stepped, optimizer_type=("Lion",)))
    assert found.effect.startswith("No error appears: it trains on, with moments")
    assert found.severity is Severity.FIXABLE


def test_a_schedule_free_state_misses_its_scheduler_with_another_optimizer(stepped: RunReport) -> None:
    facts = with_optimizer(stepped, family="adamwschedulefree", schedule_free=True, settings=())
    (found,) = judged(replace(facts, scheduler=None), script_of(stepped))
    assert "while it loads the state: FileNotFoundError … scheduler.bin" in found.effect
    assert "Set --optimizer_type AdamWScheduleFree in" in found.cure


@pytest.mark.parametrize(
    ("saved", "given"),
    [("adafactor", "ADAFACTOR"), ("adamw8bit", "PagedAdamW"), ("dadaptation", "DAdaptAdamPreprint")],
)
def test_an_optimizer_of_the_same_family_is_right(stepped: RunReport, saved: str, given: str) -> None:
    assert codes_of(stepped, with_optimizer(stepped, family=saved), optimizer_type=(given,)) == []


@pytest.mark.parametrize(
    "flags",
    [
        {"optimizer_type": (None,)},
        {"optimizer_type": ("Lion",), "deepspeed": ()},
    ],
)
def test_an_optimizer_that_is_not_known_is_not_judged(
    stepped: RunReport, flags: dict[str, tuple[str | None, ...]]
) -> None:
    assert codes_of(stepped, facts_of(stepped), **flags) == []


@pytest.mark.parametrize(("state_count", "codes"), [(14, ["script-optimizer-unknown"]), (0, [])])
def test_a_strange_state_for_a_known_optimizer_could_not_be_told(
    stepped: RunReport, state_count: int, codes: list[str]
) -> None:
    facts = with_optimizer(stepped, family="unknown", state_count=state_count)
    found = judged(facts, script_of(stepped))
    assert [each.code for each in found] == codes
    assert all(each.severity is Severity.UNKNOWN for each in found)
    assert codes_of(stepped, replace(facts, lora=None), optimizer_type=("came_pytorch.CAME",)) == []


# Row 19: groups


@pytest.mark.parametrize(
    ("flags", "error", "cure"),
    [
        ({"text_encoder_lr": ("0",)}, "has a different number of parameter groups",
         "Set --text_encoder_lr to the learning rate that this part had."),
        ({"network_args": ("loraplus_unet_lr_ratio=16",)}, "has a different number of parameter groups",
         "Remove loraplus_unet_lr_ratio (or loraplus_lr_ratio) from --network_args."),
        ({"network_args": ("loraplus_unet_lr_ratio=16",), "text_encoder_lr": ("0",)},
         "contains a parameter group that doesn't match the size of optimizer's group",
         "Set --text_encoder_lr to the learning rate that this part had and remove loraplus_unet_lr_ratio "
         "(or loraplus_lr_ratio) from --network_args."),
    ],
)  # fmt: skip
def test_other_groups_of_the_same_tensors_stop_the_trainer(
    stepped: RunReport, flags: dict[str, tuple[str, ...]], error: str, cure: str
) -> None:
    (found,) = judged(facts_of(stepped), script_of(stepped, **flags))
    assert (found.code, found.severity) == ("script-groups", Severity.FIXABLE)
    assert found.evidence.endswith("instead of 2 groups of 4, 10 tensors")
    assert (f"“loaded state dict {error}”" in found.effect, found.cure) == (True, cure)


def test_groups_that_no_choice_of_flags_makes_have_a_general_cure(stepped: RunReport) -> None:
    (found,) = judged(with_optimizer(stepped, group_sizes=(1, 13)), script_of(stepped))
    assert found.cure == "Set learning rates and --network_args back to what the run was started with."


def test_groups_with_lora_plus_are_right_for_the_script_that_made_them(stepped: RunReport) -> None:
    facts = replace(
        with_optimizer(stepped, group_sizes=(4, 5, 5)),
        scheduler=SchedulerFacts(16, (), (8e-4, 8e-4, 8e-4 * 16)),
    )
    assert codes_of(stepped, facts, network_args=("loraplus_unet_lr_ratio=16",)) == []
    assert codes_of(stepped, facts) == ["script-groups"]
    (found,) = judged(facts, script_of(stepped, network_args=("loraplus_unet_lr_ratio=4",)))
    assert found.code == "script-learning-rate"
    assert found.evidence == "0.0032 (the checkpoint has 0.0128)"


def test_an_optimizer_of_other_weights_is_damage_and_not_the_scripts(stepped: RunReport) -> None:
    facts = with_optimizer(stepped, group_sizes=(4, 9), param_count=13)
    assert codes_of(stepped, facts) == []


def test_groups_are_not_judged_where_the_parts_differ_already(stepped: RunReport) -> None:
    assert codes_of(stepped, facts_of(stepped), network_train_unet_only=()) == ["script-parts"]


# Settings of the optimizer


@pytest.mark.parametrize(
    ("args", "evidence"),
    [
        (("weight_decay=0.1",), "weight_decay=0.1 (the checkpoint has 0.0)"),
        (("eps=[1e-30,1e-2]", "weight_decay=0"), "eps=[1e-30, 0.01] (the checkpoint has (1e-30, 0.001))"),
        (("relative_step=True",), "relative_step=True (the checkpoint has False)"),
        (("warmup_init=True",), "relative_step=True (the checkpoint has False), "
         "warmup_init=True (the checkpoint has False)"),
    ],
)  # fmt: skip
def test_a_changed_setting_does_not_count(stepped: RunReport, args: tuple[str, ...], evidence: str) -> None:
    kept = () if args[0].startswith("relative") else ("relative_step=False",)
    (found,) = judged(facts_of(stepped), script_of(stepped, optimizer_args=(*kept, *args)))
    assert (found.code, found.severity) == ("script-optimizer-args", Severity.WARNING)
    assert found.evidence == evidence


def test_adafactor_without_arguments_would_be_relative(stepped: RunReport) -> None:
    """``get_optimizer`` adds relative_step=True itself; the state's False wins."""
    (found,) = judged(facts_of(stepped), script_of(stepped, optimizer_args=None))
    assert found.evidence == "relative_step=True (the checkpoint has False)"


@pytest.mark.parametrize(
    "args",
    [
        ("eps=(1e-30,1e-3)",),
        ("eps=[1e-30, 1e-3]", "weight_decay=0"),
        ("no_such_setting=3",),
        ("weight_decay=", "weight_decay", "weight_decay=0.1.2", "weight_decay=open('x')"),
        ("weight_decay=" + "(" * 5000,),
        ("weight_decay=" + "9" * 5000,),
        ("fused=True", "lr=1"),
    ],
)
def test_settings_that_are_the_same_or_that_the_trainer_refuses_are_no_change(
    stepped: RunReport, args: tuple[str, ...]
) -> None:
    args = ("relative_step=False", *args)
    assert codes_of(stepped, facts_of(stepped), optimizer_args=args) == []


def test_settings_that_only_the_shell_knows_are_not_compared(stepped: RunReport) -> None:
    assert codes_of(stepped, facts_of(stepped), optimizer_args=("relative_step=True", None)) == []


# Row 34: learning rate


def test_a_changed_learning_rate_does_not_count(stepped: RunReport) -> None:
    (found,) = judged(facts_of(stepped), script_of(stepped, learning_rate=("1e-4",)))
    assert (found.code, found.severity, found.file) == (
        "script-learning-rate",
        Severity.WARNING,
        "scheduler.bin",
    )
    assert found.evidence == "0.0001 (the checkpoint has 0.0008)"


@pytest.mark.parametrize(
    ("flags", "rates", "evidence"),
    [
        ({"unet_lr": ("1e-4",)}, (8e-4, 8e-4), "0.0001 (the checkpoint has 0.0008)"),
        ({"unet_lr": ("1e-4",)}, (8e-4, 1e-4), None),
        ({"text_encoder_lr": ("1e-5",)}, (8e-4, 8e-4), "1e-05 (the checkpoint has 0.0008)"),
        ({"text_encoder_lr": ("1e-5", "3e-5")}, (1e-5, 8e-4), None),
        ({"learning_rate": ("0.0008",)}, (8e-4, 8e-4), None),
        ({"learning_rate": None}, (8e-4, 8e-4), "2e-06 (the checkpoint has 0.0008)"),
        ({"learning_rate": (None,)}, (8e-4, 8e-4), None),
        ({"learning_rate": ("1",), "lr_scheduler_type": ("OneCycleLR",)}, (8e-4, 8e-4), None),
        ({"learning_rate": ("1",)}, (), None),
    ],
)
def test_each_groups_rate_is_compared_with_its_own(
    stepped: RunReport,
    flags: dict[str, tuple[str | None, ...]],
    rates: tuple[float, ...],
    evidence: str | None,
) -> None:
    found = judged(with_rates(stepped, *rates), script_of(stepped, **flags))
    assert [each.evidence for each in found] == ([evidence] if evidence else [])


def test_a_relative_step_has_no_rate_to_compare(stepped: RunReport) -> None:
    facts = with_optimizer(stepped, settings=(("relative_step", True),))
    script = script_of(stepped, learning_rate=("1",), optimizer_args=("relative_step=True",))
    assert judged(facts, script) == []


def test_a_schedule_free_optimizer_keeps_its_rate_itself(stepped: RunReport) -> None:
    family = {
        "family": "adamwschedulefree",
        "schedule_free": True,
        "learning_rates": (8e-4, 8e-4),
        "settings": (),
    }
    facts = replace(with_optimizer(stepped, **family), scheduler=None)
    script = script_of(stepped, optimizer_type=("AdamWScheduleFree",), learning_rate=("1e-4",))
    (found,) = judged(facts, script)
    assert (found.code, found.file) == ("script-learning-rate", "optimizer.bin")


@pytest.mark.parametrize(
    ("flags", "codes"),
    [
        ({"learning_rate": ("1e-4",)}, ["script-learning-rate"]),
        ({"learning_rate": ("8e-4",)}, []),
        ({"learning_rate": ("1e-4",), "unet_lr": ("8e-4",)}, []),
        ({"learning_rate": ("1e-4",), "network_args": ("algo=lokr",)}, []),
    ],
)
def test_of_another_network_only_a_single_rate_can_be_compared(
    stepped: RunReport, flags: dict[str, tuple[str, ...]], codes: list[str]
) -> None:
    script = replace(script_of(stepped, **flags), network_module="lycoris.kohya")
    assert [found.code for found in judged(facts_of(stepped), script)] == ["script-network-unlisted", *codes]
    # Without any network the whole model is trained, with rates for each of its blocks.
    assert judged(facts_of(stepped), replace(script, network_module=None)) == []


def test_rates_are_not_compared_where_the_groups_cannot_be_matched(stepped: RunReport) -> None:
    assert codes_of(stepped, with_rates(stepped, 8e-4), learning_rate=("1e-4",)) == []


def test_weights_that_could_not_be_read_leave_the_optimizer_to_be_judged(stepped: RunReport) -> None:
    facts = facts_of(stepped, weights=None)
    assert codes_of(stepped, facts, optimizer_type=("adamw8bit",)) == ["script-optimizer"]
    weights = stepped.checkpoint("stepped-000002-state").facts.weights
    assert isinstance(weights, WeightsFacts)
    assert weights.parts == Counter(te1=4, unet=10)


def test_plain_sgd_is_known_by_its_class(stepped: RunReport) -> None:
    flags = {"optimizer_type": ("SGD",), "optimizer_args": None}
    assert codes_of(stepped, facts_of(stepped), **flags) == ["script-optimizer"]


def test_an_optimizer_that_is_not_known_is_held_against_the_lora_file(stepped: RunReport) -> None:
    facts = facts_of(stepped)
    assert isinstance(facts.lora, LoraFacts)
    assert facts.lora.optimizer == "Adafactor"
    (found,) = judged(facts, script_of(stepped, optimizer_type=("pytorch_optimizer.CAME",)))
    assert (found.code, found.severity) == ("script-optimizer-unlisted", Severity.UNKNOWN)
    assert found.message.startswith(
        "The run was trained with Adafactor; the train script has --optimizer_type "
    )

    same = facts_of(stepped, lora=replace(facts.lora, optimizer="CAME"))
    for witness in (same, facts_of(stepped, lora=None)):
        assert codes_of(stepped, witness, optimizer_type=("pytorch_optimizer.CAME",)) == []
