"""The diagnosis as Markdown to read, made from its JSON, so that neither says what the other does not; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from checkpoint_core.audit import VERDICT_WORDS, Verdict
from checkpoint_core.report.json_schema import Json
from checkpoint_core.text import human_bytes, markdown_block, markdown_code, markdown_text

_LEADS = {
    "none": "The script has no `--resume`: started now, it trains from scratch.",
    "empty": 'The script says `--resume ""`: started now, it trains from scratch.',
    "state": "The script's `--resume` leads to a state directory",
    "lora-file": "The script's `--resume` leads to a LoRA file, which is no state directory",
    "run-folder": "The script's `--resume` leads to a folder that is no state directory",
    "missing": "The script's `--resume` leads to nothing",
    "other-world": "The script's `--resume` is a path of another machine or container",
    "hub": "The script takes `--resume` for a name on the Hugging Face hub",
}


def diagnosis_markdown(document: Json) -> str:
    """The whole report.

    :param document: the JSON document that `diagnosis.build_report` makes, already redacted.
    """
    parts = [
        *_opening(document),
        *_options(document),
        *_training(document),
        *_environment(document),
        *_versions(document),
        *_checkpoints(document),
        *_cross_check(document),
        *_loras(document),
        *_script(document),
        *_closing(document),
    ]
    return "\n\n".join(parts) + "\n"


def _opening(document: Json) -> Iterator[str]:
    run = document["run"]
    yield f"# Diagnosis of the run {markdown_code(run['run'])}"
    yield f"**{markdown_text(run['headline'])}**"
    yield "## What to do"
    steps = run["next_steps"] or ["No action is needed."]
    yield "\n".join(f"{number}. {markdown_text(step)}" for number, step in enumerate(steps, start=1))
    if run["passed_over"] and run["latest_resumable"]:
        yield f"Skipped, although newer than {markdown_code(run['latest_resumable'])}:"
        yield "\n".join(
            f"- {markdown_code(entry['state'])}: {markdown_text(entry['reason'])}"
            for entry in run["passed_over"]
        )
    if run["findings"]:
        yield "## The run as a whole"
        yield "\n".join(_finding(found) for found in run["findings"])


def _training(document: Json) -> Iterator[str]:
    """How the last training went, and every decision of its watcher."""
    training = document.get("training")
    if not training:
        return
    yield "## The last training"
    yield markdown_text(f"{training['word']}. {training['message']}".strip())
    if training["warnings"]:
        yield "\n".join(f"- Warning: {markdown_text(each)}" for each in training["warnings"])
    if training["journal"]:
        lines = (f"- {line['at']} {markdown_text(line['text'])}" for line in training["journal"])
        yield "\n".join(lines)


def _options(document: Json) -> Iterator[str]:
    """The recovery options, best first, each with what it keeps and loses."""
    recovery = document["recovery"]
    yield "## Recovery options"
    yield markdown_text(recovery["headline"])
    yield "\n".join(
        f"{number}. **{markdown_text(option['title'])}**{' (recommended)' if option['recommended'] else ''}. "
        f"Keeps: {markdown_text(option['keeps'])} Loses: {markdown_text(option['loses'])}"
        + "".join(f"\n   - {markdown_text(line)}" for line in option["changes"])
        for number, option in enumerate(recovery["ways"], start=1)
    )


def _environment(document: Json) -> Iterator[str]:
    """The training interpreter."""
    known = document["run"]["environment"]
    if known is None:
        return
    yield "## The training environment"
    if known["problem"]:
        yield f"It is not known: {markdown_text(known['problem'])}."
        return
    gpus = ", ".join(known["gpus"] or ()) or "none seen"
    rows = [
        ("Python", f"{markdown_code(known['python'])}, {markdown_text(known['source'])}"),
        ("Path", markdown_code(known["executable"])),
        ("System", markdown_code(known["platform"])),
        ("GPUs", markdown_text(gpus)),
        ("torch is built for CUDA", _known(known["torch_cuda"])),
    ]
    rows += [
        (name, markdown_code(value) if value else "not installed")
        for name, value in known["packages"].items()
    ]
    yield _table(("What", "Version"), rows)


def _versions(document: Json) -> Iterator[str]:
    yield "## Versions of this program's own Python"
    rows = [
        (name, markdown_code(value) if value else "not installed")
        for name, value in document["versions"].items()
    ]
    commits = document["trainer_commits"]
    rows.append(("sd-scripts, the folder that trains next", _known(commits["folder"])))
    rows.append(("sd-scripts, that wrote the newest LoRA file", _known(commits["lora"])))
    yield _table(("What", "Version"), rows)
    yield (
        "These versions belong to the Python that made this report. The training environment is listed above."
    )


def _checkpoints(document: Json) -> Iterator[str]:
    yield "## Checkpoints, the newest first"
    if not document["checkpoints"]:
        yield "There are none."
        return
    yield _table(
        ("State", "Checkpoint", "Epoch", "Step", "Saved (UTC)", "Size", "What decides"),
        (
            (
                VERDICT_WORDS[Verdict(item["verdict"])],
                markdown_code(item["state"]),
                _known(item["epoch"]),
                _known(item["step"]),
                _known(item["saved_at"]),
                _size(item["size_bytes"]),
                " ".join(
                    markdown_code(found["code"]) for found in item["findings"] if found["severity"] != "info"
                ),
            )
            for item in document["checkpoints"]
        ),
    )
    for item in document["checkpoints"]:
        yield from _checkpoint(item)


def _checkpoint(item: Json) -> Iterator[str]:
    yield f"### {markdown_code(item['state'])}: {VERDICT_WORDS[Verdict(item['verdict'])].lower()}"
    told = [found for found in item["findings"] if found["severity"] != "info"]
    noted = [found for found in item["findings"] if found["severity"] == "info"]
    if told:
        yield "\n".join(_finding(found) for found in told)
    facts = [f"Judged by the layout {item['layout']} ({markdown_text(item['layout_source'])})."]
    facts += [markdown_text(item["outlook"]["sentence"])] if item["outlook"] else []
    facts += [markdown_text(found["message"]) for found in noted]
    yield " ".join([*facts, *_contents(item)])
    if item["files"]:
        yield _files(item["files"])


def _finding(found: Json) -> str:
    """Cause, what it does to the training, cure."""
    evidence = found["evidence"]
    said = f" Observed: {markdown_text(evidence)}." if evidence and evidence not in found["message"] else ""
    return (
        f"- **{markdown_text(found['message'])}** ({markdown_code(found['code'])}, {found['severity']}){said}\n"
        f"  - What happens to the training: {markdown_text(found['effect'])}\n"
        f"  - Fix: {markdown_text(found['cure'])}"
    )


def _contents(item: Json) -> Iterator[str]:
    weights, optimizer, scheduler = item["weights"], item["optimizer"], item["scheduler"]
    if weights:
        yield f"Weights: {weights['tensors']} tensors, rank {_known(weights['rank'])}."
    if optimizer:
        yield f"Optimizer: {markdown_text(optimizer['family'])}."
    rates = (scheduler or optimizer or {}).get("learning_rates")
    if rates:
        yield f"Learning rate: {rates[0]}."
    if item["rng_step"] is not None:
        yield f"accelerate's own step in the random states: {item['rng_step']}."


def _files(files: list[Json]) -> str:
    """In the order in which they were written: a save's files follow each other within milliseconds."""
    first = next((file["modified_at"] for file in files if file["modified_at"]), None)
    return _table(
        ("File", "Bytes", "Written (UTC)", "After the first file"),
        (
            (
                markdown_code(file["name"]) + ("" if file["kind"] == "file" else f" ({file['kind']})"),
                _known(file["size_bytes"]),
                _known(file["modified_at"]),
                _seconds_between(first, file["modified_at"]),
            )
            for file in files
        ),
    )


def _seconds_between(first: str | None, later: str | None) -> str:
    if first is None or later is None:
        return "–"
    return f"{(_time_of(later) - _time_of(first)).total_seconds():.3f} s"


def _time_of(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


_CROSS_CHECK = {
    "state": "Checkpoint",
    "named": "number in its name",
    "current_epoch": "current_epoch",
    "current_step": "current_step",
    "scheduler_step": "scheduler last_epoch",
    "optimizer_step": "optimizer step",
    "lora_epoch": "LoRA ss_epoch",
    "lora_steps": "LoRA ss_steps",
    "steps_per_epoch": "steps per epoch",
    "launch_epoch": "would continue at epoch",
    "next_epoch": "should continue at epoch",
}


def _cross_check(document: Json) -> Iterator[str]:
    if not document["cross_check"]:
        return
    yield "## Where each checkpoint stands, by every source"
    yield _table(
        list(_CROSS_CHECK.values()),
        (
            [markdown_code(row["state"]), *(_known(row[key]) for key in _CROSS_CHECK if key != "state")]
            for row in document["cross_check"]
        ),
    )
    yield (
        "`current_epoch` and `current_step` are those of `train_state.json`; `current_step` and `ss_steps` count "
        "from the last launch, `last_epoch` and the optimizer's step from the very first. “Would” is what the trainer "
        "does with the script as it is now."
    )
    if wrong := [line for row in document["cross_check"] for line in _wrong_start(row)]:
        yield "\n".join(wrong)


def _wrong_start(row: Json) -> Iterator[str]:
    would, should = row["launch_epoch"], row["next_epoch"]
    if None not in (would, should) and would != should:
        yield f"- {markdown_code(row['state'])} **would continue at epoch {would} instead of {should}.**"


def _loras(document: Json) -> Iterator[str]:
    if not document["loras"]:
        return
    yield "## LoRA files"
    keys = ("size_bytes", "modified_at", "epoch", "steps", "steps_per_epoch", "session_id")
    yield _table(
        ("File", "Bytes", "Written (UTC)", "ss_epoch", "ss_steps", "Steps per epoch", "Session"),
        ([markdown_code(lora["file"]), *(_known(lora[key]) for key in keys)] for lora in document["loras"]),
    )


def _script(document: Json) -> Iterator[str]:
    run, script = document["run"], document["run"]["script"]
    yield "## The train script"
    if script is None:
        yield "The run has no train script."
    elif script["problem"]:
        yield f"It was not understood: {markdown_text(script['problem'])}"
    else:
        yield _resume_line(script)
    if run["free_bytes"] is not None:
        yield f"The disk has {_size(run['free_bytes'])} left for further checkpoints."
    for name, text in document["texts"].items():
        yield f"{markdown_code(name)}:"
        yield markdown_block(
            text, {"sh": "sh", "bat": "bat", "toml": "toml"}.get(name.rpartition(".")[2], "")
        )


def _resume_line(script: Json) -> str:
    resume = script["resume"]
    said = _LEADS[resume["leads_to"]]
    if resume["leads_to"] in ("none", "empty"):
        return said
    line = f" (line {resume['line']})" if resume["line"] else ""
    state = f", the checkpoint {markdown_code(resume['state'])}" if resume["state"] else ""
    return f"{said}{state}: {markdown_code(resume['value'])}{line}."


def _closing(document: Json) -> Iterator[str]:
    yield "## About this report"
    yield (
        f"Made at {document['made_at']} by checkpoint_core {document['tool_version']}. Home folders, user names and "
        "tokens were taken out; prompts and names of runs were not. It holds no weights."
    )
    if document["small_files"]:
        names = ", ".join(markdown_code(name) for name in document["small_files"])
        yield f"In the zip file beside this text: {names}."
    for entry in document["run"]["skipped"]:
        yield f"Skipped: {markdown_code(entry['name'])}, because {markdown_text(entry['reason'])}."


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(titles)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _known(value: Any) -> str:
    """A number or a text of ours, a dash for what is not known."""
    return "–" if value is None else markdown_text(str(value))


def _size(size: int | None) -> str:
    return "–" if size is None else human_bytes(size)
