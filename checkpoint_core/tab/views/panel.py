"""The panel of the selected checkpoint: verdict, findings, position, files, sample images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from checkpoint_core.audit import CheckpointReport, Finding, Severity, judgement, title
from checkpoint_core.report import learning_rate
from checkpoint_core.states import LoraFacts, OptimizerFacts, RandomStatesFacts, WeightsFacts
from checkpoint_core.tab.views.markup import badge, notice, severity_word, text
from checkpoint_core.text import human_bytes, local_time
from checkpoint_core.trainer import forecast_sentence, rate_text


@dataclass(frozen=True)
class Thumbnail:
    """A sample image, small: ``jpeg_base64`` for a data URI, ``caption`` its file name."""

    jpeg_base64: str
    caption: str


def panel_view(item: CheckpointReport, samples: Sequence[Thumbnail] = ()) -> str:
    """All about one checkpoint."""
    deciding = [found for found in item.findings if found.severity is not Severity.INFO]
    quiet = [found for found in item.findings if found.severity is Severity.INFO]
    return (
        '<section class="ck-panel" aria-label="Selected checkpoint">'
        f'<div class="ck-title">{text(title(item))} {badge(item.verdict)} '
        f'<span class="ck-quiet">{text(item.name)}</span></div>'
        f"<p>{text(judgement(item))}</p>{_forecast(item)}"
        f"{_findings(deciding)}{_facts(item)}{_samples(samples)}"
        f"{_folded('Good to know', _findings(quiet)) if quiet else ''}"
        f"{_folded(f'Files ({len(item.facts.files)}, {human_bytes(item.facts.size_bytes)})', _files(item))}</section>"
    )


def _forecast(item: CheckpointReport) -> str:
    """What the resumed run would do, in one line."""
    return f'<p class="ck-outlook">{text(forecast_sentence(item.forecast))}</p>' if item.forecast else ""


def nothing_selected(has_rows: bool) -> str:
    """What the panel says before a row is selected."""
    return (
        notice("info", "Select a checkpoint in the table to see whether it will resume.") if has_rows else ""
    )


def _findings(findings: Iterable[Finding]) -> str:
    return "".join(
        f'<dl class="ck-finding ck-{found.severity.value}">'
        f"<dt>{text(severity_word(found.severity))}</dt><dd><strong>{text(found.message)}</strong> "
        f'<code class="ck-code">{text(found.code)}</code></dd>'
        f"<dt>What happens</dt><dd>{text(found.effect)}</dd><dt>What to do</dt><dd>{text(found.cure)}</dd></dl>"
        for found in findings
    )


def _facts(item: CheckpointReport) -> str:
    facts, position = item.facts, item.position
    weights = facts.weights if isinstance(facts.weights, WeightsFacts) else None
    optimizer = facts.optimizer if isinstance(facts.optimizer, OptimizerFacts) else None
    random_states = facts.random_states if isinstance(facts.random_states, RandomStatesFacts) else None
    rate = learning_rate(item)
    pairs = (
        ("Continues at epoch", position.next_epoch if item.verdict.resumes else None),
        ("Step", position.step),
        ("Steps per epoch", position.steps_per_epoch),
        ("Scheduler at step", position.lifetime_step),
        ("Learning rate", rate_text(rate) if rate is not None else None),
        ("Optimizer", optimizer.family if optimizer else None),
        ("LoRA rank", weights.rank if weights else None),
        ("Tensors", weights.tensor_count if weights else None),
        ("Random states step", random_states.step if random_states else None),
        ("LoRA file", facts.lora.file if isinstance(facts.lora, LoraFacts) else None),
        ("Layout", f"{facts.layout.value}, {facts.layout_source}"),
    )
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{text(f'{value:,}' if isinstance(value, int) else value)}</dd></div>"
        for name, value in pairs
        if value is not None
    )
    return f'<dl class="ck-facts">{shown}</dl>'


def _samples(samples: Sequence[Thumbnail]) -> str:
    images = "".join(
        f'<figure><img src="data:image/jpeg;base64,{item.jpeg_base64}" alt="Sample image {text(item.caption)}">'
        f"<figcaption>{text(item.caption)}</figcaption></figure>"
        for item in samples
    )
    return f'<div class="ck-samples" aria-label="Sample images">{images}</div>' if images else ""


def _files(item: CheckpointReport) -> str:
    rows = "".join(
        f"<tr><td>{text(entry.name)}</td><td class='ck-size'>{text(human_bytes(entry.size_bytes))}</td>"
        f"<td>{text(local_time(entry.modified_ns))}</td></tr>"
        for entry in item.facts.files
    )
    head = "<tr><th scope='col'>File</th><th scope='col'>Size</th><th scope='col'>Written</th></tr>"
    return f'<table class="ck-files"><thead>{head}</thead><tbody>{rows}</tbody></table>'


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{text(summary)}</summary>{body}</details>"
