"""The embedded example: a small real trainer and its sample runs. Each part is started as a program of its own."""
