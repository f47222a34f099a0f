"""Products for tests of the Triton `linear` whose bits can be compared.

In the interpreter a tile's product is numpy's, whose bits depend on where in a tile a row is. So bits are compared on
numbers whose sums are exact within a step of the inner width and rounded between steps: what is left to differ is the
kernel's own order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsespec.kernels.linear import triton_tiles as tiling
from sparsespec.testing.op_cases import kernel_ops
from tests.kernels.launched import DEVICE, room

ours: Any = room("linear")

SETTINGS = [
    tiling.Tiles(64, 64, 4, 2),
    tiling.Tiles(16, 64, 4, 3),
    tiling.Tiles(64, 128, 4, 3),
    tiling.Tiles(128, 64, 8, 2, group=1),
    tiling.Tiles(128, 128, 8, 3),
    tiling.Tiles(64, 256, 8, 2, group=2),
]


def product_of(seed: int, m: int, n: int, k: int, dtype: torch.dtype, *, bias: bool = False) -> list[Any]:
    """Return random x, weight and bias or None."""
    sizes = {"m": m, "n": n, "k": k, "bias": bias}
    return list(kernel_ops()["linear"].make(seed, dtype=dtype, device=DEVICE, **sizes).values())


def exact_in_steps(seed: int, m: int, n: int, k: int, dtype: torch.dtype) -> list[Any]:
    """Return x, weight and bias whose sums are exact within a step, and depend on the order of steps."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    step = tiling.BLOCK_K[dtype.itemsize]
    # small and large steps by turns, of which a sum can hold the first bits of the small ones, not the last
    power = torch.randint(-22, -17, (-(-k // step),), generator=generator, device=DEVICE)
    power[1::2] += 23
    power = power.repeat_interleave(step)[:k]
    x, weight = (torch.randint(-3, 4, (rows, k), generator=generator, device=DEVICE) for rows in (m, n))
    bias = torch.randn(n, generator=generator, device=DEVICE).to(dtype)
    return [(x * 2.0**power).to(dtype), weight.to(dtype), bias]


def right(given: list[Any], tiles: Any) -> bool:
    """Say whether the product is right by some tiles."""
    op = kernel_ops()["linear"]
    args = dict(zip(("x", "weight", "bias"), given, strict=True))
    return op.wrong(lambda x, weight, bias: ours.product(x, weight, bias, tiles), args) == []


def alone_as_among(given: list[Any], rows: list[tuple[int, int]], module: Any = ours) -> bool:
    """Say whether each of the spans (first, end) of rows gets the bits that it gets in the whole product.

    Tiles are those of half types, whatever the type, because those follow the number of rows.
    """
    x, weight, bias = given

    def run(part: Tensor) -> Tensor:
        return module.product(part, weight, bias, tiling.tiles_for(len(part), len(weight), 2))

    whole = run(x)
    return all(torch.equal(run(x[first:end]), whole[first:end]) for first, end in rows)
