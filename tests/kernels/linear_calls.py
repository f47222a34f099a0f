"""Products for tests of the Triton `linear`, and what must hold for each.

In the interpreter a tile's product is numpy's, whose bits depend on where in a tile a row stands. So bits are compared
on numbers whose sums are exact within a step of the inner width and rounded between steps: what is left to differ is
the kernel's own order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsespec.kernels.linear import api, reference
from sparsespec.kernels.linear import triton_tiles as tiling
from sparsespec.testing.tolerance import allowed, error
from tests.kernels.launched import DEVICE, launched, room

ours: Any = room("linear")

SETTINGS = [
    tiling.Tiles(64, 64, 4, 2),
    tiling.Tiles(16, 64, 4, 3),
    tiling.Tiles(64, 128, 4, 3),
    tiling.Tiles(128, 64, 8, 2, group=1),
    tiling.Tiles(128, 128, 8, 3),
    tiling.Tiles(64, 256, 8, 2, group=2),
]


def draw(seed: int, m: int, n: int, k: int, dtype: torch.dtype, *, bias: bool = False, apart: int = 0) -> list[Any]:
    """Return x, weight and bias or None; rows are `apart` NaN apart, and those of the weight twice as far."""
    generator = torch.Generator(DEVICE).manual_seed(seed)

    def real(rows: int, gap: int) -> Tensor:
        x = torch.full((rows, k + gap), torch.nan, dtype=dtype, device=DEVICE)[:, :k]
        return x.copy_(torch.randn(rows, k, generator=generator, device=DEVICE))

    return [
        real(m, apart),
        real(n, 2 * apart),
        torch.randn(n, generator=generator, device=DEVICE).to(dtype) if bias else None,
    ]


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


def check(given: list[Any], module: Any = None, tiles: Any = None) -> bool:
    """Say whether the product is right, by a mutant if there is a module, by some tiles if there are any."""
    kept = [None if one is None else one.clone() for one in given]
    if tiles is not None:
        got = (module or ours).product(*given, tiles)
    elif module:
        got = module.linear(*given)
    else:
        with launched(ours, "_multiply", api):
            got = api.linear(*given, impl="triton")
    assert all(one is None or torch.equal(one, before) for one, before in zip(given, kept, strict=True))
    x, weight, _ = given
    assert got.shape == (len(x), len(weight)) and got.dtype == x.dtype and got.is_contiguous()
    want = reference.linear(*(None if one is None else one.double() for one in given))
    measured = error(reference.linear(*given), want)
    return bool(got.isfinite().all()) and error(got, want) <= allowed(x.dtype, measured)


def alone_as_among(given: list[Any], rows: list[tuple[int, int]], module: Any = ours) -> bool:
    """Say whether each of the spans (first, end) of rows gets the bits that it gets in the whole product.

    Tiles are those of half types, whatever the type, because those follow the number of rows.
    """
    x, weight, bias = given

    def run(part: Tensor) -> Tensor:
        return module.product(part, weight, bias, tiling.tiles_for(len(part), len(weight), 2))

    whole = run(x)
    return all(torch.equal(run(x[first:end]), whole[first:end]) for first, end in rows)
