"""``python -m benchmarks [scan] [describe] [probe] [rehearse] [page]``: all of them without a name.

Each figure is the median of several runs, each in a process of its own; memory is the peak over the idle process.
"""

from __future__ import annotations

import sys

from benchmarks import describe, page, probe, rehearse, scan

_ALL = {
    "scan": scan.main,
    "describe": describe.main,
    "probe": probe.main,
    "rehearse": rehearse.main,
    "page": page.main,
}


def main() -> int:
    """Run the named measurements; 2 for an unknown name."""
    names = sys.argv[1:] or list(_ALL)
    unknown = [name for name in names if name not in _ALL]
    if unknown:
        print(f"There is no measurement {unknown[0]!r}; choose from {', '.join(_ALL)}.", file=sys.stderr)
        return 2
    for name in names:
        print(f"\n## {name}", flush=True)
        _ALL[name]()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
