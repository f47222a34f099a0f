"""Length `table`: how far a round goes by how many requests run and how long this one's context is.

Both change slowly and decide most of what a round costs, so a small table made offline (by a sweep, or from a cost
model) does without measuring anything while it serves.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import numpy as np

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption, show
from sparsespec.core.plan import Lengths
from sparsespec.core.result import RowResults
from sparsespec.core.view import Ints, View

Grid = tuple[tuple[int, ...], ...]

_BATCH, _CONTEXT = (8, 32, 128, 512), (2048, 8192, 32768, 131072)
# what `cost` finds best for Qwen3-8B on an H100, for batches of 4, 16, 64, 256 and contexts of 1k, 4k, 16k, 64k tokens,
# if drafts are accepted with a chance of 0.9 each and read 5 % of the context
_DRAFT = ((0, 1, 2, 4), (1, 2, 4, 8), (2, 4, 8, 11), (2, 6, 9, 12))


class Table:
    """Looks up the row of the smallest batch, and the column of the smallest context, that hold what there is.

    Args:
        batch: The most requests of each row of the table, rising; the last row must cover the engine's `max_num_seqs`.
        context: The most tokens of each column, rising; the last column must cover `max_model_len`.
        draft: Tokens drafted under sparse attention, a row of numbers for each batch.
        guess: Guesses that a forward takes, likewise; without it none.
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

    def __init__(
        self,
        batch: Sequence[int] = _BATCH,
        context: Sequence[int] = _CONTEXT,
        draft: Sequence[Sequence[int]] = _DRAFT,
        guess: Sequence[Sequence[int]] = (),
    ) -> None:
        self.batch, self.context = _rising("batch", batch), _rising("context", context)
        self.draft = _grid("draft", draft, len(self.batch), len(self.context))
        self.guess = _grid("guess", guess, len(self.batch), len(self.context)) if guess else ()

    @property
    def max_draft(self) -> int:
        """Return the largest number of `draft`."""
        return max(map(max, self.draft))

    @property
    def max_guess(self) -> int:
        """Return the largest number of `guess`."""
        return max(map(max, self.guess), default=0)

    def bind(self, geometry: Geometry) -> None:
        """Check that the table covers the engine, or raise `BadOption`; make arrays of it."""
        for side, bounds, name, most in (
            ("batch", self.batch, "max_num_seqs", geometry.n_seats),
            ("context", self.context, "max_model_len", geometry.max_model_len),
        ):
            if most > bounds[-1]:
                raise BadOption(
                    f"length 'table' ends at a {side} of {bounds[-1]} and the engine has "
                    f"{name}={most}; add to the table, or lower {name}"
                )
        self._context = np.array(self.context)
        self._draft = np.array(self.draft)
        self._guess = np.array(self.guess) if self.guess else np.zeros_like(self._draft)

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def propose(self, view: View, index: Ints) -> Lengths:
        """Return the cells of the requests that are seated and of each row's context."""
        i = bisect_left(self.batch, view.num_running)
        j = self._context.searchsorted(view.n_hi[index])
        return Lengths(self._draft[i, j], self._guess[i, j])

    def observe(self, results: RowResults) -> None:
        """Learn nothing."""


def _rising(name: str, bounds: Sequence[int]) -> tuple[int, ...]:
    found = _whole(name, bounds, 1)
    if not found or any(a >= b for a, b in pairwise(found)):
        raise BadOption(f"{name} of a table is a rising list of whole numbers above 0, got {show(bounds)}")
    return found


def _grid(name: str, rows: Sequence[Sequence[int]], n_rows: int, n_columns: int) -> Grid:
    shape = f"{n_rows} rows, one a batch, of {n_columns} numbers, one a context"
    if not isinstance(rows, list | tuple) or len(rows) != n_rows:
        raise BadOption(f"{name} of a table has {shape}, got {show(rows)}")
    found = tuple(_whole(name, row, 0) for row in rows)
    if any(len(row) != n_columns for row in found):
        raise BadOption(f"{name} of a table has {shape}, got {show(rows)}")
    return found


def _whole(name: str, numbers: object, least: int) -> tuple[int, ...]:
    """Return a list of whole numbers as a tuple."""
    found = tuple(cast("Sequence[int]", numbers)) if isinstance(numbers, list | tuple) else None
    if found is None or not all(type(n) is int and n >= least for n in found):
        raise BadOption(
            f"{name} of a table has lists of whole numbers, {least} or more, got {show(cast('object', numbers))}"
        )
    return found
