"""Every finding that can be made: its stable code and its sentences, in one place.

The table in docs/findings.md is generated from here. ``{file}`` and the other fields are filled in by the check. Rows
name the failure catalogue in the project's documentation; the quoted messages are the trainer's own (sd-scripts
``train_network.py``, accelerate ``accelerator.py`` and ``checkpointing.py``, torch ``serialization.py``).
"""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_core.audit.catalogue.entry import Entry
from checkpoint_core.audit.catalogue.environment import ENVIRONMENT
from checkpoint_core.audit.catalogue.forecast import FORECAST
from checkpoint_core.audit.catalogue.rehearsal import REHEARSAL
from checkpoint_core.audit.catalogue.script import SCRIPT
from checkpoint_core.audit.findings import Finding, FindingKind, Severity, StatePart, Subject

_INFO, _WARNING, _FIXABLE = Severity.INFO, Severity.WARNING, Severity.FIXABLE
_ERROR, _UNKNOWN, _SAVING = Severity.ERROR, Severity.UNKNOWN, Severity.SAVING
_STATE, _SCRIPT, _RUN = Subject.STATE, Subject.SCRIPT, Subject.RUN

_OLDER = "Resume from an older checkpoint of this run that is ready."
_FRESH_RANDOM = (
    "No action is needed with accelerate 0.34 or newer. With 0.32 or 0.33, upgrade: "
    "pip install -U 'accelerate>=1.1' in the training environment."
)
_RANDOM_EFFECT = (
    "Training continues from the right weights, but the image order and noise differ. "
    "accelerate 0.32 and 0.33 stop with KeyError: 'step' instead."
)


#: For each file of a state: its weight, what the trainer does without it, and the cure.
_FILES = (
    (StatePart.WEIGHTS, _ERROR,
     "The trainer stops before the first step: the LoRA's weights cannot be loaded.", _OLDER),
    (StatePart.OPTIMIZER, _ERROR,
     "The trainer stops before the first step: the optimizer cannot be loaded.", _OLDER),
    (StatePart.SCHEDULER, _ERROR,
     "The trainer stops before the first step: the learning rate schedule cannot be loaded.", _OLDER),
    (StatePart.RANDOM_STATES, _WARNING, _RANDOM_EFFECT, _FRESH_RANDOM),
    (StatePart.CUSTOM_OBJECT, _ERROR,
     "The trainer stops before the first step: its registered object cannot be restored.", _OLDER),
)  # fmt: skip

#: For each kind of damage: the sentence, and a severity where it is not the file's own.
_DAMAGES: tuple[tuple[FindingKind, str, Severity | None], ...] = (
    (FindingKind.MISSING, "{file} is missing.", None),
    (FindingKind.EMPTY, "{file} is empty (0 bytes).", None),
    (FindingKind.TRUNCATED, "{file} is truncated: {detail}.", None),
    (FindingKind.CORRUPT, "{file} is corrupt: {detail}.", None),
    (FindingKind.FOREIGN, "{file} holds objects that accelerate refuses to load: {detail}.", None),
    (FindingKind.UNREADABLE, "{file} could not be read: {detail}.", _UNKNOWN),
    (FindingKind.UNSUPPORTED, "{file} could not be judged: {detail}.", _UNKNOWN),
)


def _file_entries() -> Iterator[Entry]:
    for part, severity, effect, cure in _FILES:
        for kind, message, other in _DAMAGES:
            # Whatever is wrong with the random states alone, the training can go on.
            weight = severity if severity is _WARNING or other is None else other
            told = "Whether the trainer can read it is not known." if weight is _UNKNOWN else effect
            unread = kind is FindingKind.UNREADABLE and weight is _UNKNOWN
            help_ = "Make the file readable for this user, then refresh." if unread else cure
            yield Entry(_file_code(part, kind), weight, _STATE, message, told, help_, kind, part)


def _file_code(part: StatePart, kind: FindingKind) -> str:
    return f"{part.value}-{kind.value}"


_SAVES = (
    Entry("save-in-progress", _SAVING, _STATE, "This checkpoint is being written right now.",
          "Resuming from a half-written checkpoint fails or mixes two saves.",
          "Wait until the save is finished; the table refreshes by itself."),
    Entry("save-interrupted", _ERROR, _STATE, "The save was interrupted: {evidence}.",
          "The trainer stops before the first step, because a file is missing.", _OLDER, kind=FindingKind.INTERRUPTED),
    Entry("state-empty", _ERROR, _STATE, "The directory is empty: the save was killed before its first file.",
          "The trainer stops before the first step: there is nothing to load.", _OLDER, kind=FindingKind.EMPTY),
    Entry("state-unreadable", _UNKNOWN, _STATE, "The directory could not be read: {detail}.",
          "Nothing is known about this checkpoint.", "Make the directory readable for this user, then refresh.",
          kind=FindingKind.UNREADABLE),
    Entry("mixed-saves", _ERROR, _STATE,
          "The files come from two saves: {evidence}.",
          "It loads without an error but trains wrongly: weights from one save, optimizer from another.",
          _OLDER, kind=FindingKind.MIXED),
    Entry("random-states-older", _WARNING, _STATE,
          "{file} belongs to an earlier save than the other files ({evidence}).", _RANDOM_EFFECT, _FRESH_RANDOM,
          kind=FindingKind.OLDER, part=StatePart.RANDOM_STATES),
    Entry("file-times-disordered", _WARNING, _STATE,
          "The files' times do not follow the order of a save: {evidence}.",
          "Training resumes correctly if the files were only copied, and wrongly if one was replaced.",
          "Press “Verify every byte”: it compares the weights with the LoRA file of the same epoch."),
    Entry("changed-since-save", _WARNING, _STATE,
          "{file} has changed since it was saved and checked ({evidence}).",
          "The save itself was fine: the disk, a copy or another program has changed the file since.",
          "No action is needed if you changed it yourself. Else restore the file from a backup or a copy, or resume "
          "from another checkpoint that is ready."),
    Entry("damaged-at-save", _INFO, _STATE, "It was corrupt when saved ({evidence}).",
          "The save itself failed (a full disk, a killed trainer, memory), or saved what was wrong already: copies of "
          "it are no better.",
          _OLDER),
    Entry("check-crashed", _UNKNOWN, _STATE, "A check could not be completed ({evidence}).",
          "What it would have found is not known.", "Please report this with the diagnosis."),
)  # fmt: skip

_TRAIN_STATE_CURE = (
    "Add --initial_epoch {next_epoch} to the train script, or write train_state.json as "
    '{{"current_epoch": {epoch}, "current_step": {step}}}.'
)
_POSITION = (
    Entry("train-state-missing", _FIXABLE, _STATE, "train_state.json is missing.",
          "The trainer starts at epoch 1 again without a message, and overwrites the run's earlier files.",
          _TRAIN_STATE_CURE, kind=FindingKind.MISSING, part=StatePart.TRAIN_STATE),
    Entry("train-state-broken", _FIXABLE, _STATE, "train_state.json is broken: {detail}.",
          "The trainer stops before the first step (JSONDecodeError or TypeError).",
          'Rewrite it as {{"current_epoch": {epoch}, "current_step": {step}}}.',
          kind=FindingKind.BROKEN, part=StatePart.TRAIN_STATE),
    Entry("train-state-no-step", _FIXABLE, _STATE, "train_state.json has no current_step.",
          "The trainer stops before the first step with KeyError: 'current_step'.",
          'Rewrite it as {{"current_epoch": {epoch}, "current_step": {step}}}.',
          kind=FindingKind.NO_STEP, part=StatePart.TRAIN_STATE),
    Entry("train-state-unreadable", _UNKNOWN, _STATE, "train_state.json could not be read: {detail}.",
          "Which epoch the trainer would continue at is not known.",
          "Make the file readable for this user, then refresh.",
          kind=FindingKind.UNREADABLE, part=StatePart.TRAIN_STATE),
    Entry("position-relative", _FIXABLE, _STATE,
          "This state was saved after a resume: its current_step is {current_step}, but the training stood at step "
          "{step}, in epoch {epoch}.",
          "The trainer continues at epoch {start_epoch} instead of {next_epoch}, trains epochs again and overwrites "
          "their files, without a message.",
          "Add --initial_epoch {next_epoch} to the train script (needed on every further resume), or set "
          "current_step in train_state.json to {step}."),
    Entry("position-unknown", _UNKNOWN, _STATE, "Which epochs the trainer would train is not known: {evidence}.",
          "The trainer may train epochs again and overwrite their files.",
          "Write --initial_epoch into the train script, as a number: the epoch after the last one that was finished."),
    Entry("counts-disagree", _UNKNOWN, _STATE,
          "train_state.json stands at step {step}, but scheduler.bin has counted only {lifetime_step}.",
          "The files may be of two saves; then it trains on from the weights of an earlier moment.",
          "Press “Verify every byte” to compare the weights with the LoRA file. " + _OLDER),
    Entry("script-initial-epoch", _FIXABLE, _SCRIPT,
          "The train script says {flag}, but this checkpoint must continue at epoch {next_epoch}.",
          "The trainer follows the script: it continues at epoch {start_epoch}.",
          "Set --initial_epoch {next_epoch} in the train script, or remove {flag}."),
    Entry("script-initial-step", _FIXABLE, _SCRIPT,
          "The train script says --initial_step {initial_step} with --skip_until_initial_step, and this checkpoint "
          "stands at step {step}.",
          "The trainer passes over steps that were never trained, without a message.",
          "Set --initial_step {step} in the train script, or remove it: the trainer then goes by the checkpoint."),
    Entry("run-finished", _FIXABLE, _SCRIPT,
          "The training is finished: epoch {epoch} of {max_epochs} is done.",
          "The trainer stops with “max_train_steps should be greater than initial step”, or trains the last epochs "
          "again.",
          "To train on, raise --max_train_epochs above {epoch} in the train script."),
    Entry("mid-epoch", _WARNING, _STATE,
          "Saved in the middle of epoch {epoch}, at step {step}.",
          "The trainer starts epoch {epoch} over, so {repeated} steps are trained a second time.",
          "No action is needed. With --skip_until_initial_step the trainer skips them instead."),
    Entry("counts-from-zero", _INFO, _STATE, "The progress bar starts at 0 after the resume.",
          "It counts the steps of this launch against those of the whole training, so it ends below 100 %.",
          "No action is needed; the epoch in the log is right."),
    Entry("name-differs", _WARNING, _STATE,
          "The directory's name says {named}, the files in it say epoch {epoch}.",
          "The trainer goes by the files.", "Make sure that this is the checkpoint you mean."),
)  # fmt: skip

_CONTENTS = (
    Entry("weights-not-lora", _ERROR, _STATE, "{file} does not hold a LoRA: its tensors are named like {evidence}.",
          "The trainer stops with “Error(s) in loading state_dict”: an old trainer saved the whole model.",
          "This state cannot be resumed with this trainer. Start from the LoRA file (--network_weights).",
          part=StatePart.WEIGHTS),
    Entry("weights-names-broken", _ERROR, _STATE, "{file} names tensors that do not belong together ({evidence}).",
          "The trainer stops before the first step: “Missing key(s) in state_dict”. Bytes of the file have changed.",
          _OLDER, kind=FindingKind.NAMES_BROKEN, part=StatePart.WEIGHTS),
    Entry("optimizer-params-mismatch", _ERROR, _STATE,
          "The optimizer was saved for {optimizer_count} tensors, the weights have {weights_count}.",
          "The trainer stops: “loaded state dict contains a parameter group that doesn't match the size of "
          "optimizer's group”.",
          _OLDER, kind=FindingKind.MISMATCH, part=StatePart.OPTIMIZER),
    Entry("optimizer-shapes-mismatch", _ERROR, _STATE,
          "The optimizer was saved for tensors of other shapes than the weights ({evidence}).",
          "The first step fails, or the weights are moved by another training's momentum.", _OLDER,
          kind=FindingKind.MISMATCH, part=StatePart.OPTIMIZER),
    Entry("optimizer-state-incomplete", _UNKNOWN, _STATE,
          "The optimizer remembers {state_count} of its {param_count} tensors.",
          "The others restart without momentum. That is right only if they were never trained.",
          "Make sure that parts of the LoRA were left untrained. " + _OLDER,
          kind=FindingKind.INCOMPLETE, part=StatePart.OPTIMIZER),
    Entry("optimizer-step-differs", _UNKNOWN, _STATE,
          "The optimizer has counted {optimizer_step} updates, the schedule {scheduler_step}.",
          "The files may be of two saves; then the weights are moved by the momentum of another moment.",
          _OLDER, part=StatePart.OPTIMIZER),
    Entry("scheduler-groups-differ", _ERROR, _STATE,
          "{file} has learning rates for {rates} parameter groups, the optimizer has {groups}: one of them belongs to "
          "another training.",
          "The trainer stops while it loads the schedule (IndexError), or in the first step (ValueError).", _OLDER,
          part=StatePart.SCHEDULER),
    Entry("weights-modules-unknown", _UNKNOWN, _STATE,
          "{file} holds LoRA modules that sd-scripts' networks.lora_flux does not make ({evidence}).",
          "Unless another sd-scripts made them, the trainer stops before the first step: “Unexpected key(s) in "
          "state_dict”.",
          "Resume with the sd-scripts that saved it. " + _OLDER, part=StatePart.WEIGHTS),
    Entry("random-states-incomplete", _WARNING, _STATE, "{file} lacks the random state of {evidence}.",
          "Training continues from the right weights, but the image order and noise differ.",
          "No action is needed.", kind=FindingKind.INCOMPLETE, part=StatePart.RANDOM_STATES),
    Entry("random-states-no-step", _WARNING, _STATE, "{file} has no step (accelerate 0.31 or older saved it).",
          "accelerate 0.32 and 0.33 stop with KeyError: 'step'. Every other version loads it.", _FRESH_RANDOM,
          kind=FindingKind.NO_STEP, part=StatePart.RANDOM_STATES),
    Entry("random-states-hostile", _FIXABLE, _STATE, "{file} names code to run: {detail}.",
          "An old torch runs that code when it loads the file. No trainer writes such a file.",
          "Do not resume from it as it is. Move the file away; the training then continues with new random states.",
          kind=FindingKind.HOSTILE, part=StatePart.RANDOM_STATES),
    Entry("stray-custom-object", _FIXABLE, _STATE, "{file} does not belong to this trainer.",
          "The trainer stops with “Number of custom checkpoints in folder … does not match the number of registered "
          "objects”.",
          "Move {file} out of the state directory, or choose the layout accelerate-objects if your trainer writes "
          "it.", kind=FindingKind.STRAY, part=StatePart.CUSTOM_OBJECT),
    Entry("custom-object-no-step", _ERROR, _STATE, "{file} has no {evidence}.",
          "The trainer cannot tell where the training stood.", _OLDER,
          kind=FindingKind.NO_STEP, part=StatePart.CUSTOM_OBJECT),
    Entry("learning-rate-zero", _FIXABLE, _STATE, "The learning rate is 0 from here on: its schedule has run out.",
          "The training runs on and learns nothing.",
          "Set --lr_scheduler constant in the train script, or raise --max_train_epochs."),
)  # fmt: skip

_DEEP = (
    Entry("weights-bytes-changed", _ERROR, _STATE, "Bytes of {file} have changed since the save: {detail}.",
          "It loads without an error and trains on with wrong numbers.", _OLDER,
          kind=FindingKind.BYTES_CHANGED, part=StatePart.WEIGHTS),
    Entry("optimizer-bytes-changed", _ERROR, _STATE, "Bytes of {file} have changed since the save: {detail}.",
          "It loads without an error and trains on with wrong numbers.", _OLDER,
          kind=FindingKind.BYTES_CHANGED, part=StatePart.OPTIMIZER),
    Entry("weights-not-finite", _ERROR, _STATE, "{file} holds NaN or Inf ({evidence}).",
          "The loss is nan from the first step on; the LoRA is lost.", _OLDER,
          kind=FindingKind.NOT_FINITE, part=StatePart.WEIGHTS),
    Entry("optimizer-not-finite", _ERROR, _STATE, "{file} holds NaN or Inf ({evidence}).",
          "The loss becomes nan within a few steps; the LoRA is lost.", _OLDER,
          kind=FindingKind.NOT_FINITE, part=StatePart.OPTIMIZER),
    Entry("weights-differ-from-lora", _ERROR, _STATE,
          "The weights are not those of {lora_file}, the LoRA file of the same save ({evidence}).",
          "Bytes have changed, or the directory mixes two saves: it would train on from wrong weights.", _OLDER,
          kind=FindingKind.DIFFERENT, part=StatePart.WEIGHTS),
    Entry("lora-newer", _INFO, _STATE, "{lora_file} was written by a later save, so it cannot vouch for these "
          "weights.", "None.", "No action is needed."),
    Entry("weights-match-lora", _INFO, _STATE, "The weights equal {lora_file} to the bit.",
          "None: this proves that no byte of the weights has changed.", "No action is needed.",
          part=StatePart.WEIGHTS),
    Entry("bytes-verified", _INFO, _STATE, "Every byte was read ({evidence}).", "None.", "No action is needed."),
)  # fmt: skip

_TARGETS = (
    Entry("resume-empty", _FIXABLE, _SCRIPT, 'The train script says --resume "" (line {line}).',
          "The trainer starts from scratch without a message.",
          "Choose a checkpoint here, or press “Start fresh” to remove the flag.", kind=FindingKind.EMPTY),
    Entry("resume-missing", _FIXABLE, _SCRIPT, "The train script resumes from {evidence}, which does not exist.",
          "The trainer stops: “Tried to find … but folder does not exist”.",
          "Choose a checkpoint here; its full path is written into the script.", kind=FindingKind.MISSING),
    Entry("resume-lora-file", _FIXABLE, _SCRIPT,
          "The train script resumes from {evidence}, which is a LoRA file and not a state directory.",
          "The trainer stops: “Tried to find ….safetensors but folder does not exist”.",
          "Choose a checkpoint here{match}."),
    Entry("resume-run-folder", _FIXABLE, _SCRIPT,
          "The train script resumes from {evidence}, which is a folder but no state directory.",
          "The trainer stops: FileNotFoundError … pytorch_model.bin.",
          "Choose one of the checkpoints in it."),
    Entry("resume-other-run", _FIXABLE, _SCRIPT,
          "The train script resumes from {evidence}, which belongs to another run, “{run}”.",
          "The trainer continues from that run's weights and epochs, and saves the result under this run's name.",
          "Choose a checkpoint here, or press “Start fresh” to remove the flag. No action is needed if this run is "
          "meant to continue from “{run}”."),
    Entry("weights-other-run", _WARNING, _SCRIPT,
          "The train script begins with the weights {evidence}, which belong to another run, “{run}”.",
          "The trainer continues from that run's weights, and saves the result under this run's name.",
          "Remove --network_weights (and --initial_epoch) from the script. No action is needed if this run is meant "
          "to begin with the LoRA of “{run}”."),
    Entry("initial-epoch-alone", _FIXABLE, _SCRIPT,
          "The train script begins at epoch {epoch} with new weights: --initial_epoch is set without --resume or "
          "--network_weights.",
          "The trainer passes over the epochs before, although nothing was trained in them, without a message.",
          "Choose a checkpoint here, or remove --initial_epoch from the script to train from epoch 1."),
    Entry("resume-other-world", _INFO, _SCRIPT,
          "The train script resumes from {evidence}, a path of another machine or container.",
          "This machine can't check whether it exists there.",
          "No action is needed if the script runs there."),
    Entry("resume-from-hub", _WARNING, _SCRIPT,
          "The train script has --resume_from_huggingface: the trainer takes --resume for a name on the hub.",
          "The trainer looks on the hub, doesn't find it, and stops.",
          "Remove --resume_from_huggingface from the script to resume from this machine."),
)  # fmt: skip

_RUNS = (
    Entry("no-states-not-saved", _WARNING, _SCRIPT,
          "There are no checkpoints: the train script has no --save_state.",
          "If this training dies, it has to start again from epoch 1.",
          "Set --save_state under “Advanced options” in FluxGym, or add it to the train script."),
    Entry("no-save-state", _WARNING, _SCRIPT, "The train script has no --save_state.",
          "It saves no further checkpoints: if the training dies again, nothing new can be resumed.",
          "Set --save_state under “Advanced options” in FluxGym, or add it to the train script."),
    Entry("no-states-yet", _INFO, _RUN, "There are no checkpoints yet.",
          "The first one appears after the first epoch that is saved (--save_every_n_epochs).",
          "Start the training, or wait for the first save."),
    Entry("no-script", _WARNING, _SCRIPT, "The run has no train script (train.sh or train.bat).",
          "There is nothing that --resume could be written into.",
          "Press “Start training” in FluxGym for this LoRA's name: it writes the script."),
    Entry("script-not-understood", _WARNING, _SCRIPT, "The train script could not be understood: {detail}",
          "Flags that decide about resuming are not known, and the script is not edited.",
          "Edit that line, or write --resume into the script by hand."),
    Entry("script-flag-unknown", _UNKNOWN, _SCRIPT, "What the train script says for {flags} is not known: {reason}.",
          "It is unclear whether the training would continue, and from where.",
          "Write the value itself into the train script."),
    Entry("script-config-file", _WARNING, _SCRIPT,
          "The train script takes further flags from a file (--config_file {evidence}), which is not read here.",
          "A --resume, --initial_epoch or --save_state in that file counts wherever the script itself has none.",
          "Move the flags that decide about resuming from that file into the train script."),
    Entry("disk-space-low", _WARNING, _RUN,
          "The disk has {free} left; the next checkpoint needs about {needed}.",
          "The save would fail half-way and crash the trainer.", "Free some space before you resume."),
    Entry("run-unreadable", _UNKNOWN, _RUN, "The run's folder could not be read: {detail}.",
          "Nothing is known about this run.", "Make the folder readable for this user, then refresh.",
          kind=FindingKind.UNREADABLE),
)  # fmt: skip

_PATHS = (
    Entry("path-missing", _ERROR, _STATE, "There is nothing at {evidence}.",
          "The trainer stops: “Tried to find … but folder does not exist”.",
          "Check the path; the trainer resolves it from FluxGym's folder.{hint}", kind=FindingKind.MISSING),
    Entry("path-lora-file", _ERROR, _STATE, "{evidence} is a LoRA file, not a state directory.",
          "The trainer stops: “Tried to find ….safetensors but folder does not exist”.",
          "Give the state directory of the same save.{hint}"),
    Entry("path-run-folder", _ERROR, _STATE, "{evidence} is a run's folder, not a state directory.",
          "The trainer stops: FileNotFoundError … pytorch_model.bin.", "Give one of its state directories.{hint}"),
    Entry("path-not-a-state", _ERROR, _STATE, "{evidence} is not a state directory.",
          "The trainer stops before the first step.", "Give a directory that the trainer saved (its name ends in "
          "-state).{hint}"),
)  # fmt: skip

CATALOGUE: dict[str, Entry] = {
    entry.code: entry
    for group in (
        tuple(_file_entries()),
        _SAVES,
        _POSITION,
        _CONTENTS,
        SCRIPT,
        FORECAST,
        ENVIRONMENT,
        _DEEP,
        REHEARSAL,
        _TARGETS,
        _RUNS,
        _PATHS,
    )
    for entry in group
}


def finding(
    code: str, *, file: str | None = None, evidence: str | tuple[str, ...] = "", **fields: object
) -> Finding:
    """The finding of that code, its sentences filled in."""
    return CATALOGUE[code].finding(file=file, evidence=evidence, **fields)


def file_finding(
    part: StatePart,
    kind: FindingKind,
    *,
    file: str,
    evidence: str | tuple[str, ...] = "",
    **fields: object,
) -> Finding:
    """The finding that tells one kind of damage of one part of a state."""
    return finding(_file_code(part, kind), file=file, evidence=evidence, **fields)


def kind_of(code: str) -> FindingKind | None:
    """The kind of a finding of which only the code was kept; ``None`` for a code that is not known here, too."""
    return CATALOGUE[code].kind if code in CATALOGUE else None
