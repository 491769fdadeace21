"""The whole suite on a disk: bases, cases, the answers of each accelerate, our verdicts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from checkpoint_core.states.layout import Layout
from tests.conformance.agreement import Result, answer, deciding_codes, environment, judge
from tests.conformance.bases import BASES, WRITERS
from tests.conformance.case import Case
from tests.conformance.cases import CASES, base_run, make_case, state_path, trainer_arguments
from tests.world import PROJECT, SETTLED_SECONDS, STEPS_PER_EPOCH, World, age, unpack_real_runs

BESIDE = ("0.31.0", "0.33.0", "1.6.0")
"""Releases of accelerate that answer, beside the installed one."""


def installed() -> str:
    """The release of accelerate in this environment."""
    return metadata.version("accelerate")


@dataclass(frozen=True)
class Releases:
    """A folder with one accelerate a folder (`pip install --no-deps --target`), named by their versions."""

    folder: Path | None

    @classmethod
    def from_environment(cls) -> Releases:
        """The folder that the variable ACCELERATE_VERSIONS names, if it is set."""
        named = os.environ.get("ACCELERATE_VERSIONS")
        return cls(Path(named) if named else None)

    def has(self, version: str) -> bool:
        """Whether that release can be run."""
        return version == installed() or (self.folder is not None and (self.folder / version).is_dir())

    def run(self, version: str, *arguments: str) -> None:
        """Run a program of this suite with that release before the installed one."""
        variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
        if version != installed():
            variables["PYTHONPATH"] = f"{self.folder}/{version}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=PROJECT, env=variables, capture_output=True, text=True,
            encoding="utf-8", check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{arguments} failed under accelerate {version}:\n{done.stderr[-2000:]}")


class Workbench:
    """One folder with the bases and the cases; made once, read by every release."""

    def __init__(self, folder: Path, releases: Releases) -> None:
        self.folder, self.releases = folder, releases
        self.bases = folder / "bases"

    def make(self) -> None:
        """Make the bases whose writers are there, and every case of them."""
        self.bases.mkdir(parents=True)
        for writer in ("", *WRITERS):
            names = [base.name for base in BASES.values() if base.writer == writer]
            if self.releases.has(writer or installed()):
                self.releases.run(writer or installed(), "tests.conformance.bases", str(self.bases), *names)
        unpack_real_runs(self.bases).rename(self.bases / "real-runs")
        self._make_registered()
        for case in self.cases():
            make_case(case, self.bases, self.world(case).root)

    def _make_registered(self) -> None:
        made = self.folder / "registered"
        self.releases.run(installed(), "tests.registered_states", str(made))
        for state in made.iterdir():
            shutil.copytree(state, self.bases / "registered" / state.name / "state")
        shutil.rmtree(made)
        age(self.bases / "registered", SETTLED_SECONDS)

    def cases(self) -> tuple[Case, ...]:
        """The cases whose base can be made here."""
        return tuple(
            case for case in CASES if case.base not in BASES or self.releases.has(_writer(case.base))
        )

    def world(self, case: Case) -> World:
        """The case's own FluxGym folder."""
        run = World(self.folder).run_name if case.base in BASES else Path(case.base).name
        return World(self.folder / "cases" / case.slug, run)

    def results(self, version: str, cases: Iterable[Case]) -> tuple[Result, ...]:
        """Every case's verdict and the trainer's answer under that release."""
        wanted = tuple(cases)
        versions, *observed = self._answers(version, wanted)
        context = environment(versions)
        return tuple(self._result(*pair, context) for pair in zip(wanted, observed, strict=True))

    def _result(self, case: Case, seen: Mapping[str, Any], context: Any) -> Result:
        report = judge(case, self.world(case), context)
        return Result(case, report.verdict, deciding_codes(report), *answer(case, seen))

    def _answers(self, version: str, cases: tuple[Case, ...]) -> Iterator[dict[str, Any]]:
        jobs, answers = (self.folder / f"{name}-{version}.json" for name in ("jobs", "answers"))
        jobs.write_text(json.dumps([self._job(case) for case in cases]), encoding="utf-8")
        self.releases.run(version, "tests.conformance.loader", str(jobs), str(answers))
        return (json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines())

    def _job(self, case: Case) -> dict[str, Any]:
        world, base = self.world(case), base_run(self.bases, case.base)
        layout = case.layout or Layout.SD_SCRIPTS
        scripted = layout is Layout.SD_SCRIPTS
        return {
            "state": str(state_path(case, world)),
            "pristine": str(base_run(self.bases, case.pristine_base or case.base) / case.state),
            "layout": layout.value,
            "tiny_flux": case.base.startswith("real-runs/"),
            "arguments": trainer_arguments(world.script, case.batches) if scripted else [],
            "pristine_arguments": trainer_arguments(base / "train.sh", STEPS_PER_EPOCH) if scripted else [],
        }


def _writer(base: str) -> str:
    return BASES[base].writer or installed()
