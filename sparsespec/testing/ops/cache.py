"""Cases of the ops on the paged cache: `append_kv`, `copy_pages`."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sparsespec.testing.ops.bundles import copied
from sparsespec.testing.ops.op import Args, Bad, Compared, KernelOp, Sizes, by_largest, exactly, same_bits, strided

MAX_POSITION = 32
SLACK = 2.0
"""How much larger than the reference's an error may be: the order of a sum is free, and a rounding may fall badly."""


def _make_append(
    seed: int,
    *,
    n: int,
    heads: tuple[int, int],
    head_dim: int,
    normed: bool = True,
    block_size: int = 4,
    slots: tuple[int, ...] | None = None,
    positions: tuple[int, ...] | None = None,
    dtype: torch.dtype,
    device: str,
) -> Args:
    """Return arguments of `append_kv`; q, k and v are views of one projection, pages hold NaN, some tokens are dead."""
    generator = torch.Generator(device).manual_seed(seed)
    (n_q, n_kv), pages = heads, 2 + 2 * n // block_size + 1

    def real(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    parts = (n_q * head_dim, n_kv * head_dim, n_kv * head_dim)
    q, k, v = (x.unflatten(-1, (-1, head_dim)) for x in real(n, sum(parts)).split(parts, -1))
    angle = 6 * torch.rand(MAX_POSITION, head_dim // 2, generator=generator, device=device)
    dead = torch.rand(n, generator=generator, device=device) < 0.2
    free = block_size + torch.randperm((pages - 1) * block_size, generator=generator, device=device)[:n]
    at = torch.randint(0, MAX_POSITION, (n,), generator=generator, device=device)
    pool = torch.full((2, pages, block_size, n_kv, head_dim), torch.nan, dtype=dtype, device=device)
    return {
        "q": q,
        "k": k,
        "v": v,
        "k_pages": pool[0],
        "v_pages": pool[1],
        "positions": torch.where(dead, 0, at) if positions is None else torch.tensor(positions, device=device),
        "slots": torch.where(dead, 0, free) if slots is None else torch.tensor(slots, device=device),
        "cos": angle.cos().to(dtype),
        "sin": angle.sin().to(dtype),
        "q_norm": real(head_dim) if normed else None,
        "k_norm": real(head_dim) if normed else None,
        "eps": 1e-6,
    }


@cache
def _append_limit(dtype: torch.dtype) -> float:
    """Return the error allowed in `dtype`: `SLACK` times the reference's own, measured on one fixed problem."""
    args = _make_append(0, n=64, heads=(8, 4), head_dim=64, dtype=dtype, device="cpu")
    q, low = APPEND_KV.reference(args)
    want, exact = APPEND_KV.reference(args, floats=torch.float64)
    pairs = ((q, want), (low["k_pages"][1:], exact["k_pages"][1:]))
    measured = max(float(by_largest("", got, true, 0.0, dtype).off.max()) for got, true in pairs)
    # a number can always be half a unit in the last place away from its truth
    return SLACK * max(measured, torch.finfo(dtype).eps / 2)


def _judge_append(op: KernelOp, given: Args, returned: Any, after: Args) -> list[Compared]:
    """Compare all but page 0, where dead tokens collide."""
    dtype = given["q"].dtype
    want, exact = op.reference(given, floats=torch.float64)
    _, plain = op.reference(given)
    return [
        by_largest("result", returned, want, _append_limit(dtype), dtype),
        by_largest("k_pages", after["k_pages"][1:], exact["k_pages"][1:], _append_limit(dtype), dtype),
        exactly("v_pages", after["v_pages"][1:], plain["v_pages"][1:]),
    ]


def _append_sizes(dice: random.Random) -> Sizes:
    return {
        "n": dice.choice((0, 1, 2, 3, 4)),
        "heads": dice.choice(((1, 1), (4, 2), (9, 1), (9, 3))),
        "head_dim": dice.choice((2, 6, 8, 64)),
        "normed": dice.random() < 0.5,
        "block_size": dice.choice((1, 3, 16)),
    }


_BAD_APPEND = {
    "type of q": Bad("q", lambda x: x.double(), "k must be torch.float64"),
    "type of k": Bad("k", lambda x: x.half(), "k must be torch.float32"),
    "shape of v": Bad("v", lambda x: x[:, :, :4], "k and v must both be"),
    "layout of v": Bad("v", lambda x: x.transpose(0, 2).contiguous().transpose(0, 2),
                       "v must be contiguous along the head", impls=("triton",)),
    "shape of k_pages": Bad("k_pages", lambda x: x[:, :, :, :4], "k_pages must be"),
    "axes of q": Bad("q", lambda x: x[0], r"q must be \[N, Hq, D\]"),
    "axes of k": Bad("k", lambda x: x[0], "k and v must both be"),
    "axes of k_pages": Bad("k_pages", lambda x: x[0], "k_pages must be"),
    "type of v_pages": Bad("v_pages", lambda x: x.half(), "v_pages must be torch.float32"),
    "device of v_pages": Bad("v_pages", lambda x: x.to("meta"), "v_pages must be torch.float32 on .* got torch.float"),
    "type of slots": Bad("slots", lambda x: x.int(), "slots must be int64"),
    "strides of slots": Bad("slots", strided, "slots must be contiguous", impls=("triton",)),
    "device of slots": Bad("slots", lambda x: x.to("meta"), "slots must be int64 on"),
    "number of positions": Bad("positions", lambda x: x[:1], "positions must be"),
    "shape of sin": Bad("sin", lambda x: x[:, :1], "sin must be"),
    "device of cos": Bad("cos", lambda x: x.to("meta"), "cos must be floats on"),
    "strides of cos": Bad("cos", strided, "cos and sin must have rows alike", impls=("triton",)),
    "type of q_norm": Bad("q_norm", lambda x: x.int(), "q_norm must be floats"),
    "strides of q_norm": Bad("q_norm", strided, "q_norm must be contiguous", impls=("triton",)),
    "one norm": Bad("k_norm", lambda _: None, "both be given or both be None"),
    "shape of k_norm": Bad("k_norm", lambda x: x[:4], "k_norm must be"),
    "float64": Bad("", lambda a: copied(a, floats=torch.float64), "takes q of float32", impls=("triton",)),
    "slot beyond the pool": Bad("slots", lambda x: x * 0 + 10**6, "slots must be in 0 … .* got 1000000",
                                options={"checked": True}),
    "negative slot": Bad("slots", lambda x: x * 0 - 1, "slots must be in 0 … .* got -1", options={"checked": True}),
    "position beyond the tables": Bad("positions", lambda x: x * 0 + MAX_POSITION,
                                      f"positions must be in 0 … {MAX_POSITION - 1}, got {MAX_POSITION}",
                                      options={"checked": True}),
}  # fmt: skip
APPEND_KV = KernelOp(
    name="append_kv",
    folder="append_kv",
    make=_make_append,
    random_sizes=_append_sizes,
    fixed={"n": 9, "heads": (4, 2), "head_dim": 64},
    real={
        f"{heads} heads of {head_dim}{', normed' * normed}": {
            "n": 300, "heads": heads, "head_dim": head_dim, "normed": normed, "block_size": 16
        }
        for heads, head_dim in (((32, 8), 128), ((9, 3), 64), ((16, 1), 256)) for normed in (True, False)
    },
    judge=_judge_append,
    mutates=("k_pages", "v_pages"),
    bad=_BAD_APPEND,
    # read and written: q, k and v
    n_bytes=lambda args: 2 * sum(args[name].numel() * args[name].element_size() for name in ("q", "k", "v")),
)  # fmt: skip


def _make_copy(
    seed: int,
    *,
    shape: tuple[int, int, int, int],
    count: int | None = None,
    pages: tuple[int, int] = (7, 5),
    n: int = 4,
    dtype: torch.dtype,
    device: str,
) -> Args:
    """Return two pools [L, pages, P, Hkv, D] of numbers of all kinds, NaN with a sign and payload among them."""
    dice = torch.Generator().manual_seed(seed)
    layers, *page = shape
    n_bytes = layers * page[0] * page[1] * page[2] * dtype.itemsize

    def pool(pages: int) -> Tensor:
        generator = torch.Generator(device).manual_seed(seed + pages)
        size = (n_bytes * pages,)
        raw = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator, device=device)
        return raw.view(dtype).view(layers, pages, *page)

    read, written = pages
    pairs = torch.stack((torch.randint(0, read, (n,), generator=dice), torch.randperm(written, generator=dice)[:n]), 1)
    return {
        "source": pool(read),
        "target": pool(written),
        "pairs": pairs.to(device),
        "count": torch.tensor(seed % (n + 1) if count is None else count, device=device),
    }


def _judge_copy(op: KernelOp, given: Args, returned: Any, after: Args) -> list[Compared]:
    """Compare with a loop over pages: the reference is one line of indexing."""
    want = copied(given["target"])
    for page, place in given["pairs"][: int(given["count"])].tolist():
        want[:, place] = given["source"][:, page]
    return [same_bits("target", after["target"], want)]


def _pairs(*pairs: tuple[int, int]) -> Any:
    """Return a change of arguments to these pairs, all of which count."""

    def change(args: Args) -> Args:
        device = args["pairs"].device
        return {**args, "pairs": torch.tensor(pairs, device=device), "count": torch.tensor(len(pairs), device=device)}

    return change


def _within_a_pool(args: Args) -> Args:
    return {**_pairs((0, 1), (1, 2))(args), "source": args["target"]}


_CHECKED = {"checked": True}
_BAD_COPY = {
    "shape of source": Bad("source", lambda x: x[0], "source must be"),
    "shape of target": Bad("target", lambda x: x[:, :, :1], r"target must be \[3, pages, 4, 2, 8\]"),
    "type of target": Bad("target", lambda x: x.half(), "target must be torch.float32"),
    "device of target": Bad("target", lambda x: x.to("meta"), "target must be torch.float32 on"),
    "layout of target": Bad("target", lambda x: x.transpose(2, 4).contiguous().transpose(2, 4), "contiguous pages",
                            impls=("triton",)),
    "shape of pairs": Bad("pairs", lambda x: x[:, :1], r"pairs must be \[n, 2\]"),
    "type of pairs": Bad("pairs", lambda x: x.int(), "pairs must be int64"),
    "strides of pairs": Bad("pairs", strided, "pairs must be contiguous", impls=("triton",)),
    "number of counts": Bad("count", lambda x: x.expand(2), "count must be a single number"),
    "type of count": Bad("count", lambda x: x.int(), "count must be int64"),
    "type of both": Bad("source", lambda x: x.to(torch.complex128), "target must be torch.complex128"),
    "page beyond the source": Bad("", _pairs((9, 1)), r"pairs\[:, 0\] must be in 0 … 6, got 9", options=_CHECKED),
    "negative place": Bad("", _pairs((1, -1)), r"pairs\[:, 1\] must be in 0 … 4, got -1", options=_CHECKED),
    "count beyond the pairs": Bad("count", lambda x: x * 0 + 9, "count must be in 0 … 4, got 9", options=_CHECKED),
    "a place twice": Bad("", _pairs((0, 1), (2, 1)), "must not name a page twice", options=_CHECKED),
    "a page read and written": Bad("", _within_a_pool, "must not read a page of the same pool that they write",
                                   options=_CHECKED),
}  # fmt: skip
COPY_PAGES = KernelOp(
    name="copy_pages",
    folder="copy_pages",
    make=_make_copy,
    random_sizes=lambda dice: {
        "shape": tuple(dice.randint(1, n) for n in (3, 4, 2, 5)),
        "n": dice.choice((0, 4, 4, 4)),
    },
    fixed={"shape": (3, 4, 2, 8)},
    real={"qwen3-8b": {"shape": (36, 16, 8, 128), "count": 4}, "3 layers of 2 heads": {"shape": (3, 16, 2, 64)}},
    judge=_judge_copy,
    dtypes=(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8),
    mutates=("target",),
    bad=_BAD_COPY,
    n_bytes=lambda args: 2 * int(args["count"]) * args["source"][:, :1].numel() * args["source"].element_size(),
)  # fmt: skip
