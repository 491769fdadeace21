"""docs/conformance.md: every case, what was said of it, and what the trainer did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from checkpoint_core.audit.findings import Verdict
from tests.conformance.agreement import Answer, Result
from tests.conformance.case import Case

Results = Mapping[str, Sequence[Result]]
"""The results of each release, of the same cases in the same order."""

_HEAD = """\
# Our verdict and the trainer's answer

Written by `python -m tests.conformance --write`; a test holds that it is so still.

{count} states and scripts, good and broken, were judged, and then really resumed: by the small trainer, which follows
sd-scripts (`checkpoint_core/demo/trainer.py`), with the real accelerate {releases}, on torch {torch} and
numpy {numpy}. What was loaded was compared, bit for bit, with what had been saved, and two steps were trained from it.

The trainer's answer is one of four:

- **fails**: an exception, in the load or in the first step;
- **wrong**: it trains without a message, but other epochs, from other values, at a learning rate of 0, or nothing;
- **differs**: it trains rightly, but draws other random numbers, changes the learning rate, repeats a part of an
  epoch, or goes on from weights rounded to bfloat16;
- **right**: it goes on as if it had never stopped.

A verdict agrees with the answer where *ready* trains right, *ready with warnings* trains right or differs, and
*needs fix* and *damaged* fail or train wrong. *Unknown* agrees with everything, and is counted.
"""


def document(results: Results, versions: Mapping[str, str]) -> str:
    """The whole text; `versions` are those of torch and numpy."""
    cases = [result.case for result in next(iter(results.values()))]
    *others, last = results
    head = _HEAD.format(
        count=len(cases), releases=f"{', '.join(others)} and {last}" if others else last, **versions
    )
    parts = [head, "## Counts\n", *(_counts(version, seen) for version, seen in results.items())]
    parts += ["## Where they differ, and why\n", _differences(results, cases)]
    parts += ["## All cases\n", "A cell holds our verdict, and after the arrow the trainer's answer.\n"]
    for group in dict.fromkeys(case.group for case in cases):
        parts.append(_group(group, results, [case for case in cases if case.group == group]))
    return "\n".join(parts)


def _counts(version: str, results: Iterable[Result]) -> str:
    counted = Counter((result.verdict, result.answer) for result in results)
    lines = [f"accelerate {version}\n", _row(["verdict", *(answer.value for answer in Answer)]), _rule(5)]
    for verdict in Verdict:
        numbers = [counted[verdict, answer] for answer in Answer]
        if any(numbers):
            lines.append(_row([verdict.value, *(str(number or "") for number in numbers)]))
    return "\n".join(lines) + "\n"


def _differences(results: Results, cases: Sequence[Case]) -> str:
    lines = [_row(["case", "why"]), _rule(2)]
    for index, case in enumerate(cases):
        if not all(seen[index].agrees for seen in results.values()):
            lines.append(_row([case.name, case.accepted or "**not explained**"]))
    return "\n".join(lines) + "\n"


def _group(group: str, results: Results, cases: Sequence[Case]) -> str:
    by_name = {version: {result.case.name: result for result in seen} for version, seen in results.items()}
    lines = [
        f"<details><summary>{group} ({len(cases)})</summary>\n",
        _row(["case", "row", *results]),
        _rule(2 + len(results)),
    ]
    for case in cases:
        cells = [_cell(by_name[version][case.name]) for version in results]
        lines.append(_row([case.name.removeprefix(f"{group}: "), case.row, *cells]))
    return "\n".join([*lines, "\n</details>\n"])


def _cell(result: Result) -> str:
    why = f" ({result.why})" if result.why else ""
    return f"{result.verdict.value} → {result.answer.value}{why}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '∣') for cell in cells)} |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns
