"""The plain values that programs get: the JSON of the report and of the command line; pure.

Documented in docs/report-schema.md. Sizes are bytes, times ISO 8601 in UTC, epochs count from 1, steps are
optimizer updates; ``None`` stands for what is not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from checkpoint_core.audit import (
    AuditReport,
    CheckpointReport,
    Finding,
    RunReport,
    find_latest_resumable,
    headline,
    judgement,
)
from checkpoint_core.environment import Environment, EnvironmentProblem, RehearsalOutcome
from checkpoint_core.recovery import RecoveryOption, RecoveryPlan, RepairPlan, next_steps
from checkpoint_core.report.versions import Versions
from checkpoint_core.states import (
    EntryKind,
    FileEntry,
    LoraFacts,
    ManifestFacts,
    OptimizerFacts,
    RandomStatesFacts,
    SchedulerFacts,
    Skipped,
    WeightsFacts,
)
from checkpoint_core.text import utc_time
from checkpoint_core.trainer import Forecast, forecast_sentence

#: Raised when a field changes its meaning or goes away; a new field alone does not raise it.
SCHEMA_VERSION = 1

Json: TypeAlias = "dict[str, Any]"


def checkpoint_json(checkpoint: CheckpointReport) -> Json:
    """One checkpoint, the same in ``scan``, ``check`` and the report."""
    facts, position = checkpoint.facts, checkpoint.position
    exists = facts.modified_ns > 0 or bool(facts.files)
    return {
        "run": checkpoint.run,
        "state": checkpoint.name,
        "path": str(facts.path),
        "layout": facts.layout.value,
        "layout_source": facts.layout_source,
        "epoch": position.epoch,
        "step": position.step,
        "mid_epoch": position.mid_epoch,
        "size_bytes": facts.size_bytes if exists else None,
        "saved_at": utc_time(facts.saved_ns) if exists else None,
        "verdict": checkpoint.verdict.value,
        "resumes": checkpoint.verdict.resumes,
        "judgement": judgement(checkpoint),
        "concerns": [subject.value for subject in checkpoint.concerns],
        "findings": findings_json(checkpoint.findings),
        "outlook": outlook_json(checkpoint.forecast),
        "rehearsal": rehearsal_json(checkpoint.rehearsal),
        "manifest": manifest_json(facts.manifest),
        "position": {
            "steps_per_epoch": position.steps_per_epoch,
            "current_epoch": position.current_epoch,
            "current_step": position.current_step,
            "scheduler_step": position.lifetime_step,
            "optimizer_step": position.optimizer_step,
            "start_epoch": position.start_epoch,
            "next_epoch": position.next_epoch,
        },
        **_contents(checkpoint),
        "files": [file_json(entry) for entry in sorted(facts.files, key=lambda entry: entry.modified_ns)],
    }


def _contents(checkpoint: CheckpointReport) -> Json:
    """What the state's files hold; ``None`` for a file that is absent or gave no facts."""
    facts = checkpoint.facts
    lora, weights, optimizer, scheduler = facts.lora, facts.weights, facts.optimizer, facts.scheduler
    return {
        "weights": {"file": weights.file, "rank": weights.rank, "tensors": weights.tensor_count}
        if isinstance(weights, WeightsFacts)
        else None,
        "optimizer": {"family": optimizer.family, "learning_rates": _numbers(optimizer.learning_rates)}
        if isinstance(optimizer, OptimizerFacts)
        else None,
        "scheduler": {"last_epoch": scheduler.last_epoch, "learning_rates": _numbers(scheduler.last_lrs)}
        if isinstance(scheduler, SchedulerFacts)
        else None,
        "rng_step": facts.random_states.step if isinstance(facts.random_states, RandomStatesFacts) else None,
        "lora": lora_json(lora) if isinstance(lora, LoraFacts) else None,
    }


def _numbers(values: Iterable[float]) -> list[float | None]:
    """JSON has no NaN and no infinity."""
    return [value if math.isfinite(value) else None for value in values]


def outlook_json(forecast: Forecast | None) -> Json | None:
    """What the resumed run would do; ``None`` where that is not known or of no use."""
    if forecast is None:
        return None
    return {
        "sentence": forecast_sentence(forecast),
        "start_epoch": forecast.start_epoch,
        "last_epoch": forecast.last_epoch,
        "epochs_left": forecast.epochs_left,
        "steps_left": forecast.steps_left,
        "repeated_steps": forecast.repeated_steps,
        "skipped_steps": forecast.skipped_steps,
        "learning_rate": forecast.learning_rate,
        "later_learning_rate": forecast.later_rate,
        "next_save": forecast.next_save,
        "saves_left": forecast.saves_left,
        "bytes_needed": forecast.bytes_needed,
        "will_remove": [{"state": name, "when": when} for name, when in forecast.will_remove],
        "collisions": list(forecast.collisions),
    }


def rehearsal_json(outcome: RehearsalOutcome | None) -> Json | None:
    """How a rehearsal ended; ``None`` where there was none."""
    if outcome is None:
        return None
    return {
        "status": outcome.status.value,
        "stage": outcome.stage.value,
        "exception": outcome.exception,
        "message": outcome.message,
        "file": outcome.part,
        "frames": list(outcome.frames),
        "log_lines": list(outcome.log_lines),
        "seconds": round(outcome.seconds, 3),
        "peak_bytes": outcome.peak_bytes,
        "random_states": outcome.random_states.value if outcome.random_states else None,
        "versions": dict(outcome.versions),
    }


def manifest_json(manifest: ManifestFacts | None) -> Json | None:
    """What was told of the save when it was first checked, and what is otherwise now; ``None``: it was not."""
    if manifest is None:
        return None
    return {
        "checked_at": utc_time(manifest.checked_at_ns),
        "verdict": manifest.verdict,
        "was_good": manifest.was_good,
        "findings": list(manifest.findings),
        "compared": sorted(manifest.files),
        "changed": [{"file": name, "how": how.value} for name, how in manifest.changed],
    }


def environment_json(environment: Environment) -> Json | None:
    """The training interpreter; ``None`` where nobody asked for it."""
    if environment is None:
        return None
    if isinstance(environment, EnvironmentProblem):
        named = {"executable": environment.executable or None, "source": environment.source or None}
        return {**named, "problem": environment.reason}
    trainer = environment.trainer
    return {
        "executable": environment.executable,
        "source": environment.source,
        "problem": None,
        "python": environment.python,
        "platform": environment.platform,
        "packages": dict(environment.packages),
        "torch_cuda": environment.torch_cuda,
        "gpus": list(environment.gpus) if environment.gpus is not None else None,
        "trainer_commit": trainer.commit if trainer else None,
    }


def findings_json(findings: Iterable[Finding]) -> list[Json]:
    """Findings, the deciding one first."""
    return [
        {
            "code": found.code,
            "severity": found.severity.value,
            "subject": found.subject.value,
            "file": found.file,
            "message": found.message,
            "effect": found.effect,
            "cure": found.cure,
            "evidence": found.evidence,
        }
        for found in findings
    ]


def file_json(entry: FileEntry) -> Json:
    """One entry of a directory."""
    known = entry.kind in (EntryKind.FILE, EntryKind.DIRECTORY)
    return {
        "name": entry.name,
        "kind": entry.kind.value,
        "size_bytes": entry.size_bytes if entry.kind is EntryKind.FILE else None,
        "modified_at": utc_time(entry.modified_ns) if known else None,
    }


def lora_json(lora: LoraFacts) -> Json:
    """A LoRA file by its metadata (``ss_epoch``, ``ss_steps``, ``ss_num_batches_per_epoch`` and so on)."""
    return {
        "file": lora.file,
        "size_bytes": lora.size_bytes,
        "modified_at": utc_time(lora.modified_ns),
        "epoch": lora.epoch,
        "steps": lora.steps,
        "steps_per_epoch": lora.steps_per_epoch,
        "session_id": lora.session_id,
        "trainer_commit": lora.trainer_commit,
    }


def run_json(run: RunReport, recovery: RecoveryPlan) -> Json:
    """One run without its checkpoints: what to do, where its script points, and what was found about it."""
    facts, latest = run.facts, find_latest_resumable(run)
    return {
        "run": run.name,
        "path": str(facts.path),
        "headline": headline(run),
        "next_steps": list(next_steps(run, recovery)),
        "latest_resumable": latest.checkpoint.name if latest.checkpoint else None,
        "passed_over": [{"state": name, "reason": reason} for name, reason in latest.passed_over],
        "checkpoint_count": len(run.checkpoints),
        "findings": findings_json(run.findings),
        "steps_per_epoch": facts.steps_per_epoch,
        "environment": environment_json(run.environment),
        "script": script_json(run),
        "free_bytes": facts.free_bytes,
        "skipped": skipped_json(facts.skipped),
    }


def script_json(run: RunReport) -> Json | None:
    """The script's flags that decide about resuming, and where its ``--resume`` leads; ``None``: it has no script."""
    script, target = run.facts.script, run.facts.resume_target
    if script is None:
        return {"problem": run.facts.script_problem} if run.facts.script_problem else None
    return {
        "problem": None,
        "file": script.file,
        "trainer": script.trainer,
        "output_name": script.output_name,
        "output_dir": script.output_dir,
        "save_state": script.save_state,
        "resume": {"value": script.resume, "line": script.resume_line, "leads_to": target.kind,
                   "state": target.state_name},
        "initial_epoch": script.initial_epoch,
        "initial_step": script.initial_step,
        "max_train_epochs": script.max_train_epochs,
        "max_train_steps": script.max_train_steps,
        "optimizer_type": script.optimizer_type,
        "lr_scheduler": script.lr_scheduler,
        "config_file": script.config_file,
        "unknown": dict(script.unknown),
    }  # fmt: skip


def skipped_json(skipped: Iterable[Skipped]) -> list[Json]:
    """Entries that were not looked into, and why."""
    return [{"name": entry.name, "reason": entry.reason} for entry in skipped]


def scan_json(report: AuditReport, recoveries: Mapping[str, RecoveryPlan]) -> Json:
    """An outputs folder: its runs, and all their checkpoints in one list, each run's newest first.

    :param recoveries: each run's recovery plan, by the run's name.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "scan",
        "made_at": utc_time(report.made_ns),
        "outputs": str(report.outputs),
        "runs": [run_json(run, recoveries[run.name]) for run in report.runs],
        "checkpoints": [checkpoint_json(item) for run in report.runs for item in run.checkpoints],
        "skipped": skipped_json(report.skipped),
    }


def check_json(checkpoint: CheckpointReport) -> Json:
    """One checkpoint on its own."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "check",
        **checkpoint_json(checkpoint),
        "environment": environment_json(checkpoint.environment),
    }


def versions_json(versions: Versions) -> Json:
    """Versions by name; ``None`` for what is not installed."""
    return {
        "python": versions.python,
        "executable": versions.executable,
        "platform": versions.platform,
        **dict(versions.packages),
    }


def cross_check_json(run: RunReport) -> list[Json]:
    """All that tells where each checkpoint stands, side by side.

    ``launch_epoch`` is where the trainer would go on with the run's script as it is, ``next_epoch`` where it should.
    """
    rows = []
    for item in run.checkpoints:
        position, lora = item.position, item.facts.lora if isinstance(item.facts.lora, LoraFacts) else None
        rows.append(
            {
                "state": item.name,
                "named": item.facts.name.number,
                "named_for": item.facts.name.save_point.value,
                "current_epoch": position.current_epoch,
                "current_step": position.current_step,
                "scheduler_step": position.lifetime_step,
                "optimizer_step": position.optimizer_step,
                "lora_epoch": lora.epoch if lora else None,
                "lora_steps": lora.steps if lora else None,
                "steps_per_epoch": position.steps_per_epoch,
                "launch_epoch": item.launch.start_epoch,
                "next_epoch": position.next_epoch,
            }
        )
    return rows


def recovery_json(run: str, recovery: RecoveryPlan) -> Json:
    """The document of ``recover --json``."""
    return {"schema_version": SCHEMA_VERSION, "kind": "recovery", "run": run, **options_json(recovery)}


def options_json(recovery: RecoveryPlan) -> Json:
    """The recovery options, best first, as they stand in a report too."""
    return {
        "headline": recovery.headline,
        "wait": recovery.wait,
        "ways": [_option(option, option is recovery.recommended) for option in recovery.options],
    }


def _option(option: RecoveryOption, is_recommended: bool) -> dict[str, Any]:
    return {
        "kind": option.kind.value,
        "title": option.title,
        "recommended": is_recommended,
        "keeps": option.keeps,
        "loses": option.loses,
        "lost_steps": option.lost_steps,
        "checkpoint": option.checkpoint or None,
        "lora_file": option.lora or None,
        "next_epoch": option.next_epoch,
        "outlook": option.forecast or None,
        "changes": list(option.repair_plan.does) if option.repair_plan else [],
    }


def repair_json(item: CheckpointReport, repair_plan: RepairPlan | None) -> Json:
    """The document of ``repair --json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "repair",
        "run": item.run,
        "checkpoint": item.name,
        "verdict": item.verdict.value,
        "can_resume": repair_plan is not None,
        "needs_repair": repair_plan is not None and repair_plan.is_needed,
        "changes": list(repair_plan.does) if repair_plan else [],
        "costs": list(repair_plan.costs) if repair_plan else [],
        "notes": list(repair_plan.notes) if repair_plan else [],
        "diff": repair_plan.diff if repair_plan else "",
        "outlook": (repair_plan.forecast or None) if repair_plan else None,
    }
