"""A training's log as it grows: bytes in, progress and the last lines out, in bounded memory whatever comes."""

from __future__ import annotations

import codecs
from collections import deque

from checkpoint_core.training.log.lines import apart, plain
from checkpoint_core.training.log.parser import LogParser
from checkpoint_core.training.log.progress import LossHistory, Progress

_LONGEST_LINE = 10_000
_BLOCK = 64 * 1024


class LogReader:
    """Reads a log in pieces of any size; how it is cut makes no difference.

    :param first_step: the training's true step at which the launch began; None if the log must tell it.
    :param keep_lines: how many lines `tail` has at most.
    """

    def __init__(self, first_step: int | None = None, keep_lines: int = 300) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._meaning = LogParser(first_step)
        self._keep = max(keep_lines, 1)
        self._lines: deque[str] = deque(maxlen=self._keep)
        #: What the line that is not finished shows, and what has come since its last carriage return.
        self._shown: list[str] = []
        self._open = ""

    @property
    def progress(self) -> Progress:
        """How far the training is."""
        return self._meaning.progress()

    @property
    def history(self) -> LossHistory:
        """The loss by the training's true steps; a copy."""
        return self._meaning.losses.moved(self._meaning.first_step())

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines as a terminal shows them, the unfinished one included."""
        unfinished = _pieces(self._open) if self._open else self._shown
        return (*self._lines, *unfinished)[-self._keep :]

    def feed(self, data: bytes) -> None:
        """Take in what the log has grown by."""
        view = memoryview(data)
        for begin in range(0, len(view), _BLOCK):
            self._take(self._decoder.decode(view[begin : begin + _BLOCK]))
        # The bar stands open until the next step; what it shows is wanted before.
        if "steps:" in self._open[:100]:
            self._meaning.read(_pieces(self._open)[0])

    def _take(self, text: str) -> None:
        *finished, unfinished = text.split("\n")
        for line in finished:
            self._overwrite(f"{line}\r")
            self._lines.extend(self._shown or [""])
            self._shown = []
        self._overwrite(unfinished)

    def _overwrite(self, text: str) -> None:
        """Each carriage return lets what follows take the place of what stands there, once something follows."""
        first, *others = text.split("\r")
        if len(self._open) <= _LONGEST_LINE:
            self._open += first[: _LONGEST_LINE + 1]
        for part in others:
            if self._open:
                self._shown = _pieces(self._open)
                for piece in self._shown:
                    self._meaning.read(piece)
            self._open = part[: _LONGEST_LINE + 1]


def _pieces(text: str) -> list[str]:
    cut = text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]} …"
    return apart(plain(cut))
