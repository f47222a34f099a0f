"""Where an output leaves the one that it should equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHOWN = 4
"""Tokens of either output that a sentence shows."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first token in which two outputs differ, and a sentence that shows it."""

    index: int
    sentence: str


def first_divergence(name: str, tokens: Sequence[int], dense: Sequence[int]) -> Divergence | None:
    """Return where the output `name` leaves that of dense decoding; None if they are equal.

    Where one is the beginning of the other, that is behind the last token of the shorter.
    """
    pairs = enumerate(zip(tokens, dense, strict=False))
    index = next((i for i, (ours, theirs) in pairs if ours != theirs), min(len(tokens), len(dense)))
    if index == len(tokens) == len(dense):
        return None
    return Divergence(
        index,
        f"{name} parts from dense decoding at output token {index}: {_shown(tokens, index)} instead of "
        f"{_shown(dense, index)} (lengths {len(tokens)} and {len(dense)})",
    )


def _shown(tokens: Sequence[int], index: int) -> str:
    return str(list(tokens[index : index + SHOWN])) if index < len(tokens) else "the end"
