"""The tab's events. A handler reads its inputs, makes one call into the core, and returns updates by component."""
