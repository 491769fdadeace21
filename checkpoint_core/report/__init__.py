"""An audit as JSON, Markdown, zip and DataFrame."""
