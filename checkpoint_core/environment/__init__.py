"""The training interpreter: found, probed, rehearsed."""
