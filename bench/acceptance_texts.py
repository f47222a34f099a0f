"""Real text for acceptance runs, cut so that what is tuned on is never judged on.

The pieces of the file (solved problems, or paragraphs) are shuffled once, by a seed of their own that no option
changes, and dealt out: a text is as many whole pieces as fill the longest context, and no piece is in two texts. The
first `TUNING` texts are for choosing options of selectors, all others for judging them.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

from bench.engine_models import pieces_of
from sparsespec.core.errors import BadOption
from sparsespec.models.tokenizer import Tokenizer

TUNING = 4
SPLITS = ("evaluation", "tuning")
ORDER = 7
"""Seed of the order of pieces."""
LONGEST = 8192
"""Tokens of a text; contexts are its beginnings."""


class Text(NamedTuple):
    """One text: its number, the pieces of the file that it consists of, and its tokens."""

    number: int
    pieces: tuple[int, ...]
    tokens: tuple[int, ...]


def texts(tokenizer: Tokenizer, path: Path | None, split: str, n: int) -> list[Text]:
    """Return the first `n` texts of a split; raises `BadOption` if the file has fewer."""
    pieces = pieces_of(path)
    order = list(range(len(pieces)))
    random.Random(ORDER).shuffle(order)
    found: list[Text] = []
    first, last = (0, min(n, TUNING)) if split == "tuning" else (TUNING, TUNING + n)
    used: list[int] = []
    tokens: list[int] = []
    for piece in order:
        used.append(piece)
        tokens += tokenizer.encode(pieces[piece])
        if len(tokens) >= LONGEST:
            found.append(Text(len(found), tuple(used), tuple(tokens[:LONGEST])))
            used, tokens = [], []
        if len(found) == last:
            return found[first:]
    has = f"{min(TUNING, len(found))} texts for tuning and {max(0, len(found) - TUNING)} for evaluation"
    raise BadOption(f"{path or 'the text at hand'} is enough for {has}, of {LONGEST} tokens each, got --texts {n}")
