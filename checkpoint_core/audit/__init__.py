"""Facts to findings to verdicts."""

from __future__ import annotations

from checkpoint_core.audit.auditor import Auditor, audit_outputs
from checkpoint_core.audit.checks.integrity import LOST_WEIGHTS
from checkpoint_core.audit.checks.reconstructible import is_cured_by_scheduler
from checkpoint_core.audit.findings import LOST, Finding, FindingKind, Severity, StatePart, Subject, Verdict
from checkpoint_core.audit.manifest import forget_manifest, make_manifest, write_manifest
from checkpoint_core.audit.reports import (
    AuditReport,
    CheckpointReport,
    LatestResumable,
    RunReport,
    UnknownName,
    find_latest_resumable,
)
from checkpoint_core.audit.single_state import ScriptUnusable, audit_state, fluxgym_root, run_folder
from checkpoint_core.audit.verdict import judge
from checkpoint_core.audit.wording import (
    VERDICT_WORDS,
    environment_line,
    headline,
    judgement,
    note,
    phrase,
    run_summary,
    title,
    title_inside,
)

__all__ = [
    "LOST",
    "LOST_WEIGHTS",
    "VERDICT_WORDS",
    "AuditReport",
    "Auditor",
    "CheckpointReport",
    "Finding",
    "FindingKind",
    "LatestResumable",
    "RunReport",
    "ScriptUnusable",
    "Severity",
    "StatePart",
    "Subject",
    "UnknownName",
    "Verdict",
    "audit_outputs",
    "audit_state",
    "environment_line",
    "find_latest_resumable",
    "fluxgym_root",
    "forget_manifest",
    "headline",
    "is_cured_by_scheduler",
    "judge",
    "judgement",
    "make_manifest",
    "note",
    "phrase",
    "run_folder",
    "run_summary",
    "title",
    "title_inside",
    "write_manifest",
]
