"""A stand-in for `accelerate` on PATH that records what it is handed, and the real argparse that reads it."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path

BASH = shutil.which("bash") or "/bin/bash"

# Builtins only, so that PATH can hold nothing but this folder while generated text runs.
_STAND_IN = """#!{bash}
printf '%s\\0' call "$#" "$@" >> "$RECORDED"
"""


class FakeAccelerate:
    """A folder with the stand-in, and a place where scripts run."""

    def __init__(self, folder: Path) -> None:
        """Make the stand-in, a working directory and the record in an empty folder."""
        self.bin = folder / "bin"
        self.work = folder / "work"
        self.record = folder / "argv"
        self.bin.mkdir(parents=True)
        self.work.mkdir()
        stand_in = self.bin / "accelerate"
        stand_in.write_text(_STAND_IN.format(bash=BASH))
        stand_in.chmod(0o755)

    def calls(self, script: bytes) -> list[list[str]]:
        """What `accelerate` was handed at each call while the real bash ran the script."""
        path = self.work / "train.sh"
        path.write_bytes(script)
        self.record.write_bytes(b"")
        environment = {"PATH": str(self.bin), "RECORDED": str(self.record), "HOME": "/home/someone"}
        subprocess.run(
            [BASH, str(path)], cwd=self.work, env=environment, capture_output=True, timeout=20, check=False
        )
        entries = os.fsdecode(self.record.read_bytes()).split("\0")[:-1]
        calls: list[list[str]] = []
        while entries:
            count = int(entries[1])
            calls.append(entries[2 : 2 + count])
            entries = entries[2 + count :]
        return calls

    def arguments(self, script: bytes) -> list[str]:
        """What the one call of `accelerate` was handed."""
        (call,) = self.calls(script)
        return call


def trainer_reads(arguments: list[str]) -> tuple[str | None, list[str]]:
    """What a parser with sd-scripts' neighbours of --resume takes for its value, and what it leaves over."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--resume", type=str, default=None)
    parser.add_argument("--resume_from_huggingface", action="store_true")
    parser.add_argument("--resolution", type=str, default=None)
    values, rest = parser.parse_known_args(arguments)
    return values.resume, rest


def without_resume(arguments: list[str]) -> list[str]:
    """The arguments without --resume and its value, for templates in which it has one."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip and not argument.startswith("--"):
            skip = False
            continue
        skip = argument in ("--resume", "--resum")
        if not skip and not argument.startswith("--resume="):
            kept.append(argument)
    return kept
