"""Cases of `top_positions`."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.errors import BadOption
from sparsespec.testing.ops.op import Args, Bad, Compared, KernelOp, Sizes, exactly

KINDS = ("probabilities", "ties", "odd")


def scores_of(kind: str, shape: tuple[int, ...], seed: int, device: str = "cpu") -> Tensor:
    """Return scores.

    Args:
        kind: "probabilities"; "ties", a few values that tie often; "odd", numbers of all kinds, infinities and NaN of
            both signs among them; "rising"; or "zeros", of both signs.
        shape: Their shape.
        seed: Any integer.
        device: Where they are.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def whole(low: int, high: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator, device=device)

    if kind == "probabilities":
        return torch.softmax(3 * torch.randn(shape, generator=generator, device=device), -1)
    if kind == "rising":
        return torch.arange(float(shape[-1]), device=device).expand(shape).contiguous()
    if kind == "zeros":
        return torch.zeros(shape, device=device) * whole(-1, 2)
    if kind == "ties":
        return torch.tensor([0.0, -0.0, 0.25, 0.25, 1.0], device=device)[whole(0, 5)]
    odd = torch.tensor([torch.inf, -torch.inf, torch.nan, -torch.nan, -0.0, 0.0, 1e-40, -1e-40], device=device)
    pick = whole(0, 24)
    return torch.where(pick < 8, odd[pick % 8], torch.randn(shape, generator=generator, device=device))


def _make(
    seed: int,
    *,
    shape: tuple[int, int, int, int],
    k_max: int,
    kind: str = "probabilities",
    pool: int = 1,
    layered: bool = False,
    view: int | None = None,
    below: tuple[int, ...] | None = None,
    count: tuple[int, ...] | None = None,
    dtype: torch.dtype,
    device: str,
) -> Args:
    """Return scores [L, groups, R, S], in a wider buffer from column `view` on if not None, and how many are chosen."""
    layers, groups, rows, length = shape
    wide = shape if view is None else (layers, groups + 1, 2 * rows, -(-(length + 8) // 4) * 4)
    scores = scores_of(kind, wide, seed, device).to(dtype)
    generator = torch.Generator(device).manual_seed(seed + 1)
    most = torch.randint(0, length + 1, (rows,), generator=generator, device=device)
    if rows and seed % 3 == 0:
        most[-1] = length
    most = most if below is None else torch.tensor(below, device=device)
    share = torch.rand((layers, rows) if layered else (rows,), generator=generator, device=device)
    # the full budget now and then, so that nothing is left over
    chosen = ((share * 1.2).clamp(max=1) * most).round().to(torch.int64).clamp(max=k_max)
    return {
        "scores": scores if view is None else scores[:, 1:, ::2, view : view + length],
        "below": most,
        "count": chosen if count is None else torch.tensor(count, device=device),
        "k_max": k_max,
        "pool": pool,
    }


def _judge(op: KernelOp, given: Args, returned: Any, after: Args) -> list[Compared]:
    """Compare on a CPU in float64: sorting on a GPU need not order -0 and NaN alike."""
    want, _ = op.reference(given, floats=torch.float64)
    return [exactly("result", returned, want)]


def _sizes(dice: random.Random) -> Sizes:
    return {
        "shape": (*(dice.randint(1, 2) for _ in range(3)), dice.randint(0, 40)),
        "k_max": dice.randint(1, 44),
        "kind": dice.choice(KINDS),
        "pool": dice.choice((1, 3, 5)),
        "layered": dice.random() < 0.5,
        "view": dice.choice((None, None, None, None, 0, 3)),
    }


_TRITON = ("triton",)
TOP_POSITIONS = KernelOp(
    name="top_positions",
    folder="top_positions",
    make=_make,
    random_sizes=_sizes,
    fixed={"shape": (3, 2, 4, 1000), "k_max": 50, "kind": "ties"},
    real={
        f"{kind}, {length}, pool {pool}": {
            "shape": (2, 2, 4, length), "k_max": length // 2, "kind": kind, "pool": pool, "layered": True
        }
        for length in (511, 8192, 20001, 40000) for kind in KINDS for pool in (1, 5)
    },
    judge=_judge,
    bad={
        "type of scores": Bad("scores", lambda x: x.double(), "scores of float32", impls=_TRITON),
        "layout of scores": Bad("scores", lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
                                "scores must be contiguous", impls=_TRITON),
        "type of below": Bad("below", lambda x: x.int(), "below must be contiguous int64", impls=_TRITON),
        "shape of below": Bad("below", lambda x: x[:1], r"below must be \[4\]"),
        "shape of count": Bad("count", lambda x: x[:1], r"count must be \[4\] or \[3, 4\]"),
        "axes of scores": Bad("scores", lambda x: x[0], "scores must be "),
        **{f"pool of {n}": Bad("pool", lambda _, n=n: n, "odd number", BadOption) for n in (0, 2, -1)},
    },
    n_bytes=lambda a: a["scores"].numel() * a["scores"].element_size() + 8 * a["scores"][..., 0].numel() * a["k_max"],
)  # fmt: skip
