"""Bytes to structure: each module reads one file format and executes nothing of what it reads."""
