"""Findings about a train script that does not fit the state."""

from __future__ import annotations

from checkpoint_core.audit.catalogue.entry import Entry
from checkpoint_core.audit.findings import Severity, Subject

_WARNING, _FIXABLE, _UNKNOWN = Severity.WARNING, Severity.FIXABLE, Severity.UNKNOWN
_SCRIPT, _ENVIRONMENT = Subject.SCRIPT, Subject.ENVIRONMENT

_WARM_START = (
    "start from the LoRA file of this save instead: --network_weights and --initial_epoch, without --resume."
)

SCRIPT: tuple[Entry, ...] = (
    Entry("script-rank", _FIXABLE, _SCRIPT,
          "The checkpoint's LoRA has rank {saved}; the train script makes one of rank {given}.",
          "The trainer stops before the first step: “size mismatch for … lora_down.weight”.", "{cure}."),
    Entry("script-alpha", _FIXABLE, _SCRIPT,
          "The checkpoint was trained with --network_alpha {saved}; the train script has {given}.",
          "No error appears, but the LoRA's strength changes by a factor of {factor} from the first step on: the "
          "trainer scales it by the script's alpha / rank. Saved LoRA files still name the old alpha.",
          "Set --network_alpha {saved} in the train script again."),
    Entry("script-parts", _FIXABLE, _SCRIPT,
          "The train script trains other parts of the model than the checkpoint holds: {evidence}.",
          "The trainer stops before the first step: “Missing key(s) in state_dict” or “Unexpected key(s) in "
          "state_dict”.",
          "{cure}."),
    Entry("script-groups", _FIXABLE, _SCRIPT,
          "The train script groups the trained tensors differently from the checkpoint's optimizer: {evidence}.",
          "The trainer stops before the first step: “loaded state dict {error}”.", "{cure}."),
    Entry("script-network-unlisted", _WARNING, _SCRIPT,
          "The train script makes its network with {given}, which is not known here.",
          "Whether it makes the tensors that the checkpoint holds was not compared: if it does not, the trainer stops "
          "before the first step.",
          "Make sure that --network_module and its settings are those that the run was started with."),
    Entry("script-mixed-precision", _FIXABLE, _SCRIPT,
          "The train script says --mixed_precision fp16; the checkpoint was saved without fp16's scaler (scaler.pt).",
          "The trainer stops before the first step, on a GPU: FileNotFoundError … scaler.pt.",
          "Set --mixed_precision back to what the run was started with (FluxGym: bf16)."),
    Entry("script-optimizer", _FIXABLE, _SCRIPT,
          "The checkpoint was saved by {saved}; the train script has {given}.",
          "{consequence}.",
          "Set --optimizer_type {written} in the train script again{hint}. To change the optimizer, " + _WARM_START),
    Entry("script-optimizer-unknown", _UNKNOWN, _SCRIPT,
          "The checkpoint's optimizer is not one that is known here; the train script has {given}.",
          "If another optimizer saved it, the first step fails, or trains with moments that mean something else.",
          "Make sure that --optimizer_type is the one that the run was started with."),
    Entry("script-optimizer-unlisted", _UNKNOWN, _SCRIPT,
          "The run was trained with {saved}; the train script has --optimizer_type {given}, which is not known here.",
          "Unless both keep the same moments, the first step fails, or trains with moments that mean something else.",
          "Set --optimizer_type back to the one that the run was started with, or " + _WARM_START),
    Entry("script-optimizer-args", _WARNING, _SCRIPT,
          "The train script's --optimizer_args have no effect: {evidence}.",
          "The trainer takes these settings from optimizer.bin and keeps the checkpoint's.",
          "No action is needed to train on as before. To train with the script's, " + _WARM_START),
    Entry("script-learning-rate", _WARNING, _SCRIPT,
          "The learning rate of the train script has no effect: {evidence}.",
          "The trainer takes the learning rate from {file} and keeps the checkpoint's.",
          "No action is needed to train on as before. To train with the script's, " + _WARM_START),
    Entry("trainer-too-old-schedule-free", _FIXABLE, _ENVIRONMENT,
          "This sd-scripts ({folder}) is too old for a schedule-free optimizer ({given}).",
          "The trainer stops: “Not in train mode!” in the first step, or before that because it does not know the "
          "optimizer or misses scheduler.bin.",
          "Upgrade sd-scripts: git pull in that folder, then pip install -r requirements.txt in the training "
          "environment."),
)  # fmt: skip
