from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from checkpoint_core.report.versions import installed_version, versions_here

COMMIT = "48d368fa557731ad0488c07304dfeba8c07910eb"


def test_the_versions_are_those_of_this_python() -> None:
    versions = versions_here()

    assert versions.python == platform.python_version()
    assert versions.executable == sys.executable
    assert versions.platform == platform.platform()
    assert dict(versions.packages)["numpy"] == metadata.version("numpy")
    assert versions.trainer_commit is None


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert installed_version("no-such-package-of-anyone") is None


def test_learning_the_versions_imports_nothing_heavy() -> None:
    program = (
        "import sys; from checkpoint_core.report.versions import versions_here; versions_here();"
        "print([name for name in ('torch', 'accelerate', 'gradio', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_the_trainers_commit_is_told_with_them(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/HEAD").write_text(f"{COMMIT}\n")

    assert versions_here(tmp_path).trainer_commit == COMMIT
