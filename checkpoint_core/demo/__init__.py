"""The embedded example: a small real trainer and its sample runs."""
