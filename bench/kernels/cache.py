"""Cases of `bench.kernels` on the paged cache: `attention`, `append_kv`, `copy_pages`, and `top_positions`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.kernels import peers
from bench.kernels.case import OnGpu, Peers, Ready, by_bits, is_close, judged
from sparsespec.engine.profile.clock import Call
from sparsespec.kernels.attention.api import plan
from sparsespec.kernels.implementations import fastest
from sparsespec.testing.ops.attention import ATTENTION, Row
from sparsespec.testing.ops.cache import APPEND_KV, COPY_PAGES, MAX_POSITION
from sparsespec.testing.ops.choice import TOP_POSITIONS
from sparsespec.testing.ops.op import Args, KernelOp, Sizes

Kernel = Callable[..., Any]
"""An attention function: `(q, k_pages, v_pages, rows, *, scale, chosen)` to out, LSE and scores, as the op says."""
PAGE = 16


class Shape(NamedTuple):
    """A model's sizes."""

    name: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int


def verifying(length: int, queries: int, *, scored: bool = False) -> Row:
    """Return a row of `length` tokens, the last `queries` of them queries, that reads everything."""
    return Row(length - queries, queries, scored=scored)


def drafting(length: int, chosen: int) -> Row:
    """Return a row of one query that reads `chosen` of `length` tokens and its own."""
    return Row(length - 1, 1, sparse=True, tail=length - 1, count=chosen)


def attention_sizes(shape: Shape, rows: Sequence[Row], groups: int = 1) -> Sizes:
    """Return what the registry makes these rows of, without dead queries."""
    return {
        "rows": tuple(rows),
        "n_tokens": sum(row.live for row in rows),
        "longest": max(row.start + row.live for row in rows),
        "heads": (shape.kv_heads, shape.heads // shape.kv_heads),
        "head_dim": shape.head_dim,
        "block_size": PAGE,
        "groups": groups,
        "ends": (1, 1) if any(row.scored for row in rows) else (0, 0),
    }


def as_in_a_model(args: Args, _: int) -> Args:
    """Return arguments with a model's scale, and with a selection only where a row reads one."""
    has_sparse = bool(args["rows"].sparse.any())
    return {**args, "scale": args["q"].shape[2] ** -0.5, "chosen": args["chosen"] if has_sparse else None}


def planned(op: KernelOp, args: Args) -> Call:
    """Return a layer's call of a step that is planned beforehand, as FlashInfer is, with the sizes of an engine."""
    q, k, rows = args["q"], args["k_pages"], args["rows"]
    widest = int(rows.live.max())
    sizes = {"n_tokens": len(q), "n_heads": q.shape[1], "scale": args["scale"], "decode_queries": widest}
    step = plan(rows, k, impl=fastest(q), **sizes)
    scores = None if step.scores_shape is None else torch.zeros(step.scores_shape, device=q.device)
    return partial(step.run, q, k, args["v_pages"], chosen=args["chosen"], scores=scores)


@dataclass(frozen=True)
class Attention:
    """Rows of an attention case; a `kernel` is timed in place of the project's, which is then one of its peers."""

    shape: Shape
    rows: tuple[Row, ...]
    groups: int = 1
    kernel: Kernel | None = None

    def __call__(self) -> Ready:
        """Allocate."""
        how: dict[str, Any] = {"call": planned, "peers": peers.attention}
        if self.kernel is not None:
            how = {"call": partial(_given, self.kernel), "peers": _beside}
        sizes = attention_sizes(self.shape, self.rows, self.groups)
        return OnGpu(ATTENTION, sizes, change=as_in_a_model, agrees=_same_out, **how)()


def _given(kernel: Kernel, op: KernelOp, args: Args) -> Call:
    return op.call(partial(partial, kernel), args)


def _beside(sets: Sequence[Args]) -> Peers:
    return {"sparsespec": lambda: [planned(ATTENTION, args) for args in sets], **peers.attention(sets)}


def _same_out(got: Any, ours: Any, args: Args) -> bool:
    """Compare outputs alone: logarithms have other bases elsewhere."""
    return is_close(got[0] if isinstance(got, tuple) else got, ours[0], args)


def top_positions(shape: Shape, rows: int, groups: int, length: int = 8192, k: int = 410, pool: int = 1) -> OnGpu:
    """Return lists to choose `k` of `length` positions from, for all layers."""
    sizes = {
        "shape": (shape.layers, groups, rows, length),
        "k_max": k,
        "pool": pool,
        "below": (length,) * rows,
        "count": (k,) * rows,
    }
    found = peers.top_k if pool == 1 else lambda sets: {}
    return OnGpu(TOP_POSITIONS, sizes, torch.float32, judged, peers=found, agrees=_same_values)


def _same_values(got: tuple[Tensor, Tensor], ours: Tensor, args: Args) -> bool:
    """Compare by value, in no order: among equal scores a peer may choose others."""
    values = args["scores"].gather(-1, ours).flatten(0, 2)
    return torch.equal(got[0].sort(-1).values, values.sort(-1).values)


def append_sizes(shape: Shape, tokens: int) -> Sizes:
    """Return what the registry makes `tokens` live tokens of, each at a place of its own behind page 0."""
    generator = torch.Generator().manual_seed(0)
    slots = PAGE + torch.randperm(2 * tokens, generator=generator)[:tokens]
    return {
        "n": tokens,
        "heads": (shape.heads, shape.kv_heads),
        "head_dim": shape.head_dim,
        "block_size": PAGE,
        "slots": tuple(slots.tolist()),
        "positions": tuple(torch.randint(MAX_POSITION, (tokens,), generator=generator).tolist()),
    }


def append_kv(shape: Shape, tokens: int) -> OnGpu:
    """Return tokens to norm, rotate and write."""
    return OnGpu(APPEND_KV, append_sizes(shape, tokens))


def copy_sizes(shape: Shape, pages: int) -> Sizes:
    """Return what the registry makes pages of all layers of, each to be copied once."""
    page = (shape.layers, PAGE, shape.kv_heads, shape.head_dim)
    return {"shape": page, "pages": (pages, pages), "n": pages, "count": pages}


def each_once(args: Args, seed: int) -> Args:
    """Return arguments in which no page is read twice, or written twice."""
    generator = torch.Generator().manual_seed(seed)
    n_pages = args["source"].shape[1], args["target"].shape[1]
    order = [torch.randperm(n, generator=generator)[: len(args["pairs"])] for n in n_pages]
    return {**args, "pairs": torch.stack(order, 1).to(args["pairs"].device)}


def copy_pages(shape: Shape, pages: int) -> OnGpu:
    """Return pages to copy from one pool to another, in random order."""
    return OnGpu(COPY_PAGES, copy_sizes(shape, pages), check=by_bits, change=each_once)
