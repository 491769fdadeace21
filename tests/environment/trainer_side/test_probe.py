"""The probe as the training interpreter runs it: alone, by its path, in environments of metadata only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from checkpoint_core.environment.trainer_side import probe
from tests.environments import install, make_environment, site_packages

PROBE = str(probe.__file__)
PYTHONS = ["python3.10", "python3.11", "python3.12", "python3.13", "python3.14"]
GCC = shutil.which("gcc")


def run_probe(python: Path | str, **variables: str) -> Any:
    environment = {"PATH": os.environ["PATH"], **variables}
    done = subprocess.run([str(python), PROBE], env=environment, capture_output=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    return make_environment(tmp_path / "env", accelerate="0.33.0", torch="2.6.0+cu124")


def write_torch(folder: Path, version_py: str) -> None:
    """A torch that cannot be imported, and the text that its build generated."""
    (folder / "torch").mkdir()
    (folder / "torch/__init__.py").write_text("raise SystemExit('torch was imported')")
    (folder / "torch/version.py").write_bytes(version_py.encode("latin-1"))


def test_versions_come_from_metadata_and_what_is_absent_has_none(python: Path) -> None:
    answer = run_probe(python)

    assert answer["packages"].keys() == set(probe.PACKAGES)
    installed = {name: version for name, version in answer["packages"].items() if version}
    assert installed == {"accelerate": "0.33.0", "torch": "2.6.0+cu124"}
    assert answer["python"] == ".".join(map(str, sys.version_info[:3]))
    assert str(site_packages(python)) in answer["folders"]


def test_python_path_wins_as_it_does_in_the_training(python: Path, tmp_path: Path) -> None:
    install(tmp_path / "first", "accelerate", "1.6.0")
    answer = run_probe(python, PYTHONPATH=str(tmp_path / "first"))

    assert (answer["packages"]["accelerate"], answer["packages"]["torch"]) == ("1.6.0", "2.6.0+cu124")
    assert str(tmp_path / "first") in answer["folders"]


@pytest.mark.parametrize("text", [None, b"", b"\xff\xfe", b"Name: numpy\n"])
def test_what_a_broken_install_left_hides_nothing_else(python: Path, text: bytes | None) -> None:
    left = install(site_packages(python), "numpy", "2.0.0") / "METADATA"
    left.unlink()
    if text is not None:
        left.write_bytes(text)
    packages = run_probe(python)["packages"]

    assert (packages["numpy"], packages["accelerate"]) == (None, "0.33.0")


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("cuda: Optional[str] = '12.4'", "12.4"),
        ("cuda = '11.8'", "11.8"),
        ("builder = 'J\xf6rg'\ncuda = '12.1'", "12.1"),  # in no encoding of Python's sources
        ('cuda: str | None = "13.0"', "13.0"),
        ("cuda: Optional[str] = None", None),
        ("cudnn = '9.1'", None),
        ("# cuda = '12.4'", None),
    ],
)
def test_the_cuda_version_is_read_from_torchs_text(python: Path, line: str, version: str | None) -> None:
    write_torch(site_packages(python), f"__version__ = '2.6.0'\n{line}\nhip: Optional[str] = None\n")

    assert run_probe(python)["torch_cuda"] == version


def test_nothing_of_the_training_is_imported(python: Path) -> None:
    write_torch(site_packages(python), "cuda = '12.4'\n")
    done = subprocess.run(
        [str(python), "-X", "importtime", PROBE], capture_output=True, text=True, check=True
    )

    assert "importlib.metadata" in done.stderr
    assert not [line for line in done.stderr.splitlines() if line.split("|")[-1].strip().startswith("torch")]


@pytest.mark.parametrize("name", PYTHONS)
def test_it_runs_on_every_python_that_may_train(name: str) -> None:
    found = shutil.which(name)
    if not found or subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no {name} here")

    assert run_probe(found)["python"].startswith(name.removeprefix("python"))


@pytest.mark.parametrize(
    ("chosen", "visible"),
    [
        (None, ["A", "B", "C"]),
        ("", []),
        ("1", ["B"]),
        ("2,0", ["C", "A"]),
        (" 1 , 2 ", ["B", "C"]),
        ("0,3,1", ["A"]),
        ("-1", []),
        ("0,-1,1", ["A"]),
        ("NoDevFiles", []),
        ("\N{SUPERSCRIPT TWO}", []),
        ("GPU-8932f937", ["GPU-8932f937"]),
        ("0,MIG-1c7d", ["A", "MIG-1c7d"]),
    ],
)
def test_cuda_visible_devices_chooses_and_ends_at_the_first_that_is_none(
    chosen: str | None, visible: list[str]
) -> None:
    assert probe._visible(["A", "B", "C"], chosen) == visible


def test_an_identifier_is_named_where_there_is_only_one_device() -> None:
    assert probe._visible(["A"], "GPU-8932f937") == ["A"]
    assert probe._visible([], "GPU-8932f937") == []


# NVIDIA's library, as a program in C that answers as nvml.h says

FAKE_NVML = """
#include <stdio.h>
#include <stdlib.h>
static int failing(const char *name) { const char *code = getenv(name); return code ? atoi(code) : 0; }
int nvmlInit_v2(void) { return failing("FAIL_INIT"); }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return failing("FAIL_COUNT"); }
/* A handle is a pointer: its upper half must arrive, too. */
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(0x7f0000000000UL + index);
    return index ? failing("FAIL_HANDLE") : 0;
}
int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    unsigned long index = (unsigned long)device - 0x7f0000000000UL;
    return snprintf(name, length, "Fake GPU %lu of %u", index, length) < 0;
}
"""


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not GCC or sys.platform != "linux":
        pytest.skip("a library is made with gcc, on Linux")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(FAKE_NVML)
    library, source = folder / "libnvidia-ml.so.1", folder / "nvml.c"
    subprocess.run([GCC, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return folder


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        ({}, ["Fake GPU 0 of 96", "Fake GPU 1 of 96"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["Fake GPU 1 of 96"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"FAIL_HANDLE": "15"}, ["Fake GPU 0 of 96", "unknown device"]),
        ({"FAIL_INIT": "9"}, []),  # no driver
        ({"FAIL_INIT": "18"}, None),  # driver and library differ: nothing is known
        ({"FAIL_COUNT": "999"}, None),
        ({"FAIL_COUNT": "999", "CUDA_VISIBLE_DEVICES": "0"}, None),
    ],
)
def test_devices_are_asked_of_nvidias_library(
    nvml: Path, variables: dict[str, str], gpus: list[str] | None
) -> None:
    assert run_probe(sys.executable, LD_LIBRARY_PATH=str(nvml), **variables)["gpus"] == gpus


def test_nvidias_library_does_not_speak_for_amds_devices(nvml: Path, python: Path) -> None:
    write_torch(
        site_packages(python), "cuda: Optional[str] = None\nhip: Optional[str] = '6.2.41133-dd7f95766'\n"
    )
    answer = run_probe(python, LD_LIBRARY_PATH=str(nvml))

    assert (answer["torch_cuda"], answer["gpus"]) == (None, None)
