"""The generated tests with new random examples, which plain pytest and .ci/run never take.

    python -m tests.random_rounds [--examples N] [--seed S] [TEST ...]

What fails is printed as the `@example(...)` line that keeps it in its test. Ends with pytest's status.
"""

from __future__ import annotations

import argparse
import functools
import random
import sys
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.errors import UnsatisfiedAssumption

PROFILE = "random"


class Rounds:
    """A plugin of pytest: so many examples for each generated test, and what each one failed with.

    `failures` holds, by the test's name, the line that keeps its example.
    """

    def __init__(self, examples: int) -> None:
        self.examples = examples
        self.failures: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if isinstance(item, pytest.Function) and hasattr(item.obj, "hypothesis"):
                # The tests' own numbers are for every day; no public way sets another one from outside.
                item.obj._hypothesis_internal_use_settings = settings(
                    item.obj._hypothesis_internal_use_settings, max_examples=self.examples
                )
                item.obj.hypothesis.inner_test = self._noting(item, item.obj.hypothesis.inner_test)

    def _noting(self, item: pytest.Function, test: Callable[..., None]) -> Callable[..., None]:
        """The test, which notes what it fails with: Hypothesis runs the smallest such example last."""

        @functools.wraps(test)
        def run(*args: object, **values: object) -> None:
            try:
                test(*args, **values)
            except UnsatisfiedAssumption:
                raise
            except Exception:
                made = (
                    f"{name}={value!r}" for name, value in values.items() if name not in item.fixturenames
                )
                self.failures[item.nodeid] = f"@example({', '.join(made)})"
                raise

        return run


def main(arguments: Sequence[str]) -> int:
    """Run the rounds and say how to keep what they found; returns pytest's exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.random_rounds", description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=1000, help="for each test (default: 1000)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of an earlier round")
    parser.add_argument("tests", nargs="*", help="as pytest takes them (default: all)")
    options = parser.parse_args(arguments)
    again = f"python -m tests.random_rounds --examples {options.examples} --seed {options.seed}"
    again = " ".join([again, *options.tests])
    print(f"Seed {options.seed}. The same again: {again}", flush=True)
    settings.register_profile(
        PROFILE, settings.get_profile("default"), deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    rounds = Rounds(options.examples)
    given = ["-m", "hypothesis", f"--hypothesis-profile={PROFILE}", f"--hypothesis-seed={options.seed}"]
    status = pytest.main([*given, "-p", "no:xdist", *options.tests], plugins=[rounds])
    for test, line in rounds.failures.items():
        print(f"\n{test}\n  {line}")
    if rounds.failures:
        print(f"\nPut each line above the @given of its test, mend the code, and run again: {again}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
