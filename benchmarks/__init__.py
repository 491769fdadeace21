"""Measurements, as ratios against torch where there is one; run with ``python -m benchmarks``."""
