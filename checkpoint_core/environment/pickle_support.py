"""What the versions of an environment do with a state's pickles when accelerate loads them; pure.

Sources: accelerate ``checkpointing.py`` (``load_accelerator_state``), ``accelerator.py`` (``load_state``) and
``utils/other.py`` (``load``, ``TORCH_SAFE_GLOBALS``) at 0.25 to 1.15; torch ``serialization.py`` (``load``) and
``_weights_only_unpickler.py``.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import replace

from packaging.version import InvalidVersion, Version

from checkpoint_core.environment.facts import EnvironmentFacts
from checkpoint_core.states import RandomStatesFacts, Reading

#: The versions that this was held against (``docs/conformance.md``); others are unusual, and worth a rehearsal.
TESTED = {"accelerate": ("0.25", "1.15"), "torch": ("2.0", "2.13")}

#: What accelerate lets through since 1.1, beside what torch itself does, by numpy's major version.
_NUMPY_NAMES = frozenset({"numpy.ndarray", "numpy.dtype"})
_NUMPY_2 = "numpy._core."
_RECONSTRUCT = {1: "numpy.core.multiarray._reconstruct", 2: "numpy._core.multiarray._reconstruct"}


class RandomStates(enum.Enum):
    """What becomes of ``random_states_0.pkl``."""

    RESTORED = "restored"
    #: accelerate says “Could not load random states” and goes on.
    LOST = "lost"
    #: ``KeyError: 'step'``: accelerate 0.32 and 0.33 read the key after the load has failed.
    STOPS = "stops"


def version_of(environment: EnvironmentFacts, package: str) -> Version | None:
    """A package's version; ``None`` where it is not installed or says something else than a version."""
    try:
        return Version(environment.version(package) or "")
    except InvalidVersion:
        return None


def is_older(environment: EnvironmentFacts, package: str, than: str) -> bool:
    """Whether a package is older than a release; a pre-release of it already behaves like it."""
    version = version_of(environment, package)
    return version is not None and version.release < Version(than).release


def with_version(environment: EnvironmentFacts, package: str, version: str) -> EnvironmentFacts:
    """The environment as it would be with another version of a package."""
    changed = {**dict(environment.packages), package: version}
    return replace(environment, packages=tuple(changed.items()))


def is_unusual(environment: EnvironmentFacts) -> str | None:
    """Why nobody has tried the versions of an environment, in words; ``None`` for tried ones."""
    for package, (oldest, newest) in TESTED.items():
        version = version_of(environment, package)
        if version is None:
            if told := environment.version(package):
                return f"{package} calls its version {told}, which cannot be compared"
            continue
        if version.is_prerelease:
            return f"{package} {version} is a pre-release"
        if not Version(oldest).release <= version.release[:2] <= Version(newest).release:
            return f"{package} {version} is outside the versions that were tried ({oldest} to {newest})"
    return None


def loads_weights_only(environment: EnvironmentFacts) -> bool:
    """Whether torch refuses objects that it does not know; older versions load, and run, whatever is there.

    accelerate asks for it since 1.1 where torch can (2.4); torch does so by itself since 2.6.
    """
    if not is_older(environment, "accelerate", "1.1"):
        return not is_older(environment, "torch", "2.4")
    return not is_older(environment, "torch", "2.6")


def refused_names(names: frozenset[str], environment: EnvironmentFacts) -> tuple[str, ...]:
    """Which of the objects that a file names are refused there, of those that some version takes."""
    numpy_names = {name for name in names if name.startswith("numpy.")}
    if not loads_weights_only(environment):
        # The names of numpy 2 can be imported since numpy 1.26.1 (measured).
        if not is_older(environment, "numpy", "1.26.1"):
            return ()
        return tuple(sorted(name for name in numpy_names if name.startswith(_NUMPY_2)))
    if not numpy_names:
        return ()
    if is_older(environment, "accelerate", "1.1") or is_older(environment, "numpy", "1.25"):
        return tuple(sorted(numpy_names))
    # numpy 2 renamed its module, and torch compares names: a state of the other numpy is refused.
    known = {*_NUMPY_NAMES, _RECONSTRUCT[1 if is_older(environment, "numpy", "2.0") else 2]}
    return tuple(sorted(name for name in numpy_names - known if not name.startswith("numpy.dtypes.")))


def saved_by_numpy_2(names: Collection[str]) -> bool:
    """Whether the numpy objects that a file names are called as numpy 2 calls them."""
    return any(name.startswith(_NUMPY_2) for name in names)


def random_states(reading: Reading[RandomStatesFacts], environment: EnvironmentFacts) -> RandomStates:
    """What becomes of the random states there."""
    needs_step = not is_older(environment, "accelerate", "0.32") and is_older(
        environment, "accelerate", "0.34"
    )
    failure = RandomStates.STOPS if needs_step else RandomStates.LOST
    if not isinstance(reading, RandomStatesFacts):
        return failure
    if refused_names(reading.names, environment):
        return failure
    return RandomStates.STOPS if needs_step and reading.step is None else RandomStates.RESTORED
