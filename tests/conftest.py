"""Fixtures that every test may use; importing this costs no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.world import (
    PROJECT,
    SETTLED_SECONDS,
    World,
    age,
    copy_world,
    make_samples,
    make_world,
    once,
    unpack_real_runs,
)

# On top of Hypothesis' own defaults by name: the current ones hang on variables such as CI. No deadline and no limit
# to slowness: another program on the same processor is no failure of a test.
settings.register_profile(
    "fixed",
    settings.get_profile("default"),
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def pytest_configure(config: pytest.Config) -> None:
    """Generate the same examples each time, whatever the environment says; tests/random_rounds.py makes new ones."""
    if config.getoption("--hypothesis-profile") is None:
        settings.load_profile("fixed")
        providers = sys.modules.get("hypothesis.internal.conjecture.providers")
        if hasattr(providers, "is_local_module_file"):
            # Else examples hold constants of whichever of our modules are loaded so far, by other tests too.
            providers.is_local_module_file = lambda path: False
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started with `&`: all that the tests start would ignore Ctrl-C, which at a terminal it does not.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _environment_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests' own Python trains their worlds, and the user's settings are neither read nor written.

    Where that Python has no torch, TEST_TRAINING_PYTHON names one that has.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLUXGYM_PYTHON", os.environ.get("TEST_TRAINING_PYTHON", sys.executable))
        for variable in ("XDG_CONFIG_HOME", "APPDATA"):
            patch.setenv(variable, str(tmp_path_factory.mktemp("settings")))
        yield


@pytest.fixture(scope="session")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test session, the same one in every pytest-xdist worker."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def world_template(shared_dir: Path) -> Path:
    """The trained world that tests copy; never change it."""
    return once(shared_dir, "world", make_world)


@pytest.fixture
def world(world_template: Path, tmp_path: Path) -> World:
    """A copy of the valid world for one test to break."""
    return copy_world(world_template, tmp_path / "fluxgym")


@pytest.fixture
def fluxgym_root(world: World) -> Path:
    """The FluxGym folder of this test's world."""
    return world.root


@pytest.fixture(scope="session")
def real_runs(shared_dir: Path) -> Path:
    """The runs that the real trainer wrote, times kept; read only, copy what is to be changed."""
    return once(shared_dir, "real", unpack_real_runs) / "real_runs"


@pytest.fixture(scope="session")
def sample_template(shared_dir: Path) -> Path:
    """The sample FluxGym folder as the demo makes it; read only, copy to change."""
    return once(shared_dir, "sample", make_samples) / "gym"


@pytest.fixture(scope="session")
def registered_states(shared_dir: Path) -> Path:
    """States with registered objects: folders `safetensors`, `bin` and `sharded`; read only, copy to change.

    See tests/registered_states.py for what they hold.
    """
    return once(shared_dir, "registered", _make_registered_states)


def _make_registered_states(folder: Path) -> None:
    command = [sys.executable, "-m", "tests.registered_states", str(folder)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    for state in folder.iterdir():
        age(state, SETTLED_SECONDS)
