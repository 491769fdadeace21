"""A state directory on disk, as facts."""
