"""Plans that change a run: repair, resume, remove, undo."""
