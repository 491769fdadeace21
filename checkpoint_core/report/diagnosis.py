"""The diagnosis of a run: Markdown to read, JSON for programs, and one zip with both and the small files; pure."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from checkpoint_core.audit import RunReport
from checkpoint_core.recovery import RecoveryPlan
from checkpoint_core.report.json_schema import (
    SCHEMA_VERSION,
    Json,
    checkpoint_json,
    cross_check_json,
    lora_json,
    options_json,
    run_json,
    versions_json,
)
from checkpoint_core.report.markdown import diagnosis_markdown
from checkpoint_core.report.redaction import Redactor
from checkpoint_core.report.versions import Versions
from checkpoint_core.states import LoraFacts
from checkpoint_core.text import file_name, utc_moment, utc_time
from checkpoint_core.version import __version__


@dataclass(frozen=True)
class Diagnosis:
    """A finished report; nothing in it names the user. ``file_name`` is what to call the zip file."""

    file_name: str
    markdown: str
    json: str
    zip_bytes: bytes


def build_report(
    run: RunReport,
    versions: Versions,
    small_files: Mapping[str, bytes],
    redactor: Redactor,
    made_ns: int,
    recovery: RecoveryPlan,
    training: Json | None = None,
) -> Diagnosis:
    """The report of one run.

    :param versions: of the Python that makes the report, and of the trainer.
    :param small_files: small text files by their path below the run's folder (``train.sh``,
        ``x-000004-state/train_state.json``); those that are not text are left out.
    :param redactor: takes the user's names and tokens out of everything.
    :param made_ns: when the report is made, nanoseconds since the epoch.
    :param recovery: the recovery options.
    :param training: of the run's last training, as ``training.training_json`` makes it; ``None`` without one.
    """
    files = dict(_redacted(small_files, redactor))
    document = redactor.value({**_document(run, recovery, versions, files, made_ns), "training": training})
    markdown = diagnosis_markdown(document)
    # Lone surrogates stand for undecodable bytes in names; escaped, they survive in JSON.
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    name = f"{file_name(redactor.text(run.name))}-diagnosis-{utc_moment(made_ns):%Y%m%dT%H%M%SZ}"
    return Diagnosis(f"{name}.zip", markdown, text, _zip(name, {"diagnosis.md": markdown.encode(),
                     "diagnosis.json": text.encode(), **files}, made_ns))  # fmt: skip


def _redacted(small_files: Mapping[str, bytes], redactor: Redactor) -> Iterator[tuple[str, bytes]]:
    """The files that can be given away, by paths that unpack on every system; two never share one."""
    used: set[str] = set()
    for path, data in small_files.items():
        clean = redactor.data(data)
        if clean is None:
            continue
        name = "/".join(["files", *(file_name(redactor.text(part)) for part in path.split("/"))])
        while name.lower() in used:
            name = f"{name}_"
        used.add(name.lower())
        yield name, clean


def _document(
    run: RunReport, recovery: RecoveryPlan, versions: Versions, files: Mapping[str, bytes], made_ns: int
) -> Json:
    loras = [lora for lora in run.facts.loras if isinstance(lora, LoraFacts)]
    newest = max(loras, key=lambda lora: lora.modified_ns, default=None)
    texts = {name.removeprefix("files/"): data for name, data in files.items() if name.count("/") == 1}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "diagnosis",
        "made_at": utc_time(made_ns),
        "tool_version": __version__,
        "run": run_json(run, recovery),
        "versions": versions_json(versions),
        "trainer_commits": {
            "folder": versions.trainer_commit,
            "lora": newest.trainer_commit if newest else None,
        },
        "checkpoints": [checkpoint_json(checkpoint) for checkpoint in run.checkpoints],
        "cross_check": cross_check_json(run),
        "loras": [lora_json(lora) for lora in loras],
        "texts": {name: data.decode("utf-8", "backslashreplace") for name, data in texts.items()},
        "small_files": list(files),
        "recovery": options_json(recovery),
    }


def _zip(folder: str, files: Mapping[str, bytes], made_ns: int) -> bytes:
    """The same bytes for the same report: the members bear the report's time, not the clock's."""
    moment = utc_moment(made_ns)
    # A zip's dates begin with 1980 (APPNOTE 4.4.6).
    date = moment.timetuple()[:6] if moment.year >= 1980 else (1980, 1, 1, 0, 0, 0)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo(f"{folder}/{name}", date)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            archive.writestr(member, data)
    return buffer.getvalue()
