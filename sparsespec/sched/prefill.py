"""Chunked prefill, shared by the schedulers: how a step's prefill tokens are spread over rows."""

from __future__ import annotations

from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Row, prefill_row
from sparsespec.core.view import View


def check_chunk(chunk: int) -> None:
    """Raise `BadOption` unless `chunk` is a number of tokens."""
    if chunk < 1:
        raise BadOption(f"chunk is the number of prompt tokens filled per step, 1 or more, got {chunk}")


def prefill_rows(view: View, chunk: int) -> list[Row]:
    """Return PREFILL rows, oldest first, of `chunk` tokens together at most."""
    rows: list[Row] = []
    for i in view.to_prefill.nonzero()[0].tolist():
        if not chunk:
            break
        rows.append(prefill_row(view, i, chunk))
        chunk -= rows[-1].n_query
    return rows
