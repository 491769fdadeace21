"""The tab's page in Gradio: its components, its events, and what a handler sends back. Only here is Gradio imported."""
