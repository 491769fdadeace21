"""Facts to findings: pure functions that touch no disk."""
