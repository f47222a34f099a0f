"""A cost model whose sums can be done in the head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sparsespec.core.cost import AttentionCost, CostModel, FitError
from sparsespec.core.curve import Curve, Line

PLAIN = CostModel(
    name="plain",
    device="a machine",
    versions={"torch": "2"},
    geometry={"n_layers": 2, "dtype": "float32"},
    weight_bytes=100,
    kv_token_bytes=8,
    read_bytes_per_second=4.0,
    layers=Curve(((1, 10.0), (10, 10.0), (20, 20.0))),
    products=Curve(((1, 8.0), (10, 8.0), (20, 16.0))),
    head=Curve(((1, 1.0), (11, 2.0))),
    attention=AttentionCost(3.0, 0.5, 0.75, 0.25),
    to_device=Line(1.0, 0.5),
    to_host=None,
    host_seconds=15.0,
    errors={"layers": FitError(0.2, 0.1, 3)},
)


def plain(**changes: Any) -> CostModel:
    return replace(PLAIN, **changes)
