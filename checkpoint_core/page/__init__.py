"""What the tab shows, as HTML text: pure functions, no Gradio. Every text from the disk is escaped here."""
