"""The state against the script's network: rank, alpha and parts; what the script leaves open is not judged."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.checks.settings import check_settings
from checkpoint_core.audit.findings import Finding, Severity, Subject
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.environment.facts import TrainerFacts
from checkpoint_core.formats.safetensors import TensorEntry
from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.states.facts import FileEntry, StateFacts, WeightsFacts
from checkpoint_core.states.interpret import weights_facts
from checkpoint_core.states.layout import Layout
from checkpoint_core.trainer.lora_network import full_size_modules
from tests.judging import judge_state, outcome
from tests.world import World

STATE = "stepped-000002-state"
TEXT_ENCODER = "lora_te1_text_model_encoder_layers_0_mlp_fc1"


def script_of(run: RunReport, **flags: tuple[str | None, ...] | None) -> ScriptFacts:
    """The run's script with other flags, written with underscores; ``None`` removes one."""
    script = run.facts.script
    assert script is not None
    changed = {**script.flags, **{f"--{name}": values for name, values in flags.items()}}
    return replace(script, flags={name: values for name, values in changed.items() if values is not None})


def facts_of(run: RunReport, **changes: object) -> StateFacts:
    """The state of the second epoch, some of its facts replaced."""
    return replace(run.checkpoint(STATE).facts, **changes)  # type: ignore[arg-type]


def judged(
    facts: StateFacts, script: ScriptFacts | None, trainer: TrainerFacts | None = None
) -> list[Finding]:
    found = list(check_settings(facts, script, trainer))
    assert {each.severity for each in found} <= {Severity.FIXABLE, Severity.WARNING, Severity.UNKNOWN}
    return found


def network(modules: dict[str, int], alpha: float = 1.0) -> WeightsFacts:
    """The weights of LoRA modules by name and rank."""
    tensors = [
        TensorEntry(f"{name}.{end}.weight", "F32", shape, 0, 0)
        for name, rank in modules.items()
        for end, shape in (("lora_down", (rank, 8)), ("lora_up", (8, rank)))
    ]
    return weights_facts("model.safetensors", tensors, alpha)


def of_network(run: RunReport, modules: dict[str, int], alpha: float = 1.0) -> StateFacts:
    """A state of these modules; its optimizer is left out, so that the network alone is judged."""
    return facts_of(run, weights=network(modules, alpha), optimizer=None)


def full_size(rank: int = 4, *parts: str) -> dict[str, int]:
    names = [name for name in full_size_modules() if not parts or any(part in name for part in parts)]
    return {TEXT_ENCODER: rank, **dict.fromkeys(names, rank)}


# What must stay without a word


def test_every_state_is_right_for_the_script_that_made_it(stepped: RunReport, real_runs: Path) -> None:
    runs = (stepped, *Auditor(real_runs).audit().runs)
    found = {
        (run.name, each.name): judged(each.facts, run.facts.script)
        for run in runs
        for each in run.checkpoints
    }
    assert len(found) > 25
    assert {name: codes for name, codes in found.items() if codes} == {}


@pytest.mark.parametrize(
    "script", [None, {"config_file": "more.toml", "hidden": "--config_file more.toml is not read here"}]
)
def test_without_a_script_or_with_one_that_hides_flags_nothing_is_said(
    stepped: RunReport, script: dict[str, str] | None
) -> None:
    hiding = script and replace(script_of(stepped, network_dim=None, optimizer_type=None), **script)  # type: ignore[arg-type]
    assert judged(facts_of(stepped), hiding or None) == []


def test_a_word_that_may_hold_any_flag_leaves_even_the_written_ones_open(stepped: RunReport) -> None:
    wrong = script_of(stepped, network_dim=("8",))
    reason = "$MORE in line 3 may hold further flags"
    hiding = replace(wrong, hidden=reason, unknown=(("--save_state", reason),))
    assert [each.code for each in judged(facts_of(stepped), wrong)] == ["script-rank"]
    assert judged(facts_of(stepped), hiding) == []


def test_other_trainers_are_not_judged(stepped: RunReport) -> None:
    facts = facts_of(stepped, layout=Layout.ACCELERATE_OBJECTS)
    assert judged(facts, script_of(stepped, network_dim=("8",))) == []


@pytest.mark.parametrize(
    "flags",
    [
        {"network_dim": ("$RANK",)},
        {"network_dim": (None,)},
        {"network_dim": ("8",), "dim_from_weights": ()},
        {"network_dim": ("8",), "network_args": ("network_reg_dims=.*=4",)},
        {"network_dim": ("8",), "network_args": (None,)},
        {"network_dim": ("8",), "network_args": ("broken",)},
        {"network_dim": ("8",), "network_args": ("train_blocks=middle",)},
        {"network_dim": ("8",), "network_alpha": ("nan",)},
        {"network_dim": ("8",), "model_type": ("chroma",)},
    ],
)
def test_a_network_that_cannot_be_told_is_not_judged(
    stepped: RunReport, flags: dict[str, tuple[str | None, ...]]
) -> None:
    assert judged(facts_of(stepped), script_of(stepped, **flags)) == []


def test_another_network_module_is_not_judged_and_that_is_told(stepped: RunReport) -> None:
    script = replace(script_of(stepped, network_dim=("8",)), network_module="lycoris.kohya")
    (found,) = judged(facts_of(stepped), script)

    assert (found.code, found.severity) == ("script-network-unlisted", Severity.WARNING)
    assert "--network_module lycoris.kohya" in found.message


def test_fp16_wants_a_scaler_that_only_fp16_saves(stepped: RunReport) -> None:
    facts, script = facts_of(stepped), script_of(stepped, mixed_precision=("fp16",))
    (found,) = judged(facts, script)
    assert (found.code, found.subject) == ("script-mixed-precision", Subject.SCRIPT)

    saved = replace(facts, files=(*facts.files, FileEntry("scaler.pt", 988, 0)))
    assert judged(saved, script) == []
    assert judged(saved, script_of(stepped, mixed_precision=("bf16",))) == []


# Rank


@pytest.mark.parametrize(("dim", "given"), [(("8",), "8"), (("16",), "16")])
def test_another_rank_stops_the_trainer(stepped: RunReport, dim: tuple[str, ...], given: str) -> None:
    (found,) = judged(facts_of(stepped), script_of(stepped, network_dim=dim))
    assert (found.code, found.severity, found.subject) == ("script-rank", Severity.FIXABLE, Subject.SCRIPT)
    assert found.message == f"The checkpoint's LoRA has rank 4; the train script makes one of rank {given}."
    assert found.cure == "Set --network_dim 4 in the train script again."


def test_without_the_flag_the_rank_is_the_trainers_own_four(stepped: RunReport) -> None:
    script = script_of(stepped, network_dim=None)
    assert judged(facts_of(stepped), script) == []
    (found,) = judged(of_network(stepped, full_size(16)), script)
    assert "Set --network_dim 16" in found.cure


def test_ranks_are_compared_module_by_module(stepped: RunReport) -> None:
    ranks = {name: 16 if "attn" in name else 4 for name in full_size()}
    facts = of_network(stepped, ranks)
    args = ("img_attn_dim=16", "txt_attn_dim=16")
    assert judged(facts, script_of(stepped, network_args=args)) == []
    (found,) = judged(facts, script_of(stepped, network_args=args[:1]))
    assert "has rank 4 (229 modules) and 16 (76 modules)" in found.message
    assert "makes one of rank 4 (267 modules) and 16 (38 modules)" in found.message
    assert "--network_args" in found.cure


def test_split_qkv_saves_the_pairs_of_a_layer_as_one(stepped: RunReport) -> None:
    ranks = {name: 16 if "linear1" in name else 4 for name in full_size(4, "single")}
    facts, single = of_network(stepped, ranks), "train_blocks=single"
    assert judged(facts, script_of(stepped, network_args=(single, "split_qkv=True"))) == []
    (found,) = judged(facts, script_of(stepped, network_args=(single,)))
    assert found.cure == "Add split_qkv=True in --network_args."


# Alpha


def test_another_alpha_trains_with_another_scale(stepped: RunReport) -> None:
    (found,) = judged(facts_of(stepped), script_of(stepped, network_alpha=("8",)))
    assert (found.code, found.severity) == ("script-alpha", Severity.FIXABLE)
    assert "--network_alpha 1; the train script has --network_alpha 8" in found.message
    assert "changes by a factor of 8 from" in found.effect
    assert found.cure == "Set --network_alpha 1 in the train script again."


def test_an_alpha_that_was_dropped_is_one(stepped: RunReport) -> None:
    facts = of_network(stepped, full_size(4), 16.0)
    (found,) = judged(facts, script_of(stepped))
    assert "the train script has no --network_alpha, which means 1." in found.message
    assert "a factor of 0.0625" in found.effect


@pytest.mark.parametrize(
    ("saved", "given"), [(1.0, "1"), (1.0, "1.0"), (1.296875, "1.3"), (4.0, "0"), (4.0, "4"), (None, "9")]
)
def test_the_same_alpha_is_right_in_every_spelling(stepped: RunReport, saved: float, given: str) -> None:
    """1.296875 is 1.3 in bfloat16; 0 stands for the rank."""
    facts = of_network(stepped, full_size(4), saved)
    assert judged(facts, script_of(stepped, network_alpha=(given,))) == []


# Parts


@pytest.mark.parametrize(
    ("flags", "lost", "cure"),
    [
        ({"network_args": ("train_blocks=single",)}, "double blocks", "Remove train_blocks"),
        ({"network_args": ("train_blocks=double",)}, "single blocks", "Remove train_blocks"),
        ({"network_train_unet_only": ()}, "the CLIP text encoder", "Remove --network_train_unet_only"),
        ({"network_train_text_encoder_only": ()}, "blocks", "Remove --network_train_text_encoder_only"),
    ],
)
def test_parts_that_the_script_leaves_out_stop_the_trainer(
    stepped: RunReport, flags: dict[str, tuple[str, ...]], lost: str, cure: str
) -> None:
    (found,) = judged(facts_of(stepped), script_of(stepped, **flags))
    assert (found.code, found.severity) == ("script-parts", Severity.FIXABLE)
    holds, trains = found.evidence.split(", the script trains ")
    assert lost in holds
    assert lost not in trains
    assert found.cure.startswith(cure)


@pytest.mark.parametrize(
    ("modules", "flags", "cure"),
    [
        (full_size(4, "single"), {}, 'Set --network_args "train_blocks=single" (FluxGym: VRAM 12G).'),
        (full_size(4, "double"), {}, 'Set --network_args "train_blocks=double".'),
        (dict.fromkeys(full_size_modules(), 4), {}, "Add --network_train_unet_only."),
        ({TEXT_ENCODER: 4}, {}, "Add --network_train_text_encoder_only."),
        ({**full_size(), "lora_te3_a": 4}, {}, "Add train_t5xxl=True in --network_args."),
        ({**full_size(), "lora_unet_img_in": 4}, {}, "Add in_dims in --network_args."),
        (full_size(), {"network_args": ("in_dims=4,4,4,4,4",)}, "Remove in_dims in --network_args."),
        (full_size(), {"network_args": ("single_dim=0", "single_mod_dim=0")},
         "Set --network_args back to what the run was started with."),
    ],
)  # fmt: skip
def test_the_cure_names_the_flag_that_gives_the_parts_back(
    stepped: RunReport, modules: dict[str, int], flags: dict[str, tuple[str, ...]], cure: str
) -> None:
    (found,) = judged(of_network(stepped, modules), script_of(stepped, **flags))
    assert (found.code, found.cure) == ("script-parts", cure)


@pytest.mark.parametrize(
    ("modules", "flags"),
    [
        (full_size(4, "single"), {"network_args": ("train_blocks=single",)}),
        (dict.fromkeys(full_size_modules(), 4), {"network_train_unet_only": ()}),
        ({TEXT_ENCODER: 4}, {"network_train_text_encoder_only": ()}),
        ({**full_size(), "lora_te3_a": 4}, {"network_args": ("train_t5xxl=True",)}),
        ({**full_size(), "lora_unet_img_in": 2}, {"network_args": ("in_dims=[2,0,0,0,0]",)}),
        ({name: rank for name, rank in full_size().items() if "mod" not in name or "te1" in name},
         {"network_args": ("img_mod_dim=0", "txt_mod_dim=0", "single_mod_dim=0")}),
    ],
)  # fmt: skip
def test_parts_that_the_flags_ask_for_are_right(
    stepped: RunReport, modules: dict[str, int], flags: dict[str, tuple[str, ...]]
) -> None:
    assert judged(of_network(stepped, modules), script_of(stepped, **flags)) == []


def test_single_blocks_that_are_left_out_or_added_are_told(stepped: RunReport) -> None:
    few = {name: rank for name, rank in full_size().items() if "double_blocks_3_" not in name}
    (added,) = judged(of_network(stepped, few), script_of(stepped))
    assert added.evidence.startswith("the script adds 10 modules, such as lora_unet_double_blocks_3_img_attn")
    selected = script_of(stepped, network_args=("train_double_block_indices=0-2,4-18",))
    assert judged(of_network(stepped, few), selected) == []
    (left_out,) = judged(of_network(stepped, full_size()), selected)
    assert left_out.evidence.startswith("the script leaves out 10 modules")


def test_a_smaller_model_has_fewer_blocks_and_is_right(stepped: RunReport) -> None:
    """A Flux with eight double blocks: nothing tells that the others were ever there."""
    small = {
        name: rank
        for name, rank in full_size().items()
        if "double" not in name or int(name.split("_")[4]) < 8
    }
    assert judged(of_network(stepped, small), script_of(stepped)) == []


def test_a_module_with_half_a_character_in_its_name_can_be_printed(stepped: RunReport) -> None:
    script = script_of(stepped, network_args=("train_double_block_indices=0-2,4-18",))
    odd = "lora_unet_double_blocks_3_\udc80"
    foreign, found = judged(of_network(stepped, {**full_size(), odd: 4}), script)
    assert (foreign.code, found.code) == ("weights-modules-unknown", "script-parts")
    assert found.evidence.encode("utf-8")
    few = {name: rank for name, rank in full_size().items() if "double_blocks_3_" not in name}
    foreign, found = judged(of_network(stepped, {**few, odd: 4}), script)
    assert foreign.evidence == "lora_unet_double_blocks_3_\\udc80"
    assert found.evidence == "the script leaves out lora_unet_double_blocks_3_\\udc80"


def test_a_layer_that_the_trainer_does_not_adapt_cannot_be_judged(stepped: RunReport) -> None:
    names = {name.replace("img_attn_qkv", "img_attention"): rank for name, rank in full_size().items()}
    (found,) = [
        each for each in judged(of_network(stepped, names), script_of(stepped)) if each.code != "script-parts"
    ]
    assert (found.code, found.severity) == ("weights-modules-unknown", Severity.UNKNOWN)
    assert "19 modules, such as lora_unet_double_blocks_0_img_attention" in found.message


def test_parts_and_rank_may_both_be_wrong(stepped: RunReport) -> None:
    script = script_of(stepped, network_dim=("8",), network_args=("train_blocks=single",))
    assert [each.code for each in judged(facts_of(stepped), script)] == ["script-parts", "script-rank"]


def test_weights_that_are_no_lora_are_not_compared(stepped: RunReport) -> None:
    weights = replace(network({"encoder": 4}), keys_are_lora=False)
    assert judged(facts_of(stepped, weights=weights, optimizer=None), script_of(stepped)) == []


def test_weights_whose_ranks_were_not_all_found_are_not_compared(stepped: RunReport) -> None:
    weights = replace(network(full_size(16)), ranks=Counter({16: 3}))
    assert judged(facts_of(stepped, weights=weights, optimizer=None), script_of(stepped)) == []


# The trainer


@pytest.mark.parametrize(
    ("optimizer", "features", "codes"),
    [
        ("AdamWScheduleFree", frozenset(), ["trainer-too-old-schedule-free"]),
        ("AdamWScheduleFree", frozenset({"schedule-free"}), []),
        ("adafactor", frozenset(), []),
    ],
)
def test_a_schedule_free_optimizer_needs_a_newer_trainer(
    stepped: RunReport, optimizer: str, features: frozenset[str], codes: list[str]
) -> None:
    facts = facts_of(stepped, optimizer=None)
    trainer = TrainerFacts(Path("/gym/sd-scripts"), None, features)
    script = script_of(stepped, optimizer_type=(optimizer,))
    found = judged(facts, script, trainer)
    assert [each.code for each in found] == codes
    assert judged(facts, script, None) == []
    for each in found:
        assert each.subject is Subject.ENVIRONMENT
        assert "(/gym/sd-scripts)" in each.message
        assert "Not in train mode!" in each.effect


def test_a_file_of_further_flags_is_told_with_each_checkpoint(world: World) -> None:
    world.edit_script(lambda text: text.replace("--seed 42", "--seed 42 --config_file more.toml"))
    assert outcome(judge_state(world)) == ("ready-with-warnings", ["script-config-file"])
