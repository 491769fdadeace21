"""The version of this program, for whatever names it: records, reports, the package."""

from __future__ import annotations

__version__ = "0.1.0"
