"""A training's log as it comes."""
