"""Decoders that make letters of tokens, so that stop strings can be tested without a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable


def letters(tokens: Iterable[int]) -> str:
    return "".join(chr(ord("A") + token) for token in tokens)


class Letters:
    """One letter a token, at once."""

    def push(self, token: int) -> str:
        return letters([token])

    def flush(self) -> str:
        return ""


class Late:
    """One letter a token, which becomes certain only with the next one."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, token: int) -> str:
        piece, self._held = self._held, letters([token])
        return piece

    def flush(self) -> str:
        piece, self._held = self._held, ""
        return piece


class Broken(Letters):
    """Cannot say one token, nor anything after it, nor what it holds."""

    def __init__(self, token: int) -> None:
        self._token, self._broken = token, False

    def push(self, token: int) -> str:
        self._broken |= token == self._token
        if self._broken:
            raise ValueError("no letter")
        return super().push(token)

    def flush(self) -> str:
        if self._broken:
            raise ValueError("no letter")
        return ""
