"""Text of one sample as it grows, and the stop strings in it.

Text that may be the beginning of a stop string is held back, so that a stream never shows what is cut later.
"""

from __future__ import annotations

from typing import Protocol


class Decoder(Protocol):
    """Turns tokens into text, one at a time."""

    def push(self, token: int) -> str:
        """Return the text that became certain."""
        ...

    def flush(self) -> str:
        """Return what is left, with a replacement character for an unfinished one."""
        ...


class TextStream:
    """The text of one sample.

    Args:
        decoder: A fresh decoder.
        stops: Strings that end the text.
    """

    def __init__(self, decoder: Decoder, stops: tuple[str, ...]) -> None:
        self._decoder = decoder
        self._stops = stops
        self._longest = max((len(stop) for stop in stops), default=0)
        self.text = ""

    def push(self, token: int) -> str | None:
        """Append a token's text; return the stop string it completed, before which the text is then cut."""
        return self._append(self._decoder.push(token))

    def finish(self, *, flush: bool = True) -> None:
        """Hold nothing back any more; with `flush`, append what the decoder still holds, which a stop may cut too."""
        if flush:
            self._append(self._decoder.flush())
        self._longest = 0

    def visible(self) -> int:
        """Return how many characters can be shown: all but those that may still become a stop string."""
        end = len(self.text)
        for size in range(min(self._longest - 1, end), 0, -1):
            if any(stop.startswith(self.text[end - size :]) for stop in self._stops):
                return end - size
        return end

    def _append(self, piece: str) -> str | None:
        old = len(self.text)
        self.text += piece
        found = [
            (at, stop) for stop in self._stops if (at := self.text.find(stop, max(0, old - self._longest + 1))) >= 0
        ]
        if not found:
            return None
        at, stop = min(found)
        self.text = self.text[:at]
        self._longest = 0
        return stop
