"""FluxGym, the app that the tab is mounted in."""
