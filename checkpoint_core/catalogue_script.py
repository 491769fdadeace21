"""Findings about a train script that does not fit the state."""

from __future__ import annotations

from checkpoint_core.catalogue_entry import Entry

SETTINGS: tuple[Entry, ...] = ()
