"""The attention backends that run anywhere, in every float type; those for a GPU are checked there."""

from __future__ import annotations

import pytest

from sparsespec.testing import check_attention


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_reference_computes_attention(dtype: str) -> None:
    check_attention("reference", dtype=dtype, examples=20 if dtype == "float64" else 5, exact=True)
