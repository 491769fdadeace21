"""What the tab shows, as HTML text."""
