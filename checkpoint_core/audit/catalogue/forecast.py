"""Findings about what the resumed run would do: its epochs, its learning rate, its saves."""

from __future__ import annotations

from checkpoint_core.audit.catalogue.entry import Entry
from checkpoint_core.audit.findings import FindingKind, Severity, Subject

_INFO, _WARNING, _FIXABLE = Severity.INFO, Severity.WARNING, Severity.FIXABLE
_STATE, _SCRIPT, _RUN = Subject.STATE, Subject.SCRIPT, Subject.RUN

FORECAST = (
    # A warning, because FluxGym's own start button asks for the images and writes them anew.
    Entry("dataset-missing", _WARNING, _SCRIPT, "The training images are not where the script says: {detail}.",
          "Started now, the trainer stops at once with “No data found” or “file not found”; the checkpoint stays as it "
          "is.",
          "Put the images back, name their folder in the dataset configuration, or upload them in the Gym tab.",
          kind=FindingKind.MISSING),
    Entry("dataset-changed", _FIXABLE, _SCRIPT,
          "An epoch had {saved} steps when this checkpoint was saved, now the images, repeats or batch size make "
          "{now}.",
          "The trainer divides the saved step by the new number: it continues at epoch {start_epoch} instead of "
          "{next_epoch}, without a message, or stops if that is past the end.",
          "Set --initial_epoch {next_epoch} in the train script, and no --initial_step."),
    Entry("epoch-length-changed", _WARNING, _SCRIPT,
          "An epoch had {saved} steps when this checkpoint was saved, now it has {now}.",
          "The training continues at the right epoch, {next_epoch}, but its epochs now have a different length.",
          "No action is needed if you changed the images, repeats or batch size on purpose."),
    Entry("skip-accumulation", _FIXABLE, _SCRIPT,
          "The train script has --skip_until_initial_step with --gradient_accumulation_steps {accumulation}.",
          "The trainer counts batches for updates when it skips: it continues at epoch {start_epoch} instead of "
          "{next_epoch}, without a message.",
          "Remove --skip_until_initial_step from the train script."),
    Entry("learning-rate-jumps", _WARNING, _SCRIPT,
          "The learning rate goes from {saved} to {now} after the first step.",
          "The script's schedule or its number of steps differs from this checkpoint's, so the LoRA trains at a "
          "different pace from here on.",
          "No action is needed if you mean it. To keep the rate, set --lr_scheduler, --lr_warmup_steps and "
          "--max_train_epochs back, or use --lr_scheduler constant from the start."),
    Entry("step-names-collide", _WARNING, _RUN,
          "The resumed training counts its steps from {first} again and overwrites {names}.",
          "What these hold now is lost, without a message.",
          "Copy those that you want to keep into another folder before you resume, or set another --output_name."),
    Entry("state-will-be-removed", _INFO, _STATE, "The script's retention deletes this checkpoint at {when}.",
          "Newer checkpoints take its place.", "Copy it into another folder if you want to keep it."),
    Entry("saves-do-not-fit", _WARNING, _RUN,
          "The disk has {free} left; the checkpoints to come need about {needed}.",
          "A save would fail half-way and crash the trainer.",
          "Free some space before you resume, or keep fewer checkpoints (--save_last_n_epochs_state)."),
    Entry("output-elsewhere", _WARNING, _SCRIPT,
          "The train script saves into {evidence}, which is not this run's folder.",
          "The resumed training puts its checkpoints there and may overwrite those of another run.",
          "Set --output_dir to this run's folder in the train script."),
)  # fmt: skip
