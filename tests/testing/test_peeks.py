"""What counts as a look at a value from the host, and what does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sparsespec.core.errors import ContractBroken
from sparsespec.testing.checks.peeks import without_peeks

X = torch.arange(4)
M = torch.tensor([False, True, False, True])

PEEKS: dict[str, Callable[[], object]] = {
    "item": lambda: X[0].item(),
    "tolist": lambda: X.tolist(),
    "numpy": lambda: X.numpy(),
    "truth": lambda: bool(M.any()),
    "if": lambda: 1 if M.any() else 0,
    "int": lambda: int(X.max()),
    "float": lambda: float(X[0]),
    "range": lambda: range(X[1]),
    "a size": lambda: torch.arange(X[2]),
    "a slice": lambda: X[: X[1]],
    "a mask": lambda: X[M],
    "a mask that is written": lambda: X.clone().__setitem__(M, 0),
    "nonzero": lambda: X.nonzero(),
    "where without values": lambda: torch.where(M),
    "masked_select": lambda: X.masked_select(M),
    "unique": lambda: X.unique(),
    "bincount": lambda: X.bincount(),
    "repeat_interleave": lambda: torch.repeat_interleave(X),
    "equal": lambda: torch.equal(X, X),
}
FINE: dict[str, Callable[[], object]] = {
    "where": lambda: torch.where(M, X, 0),
    "repeat_interleave of a known size": lambda: torch.repeat_interleave(X, output_size=6),
    "gather": lambda: X.gather(0, X),
    "indices": lambda: X[X],
    "a slice by the host": lambda: X[None, :2].clamp(max=3),
    "from the host": lambda: torch.tensor([1, 2]),
    "a shape": lambda: X.shape[0] + len(X),
    "scatter": lambda: X.clone().scatter_(0, X, X),
}


@pytest.mark.parametrize("name", PEEKS)
def test_a_peek_is_refused(name: str) -> None:
    with pytest.raises(ContractBroken, match="the part looks at a tensor's value"), without_peeks("the part"):
        PEEKS[name]()


@pytest.mark.parametrize("name", FINE)
def test_what_needs_no_value_passes(name: str) -> None:
    with without_peeks("the part"):
        FINE[name]()


def test_outside_everything_passes() -> None:
    with without_peeks("the part"):
        pass
    for peek in PEEKS.values():
        peek()
