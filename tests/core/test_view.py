from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import numpy as np

from sparsespec.core.view import RowView, View, build_view
from sparsespec.testing.checks.drawn_views import draw_row

_DTYPES = {"Ints": np.int64, "Bools": np.bool_, "Floats": np.float64}
SCALARS: dict[str, Any] = {
    "step": 3, "free_pages": 5, "host_free_pages": 0, "page_size": 4, "max_batch": 9, "lag": 1
}  # fmt: skip


def by_names(rows: list[RowView]) -> dict[str, Any]:
    """Build the columns one by one, each by its name."""
    types = {f.name: str(f.type) for f in fields(View)}
    return {name: np.array([getattr(r, name) for r in rows], _DTYPES[types[name]]) for name in RowView._fields}


def test_columns_are_the_rows_fields_by_name() -> None:
    dice = random.Random(0)
    for size in (0, 1, 9):
        rows = [draw_row(dice, seat, 2 * seat, 1)._replace(confidence=0.25) for seat in range(size)]
        view = build_view(rows, **SCALARS)
        for name, column in by_names(rows).items():
            got = getattr(view, name)
            assert got.dtype == column.dtype, name
            np.testing.assert_array_equal(got, column, err_msg=name)
        assert {name: getattr(view, name) for name in SCALARS} == SCALARS
        for i, row in enumerate(rows):
            assert view.row(i)._replace(accepted_mean=0.0) == row._replace(accepted_mean=0.0)


def test_a_row_has_the_views_columns_in_their_order() -> None:
    assert RowView._fields == tuple(f.name for f in fields(View) if str(f.type) in _DTYPES)
