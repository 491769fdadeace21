"""Work that takes longer than a click: in its own thread, with progress, cancelled at will, one of a kind at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator

_PROGRESS_SECONDS = 0.25


class LongWork:
    """The work under way, by what it is about; safe to use from several threads."""

    def __init__(self) -> None:
        self._running: dict[Hashable, threading.Event] = {}

    def run(
        self,
        key: Hashable,
        work: Callable[[Callable[[], bool]], str],
        shown: Callable[[], str],
        busy: str,
    ) -> Iterator[str]:
        """Do the work; yields what to show meanwhile, at the end what the work returned.

        :param key: what the work is about; where it is going on already, only ``busy`` is yielded.
        :param work: takes a function that tells whether to stop, and returns what to show at its end.
        :param shown: the progress so far, as HTML.
        """
        cancel = threading.Event()
        if self._running.setdefault(key, cancel) is not cancel:
            yield busy
            return
        results: list[str] = []
        thread = threading.Thread(
            target=lambda: results.append(work(cancel.is_set)), name=f"checkpoints-{key}", daemon=True
        )
        try:
            thread.start()
            while thread.is_alive():
                yield shown()
                thread.join(_PROGRESS_SECONDS)
            yield from results
        finally:
            cancel.set()  # a browser that goes away ends the work too
            self._running.pop(key, None)

    def cancel(self, key: Hashable) -> None:
        """Ask the work to stop, if it is going on."""
        if event := self._running.get(key):
            event.set()
