"""What an installation requires never changes a FluxGym environment: FluxGym's own pins satisfy all of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.world import PROJECT


def requirements(name: str) -> Iterator[Requirement]:
    """The requirements in a file of the project."""
    for line in (PROJECT / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "-")):
            yield Requirement(line)


REQUIRED = list(requirements("requirements.txt"))


@pytest.mark.parametrize("requirement", REQUIRED, ids=lambda requirement: requirement.name)
def test_only_lower_bounds_are_set(requirement: Requirement) -> None:
    assert [bound.operator for bound in requirement.specifier] == [">="]
    assert not requirement.extras


@pytest.mark.parametrize("requirement", REQUIRED, ids=lambda requirement: requirement.name)
def test_fluxgym_s_own_pins_satisfy_it(requirement: Requirement) -> None:
    pins = {
        canonicalize_name(pin.name): pin.specifier for pin in requirements("constraints/fluxgym-4.44.1.txt")
    }
    (pin,) = pins[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin.version, prereleases=True)
