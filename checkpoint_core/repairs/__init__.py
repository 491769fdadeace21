"""Repairs of a state: what is written in the place of which file, how it is done, and how it is taken back."""
