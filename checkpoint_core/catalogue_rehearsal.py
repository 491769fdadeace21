"""Findings of a rehearsal: what the real ``Accelerator.load_state`` did with the state."""

from __future__ import annotations

from checkpoint_core.catalogue_entry import Entry

REHEARSAL: tuple[Entry, ...] = ()
