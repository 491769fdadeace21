"""The real ``Accelerator.load_state``, tried in the training interpreter."""
