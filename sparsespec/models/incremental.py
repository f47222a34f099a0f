"""Decode a stream of tokens piece by piece, giving out only text that can no longer change.

Decoding each token alone is wrong (a character may span tokens, a leading space may be dropped) and
decoding everything each time is quadratic. Here a window of a few tokens is decoded per token; what
it has given out, put together, equals the decoding of all ids at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

_UNFINISHED = "\ufffd"  # what decoders put for bytes that are not yet, or never, a character
_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_WINDOW = 32
_CONTEXT = 8  # tokens; a UTF-8 character is at most 4 bytes, so these settle where characters start


class Decodes(Protocol):
    """The part of `Tokenizer` that is needed here."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that decoding leaves out."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        ...

    def piece(self, token: int) -> str | None:
        """Return the raw vocabulary entry."""
        ...


class IncrementalDecoder:
    """Turns one request's tokens into text as they come."""

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._shown = 0  # characters of the window's text already given out
        self._settled = 0  # tokens of the window up to the last whole text

    def push(self, token: int) -> str:
        """Take one token and return the text that is certain now and was not before."""
        piece = None if token in self._tokenizer.special_ids else self._tokenizer.piece(token)
        if piece is None:
            return ""
        self._window.append(token)
        if _BYTE_PIECE.fullmatch(piece):
            # a byte-fallback decoder judges a run of bytes as a whole, so it has to end first
            return ""
        text = self._tokenizer.decode(self._window)
        whole = not text.endswith(_UNFINISHED)
        certain = text if whole else text[:-1]
        new = certain[self._shown :]
        self._shown = max(self._shown, len(certain))
        if whole:
            self._keep(self._settled)
            self._settled = len(self._window)
        elif len(self._window) > _WINDOW:
            self._keep(len(self._window) - _CONTEXT)
            self._settled = 0
        return new

    def flush(self) -> str:
        """Return the text held back, a broken character included, and forget everything."""
        new = self._tokenizer.decode(self._window)[self._shown :] if self._window else ""
        self._window, self._shown, self._settled = [], 0, 0
        return new

    def _keep(self, start: int) -> None:
        """Drop the window's tokens before `start`; the rest is context for what follows."""
        if start:
            self._window = self._window[start:]
            text = self._tokenizer.decode(self._window)
            self._shown = len(text) - text.endswith(_UNFINISHED)
