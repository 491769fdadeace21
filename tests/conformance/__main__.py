"""Run the suite, print how verdicts and answers agree, and on request write docs/conformance.md.

    python -m tests.conformance [--versions DIR] [--write]

DIR holds one accelerate a folder, named by its version, as `pip install --no-deps --target DIR/1.6.0
accelerate==1.6.0` leaves it; the variable ACCELERATE_VERSIONS names it too. The installed one always answers.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.conformance.agreement import Answer
from tests.conformance.document import Results, document
from tests.conformance.workbench import BESIDE, Releases, Workbench, installed
from tests.world import PROJECT

DOCUMENT = PROJECT / "docs" / "conformance.md"


def versions_here() -> dict[str, str]:
    """What the document names beside the releases of accelerate."""
    return {name: metadata.version(name).partition("+")[0] for name in ("torch", "numpy")}


def main() -> None:
    """Run as a program; the status is 1 where a verdict and an answer disagree without a reason."""
    parser = argparse.ArgumentParser(
        prog="tests.conformance", description="Our verdicts against the real accelerate."
    )
    parser.add_argument("--versions", type=Path, default=os.environ.get("ACCELERATE_VERSIONS"), metavar="DIR")
    parser.add_argument("--write", action="store_true", help="write docs/conformance.md")
    arguments = parser.parse_args()
    releases = Releases(Path(arguments.versions).absolute() if arguments.versions else None)
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(Path(folder), releases)
        bench.make()
        answering = [version for version in (*BESIDE, installed()) if releases.has(version)]
        results = {version: bench.results(version, bench.cases()) for version in dict.fromkeys(answering)}
    _show(results)
    if arguments.write:
        DOCUMENT.write_text(document(results, versions_here()), encoding="utf-8", newline="\n")
    raise SystemExit(any(_unexplained(results)))


def _unexplained(results: Results) -> list[str]:
    return [
        f"{result.case.name} (accelerate {version}): {result.verdict.value} → {result.answer.value} {result.why}"
        for version, seen in results.items()
        for result in seen
        if not result.agrees and not result.case.accepted
    ]


def _show(results: Results) -> None:
    table = Table("accelerate", "verdict", *(answer.value for answer in Answer))
    for version, seen in results.items():
        counted = Counter((result.verdict.value, result.answer) for result in seen)
        for verdict in dict.fromkeys(verdict for verdict, _ in sorted(counted, key=lambda key: key[0])):
            table.add_row(version, verdict, *(str(counted[verdict, answer] or "") for answer in Answer))
        table.add_section()
    console = Console()
    console.print(table)
    for line in _unexplained(results):
        console.print(f"disagrees: {line}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
