"""Findings about what the resumed run would do: its epochs, its learning rate, its saves."""

from __future__ import annotations

from checkpoint_core.catalogue_entry import Entry

PLAN: tuple[Entry, ...] = ()
