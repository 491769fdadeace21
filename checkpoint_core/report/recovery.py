"""Repairs and ways on as JSON values, for the command line and the report; documented in docs/report-schema.md."""

from __future__ import annotations

from typing import Any

from checkpoint_core.audit.auditor import CheckpointReport
from checkpoint_core.recovery.options import Recovery, Way
from checkpoint_core.recovery.repair import Mend
from checkpoint_core.report.json_schema import SCHEMA_VERSION, Json


def recovery_json(run: str, recovery: Recovery) -> Json:
    """The document of ``recover --json``."""
    return {"schema_version": SCHEMA_VERSION, "kind": "recovery", "run": run, **ways_json(recovery)}


def ways_json(recovery: Recovery) -> Json:
    """The ways on, best first, as they stand in a report too."""
    return {
        "headline": recovery.headline,
        "wait": recovery.wait,
        "ways": [_way(way, way is recovery.recommended) for way in recovery.ways],
    }


def _way(way: Way, is_recommended: bool) -> dict[str, Any]:
    return {
        "kind": way.kind.value,
        "title": way.title,
        "recommended": is_recommended,
        "keeps": way.keeps,
        "loses": way.loses,
        "lost_steps": way.lost_steps,
        "checkpoint": way.checkpoint or None,
        "lora_file": way.lora or None,
        "next_epoch": way.next_epoch,
        "outlook": way.outlook or None,
        "changes": list(way.mend.does) if way.mend else [],
    }


def mend_json(item: CheckpointReport, mend: Mend | None) -> Json:
    """The document of ``repair --json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "repair",
        "run": item.run,
        "checkpoint": item.name,
        "verdict": item.verdict.value,
        "can_resume": mend is not None,
        "needs_repair": mend is not None and mend.is_needed,
        "changes": list(mend.does) if mend else [],
        "costs": list(mend.costs) if mend else [],
        "notes": list(mend.notes) if mend else [],
        "diff": mend.diff if mend else "",
        "outlook": (mend.outlook or None) if mend else None,
    }
