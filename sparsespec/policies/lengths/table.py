"""Length `table`: how far a round goes by how many requests run and how long this one's context is.

Both change slowly and decide most of what a round costs, so a small table made offline (by a sweep, or from a cost
model) does without measuring anything while it serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption, show
from sparsespec.core.plan import Lengths
from sparsespec.core.result import RowResult
from sparsespec.core.view import RowView

Grid = tuple[tuple[int, ...], ...]

_BATCH, _CONTEXT = (8, 32, 128, 512), (2048, 8192, 32768, 131072)
# what `cost` finds best for Qwen3-8B on an H100, for batches of 4, 16, 64, 256 and contexts of 1k, 4k, 16k, 64k tokens,
# if drafts stand with a chance of 0.9 each and read 5 % of the context
_DRAFT = ((0, 1, 2, 4), (1, 2, 4, 8), (2, 4, 8, 11), (2, 6, 9, 12))


class Table:
    """Looks up the row of the smallest batch, and the column of the smallest context, that hold what there is.

    Args:
        batch: The most requests of each row of the table, rising; the last row must cover the engine's `max_batch`.
        context: The most tokens of each column, rising; the last column must cover `max_context`.
        draft: Tokens drafted under sparse attention, a row of numbers for each batch.
        guess: Guesses that a forward takes, likewise; without it none.
    """

    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()

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
        """Check that the table covers the engine; raises `BadOption`."""
        for name, most, bounds in (
            ("max_batch", geometry.n_seats, self.batch),
            ("max_context", geometry.max_context, self.context),
        ):
            if most > bounds[-1]:
                raise BadOption(
                    f"length 'table' ends at a {name.removeprefix('max_')} of {bounds[-1]} and the engine has "
                    f"{name}={most}; add to the table, or lower {name}"
                )

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def propose(self, row: RowView) -> Lengths:
        """Return the cell of the requests that are seated and of this row's context."""
        i = _first(self.batch, row.running)
        j = _first(self.context, row.n_hi)
        return Lengths(self.draft[i][j], self.guess[i][j] if self.guess else 0)

    def observe(self, result: RowResult) -> None:
        """Learn nothing."""


def _first(bounds: Sequence[int], size: int) -> int:
    """Return the first place whose bound is not below `size`."""
    return next(i for i, bound in enumerate(bounds) if size <= bound)


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
