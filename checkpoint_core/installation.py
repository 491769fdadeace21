"""Where this project lies, a folder of its own or an environment's packages, and where its modules are started."""

from __future__ import annotations

import site
import sys
from pathlib import Path

#: The folder that holds ``checkpoint_core`` and ``fluxgym_resume_tab.py``.
PROJECT = Path(__file__).resolve().parents[1]


def is_installed() -> bool:
    """Whether this Python finds the project by itself, because it lies among the packages of its environment.

    A clone is not, even where it was installed by ``pip install --editable``.
    """
    folders = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return any(Path(folder).resolve() == PROJECT for folder in folders)


def module_folder() -> Path:
    """The working folder in which this Python's ``-m`` finds the project's modules."""
    # -m puts the working folder before the standard library (Python's documentation, "sys.path"): an environment's
    # packages must not stand there, because some are called like its modules (argparse, pathlib).
    return Path(sys.prefix) if is_installed() else PROJECT
