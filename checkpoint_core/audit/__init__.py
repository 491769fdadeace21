"""Facts to findings to verdicts."""
