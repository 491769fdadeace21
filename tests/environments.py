"""Environments to judge by and to ask: as values, and as real folders that hold nothing but metadata."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoint_core.environment.facts import EnvironmentFacts

#: The newest that was tried.
VERSIONS = {"accelerate": "1.15.0", "torch": "2.13.0", "numpy": "2.4.6", "safetensors": "0.8.0"}


def environment(executable: str = "/gym/env/bin/python", **versions: str | None) -> EnvironmentFacts:
    """An environment of the newest versions but for those that are named; ``None`` is not installed."""
    packages = {**VERSIONS, **versions}
    return EnvironmentFacts(executable, "a test", "3.11.7", "Linux", tuple(packages.items()))


def make_environment(folder: Path, **versions: str) -> Path:
    """A real virtual environment with the metadata of these packages and no package; returns its Python."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    for package, version in versions.items():
        install(site_packages(python), package, version)
    return python


def site_packages(python: Path) -> Path:
    """The folder in which the Python of a virtual environment looks for packages."""
    (folder,) = python.parent.parent.glob("lib/python*/site-packages")
    return folder


def install(folder: Path, package: str, version: str) -> Path:
    """Put a package's metadata into a folder, and nothing of the package itself."""
    metadata = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    (metadata / "METADATA").write_text(text, encoding="utf-8")
    return metadata


class Answering:
    """Stands for ``subprocess.run``: a probe that answers at once, and remembers which Pythons were asked.

    :param packages: of every Python but those in ``others``.
    :param others: other packages by the Python's path; ``None`` is a Python that does not start.
    """

    def __init__(
        self,
        packages: Mapping[str, str] = VERSIONS,
        others: Mapping[str, Mapping[str, str] | None] | None = None,
        folders: tuple[Path, ...] = (),
    ) -> None:
        self.asked: list[str] = []
        self._packages, self._others, self._folders = packages, others or {}, folders

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        self.asked.append(command[0])
        packages = self._others.get(command[0], self._packages)
        if packages is None:
            raise FileNotFoundError(2, "No such file or directory")
        answer = {
            "python": "3.11.7",
            "platform": "Linux",
            "packages": dict(packages),
            "torch_cuda": None,
            "gpus": [],
            "folders": [str(folder) for folder in self._folders],
        }
        return subprocess.CompletedProcess(command, 0, json.dumps(answer).encode(), b"")


def executable_script(path: Path, text: str) -> Path:
    """An executable file that runs a shell's lines in place of a Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def linked_python(path: Path) -> Path:
    """A link to the Python of the tests, as a virtual environment has one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(sys.executable)
    return path


class SlowPython:
    """A stand-in for a Python that answers its probe only once it is let go on.

    :param path: where the shell script lies that stands for it.
    """

    def __init__(self, path: Path, **versions: str) -> None:
        self.path, self._began, self._go_on = path, path.with_name("began"), path.with_name("go-on")
        self.answers(**versions)

    def answers(self, **versions: str) -> None:
        """Be another Python from now on, with these packages; who asks has to wait."""
        answer = {
            "python": "3.11.7",
            "platform": "Linux",
            "packages": {**VERSIONS, **versions},
            "folders": [],
        }
        self._began.unlink(missing_ok=True)
        self._go_on.unlink(missing_ok=True)
        waiting = f"until [ -e '{self._go_on}' ]; do sleep 0.02; done"
        executable_script(self.path, f"echo x >> '{self._began}'\n{waiting}\necho '{json.dumps(answer)}'")
        later = self.path.stat().st_mtime_ns + 10**9  # whatever the disk's clock is worth
        os.utime(self.path, ns=(later, later))

    @property
    def times_asked(self) -> int:
        """How often it was started since it became what it is."""
        return len(self._began.read_text().split()) if self._began.exists() else 0

    def until_asked(self) -> None:
        """Wait until somebody asks."""
        deadline = time.monotonic() + 30
        while not self.times_asked:
            assert time.monotonic() < deadline, "nobody has asked"
            time.sleep(0.01)

    def go_on(self) -> None:
        """Let it answer."""
        self._go_on.touch()
