"""FlashInfer, and cuBLAS, on the arguments of cases, planned before they are timed; absent where not installed.

Stock FlashInfer reads a selection per KV head if the cache is viewed as one page per (token, KV head): rows of G query
heads and one KV head. A selection shared by the layer needs a page size of 1.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.kernels.case import Peers
from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.engine.profile.clock import Call
from sparsespec.testing.ops.op import Args

WORKSPACE = 256 * 2**20
MODULE = "flashinfer"


def cublas(sets: Sequence[Args]) -> Peers:
    """Return torch's product on the same rows and weights."""
    return {"cuBLAS": lambda: [partial(F.linear, args["x"], args["weight"]) for args in sets]}


def where_installed(peers: Callable[[Sequence[Args]], Peers]) -> Callable[[Sequence[Args]], Peers]:
    """Return `peers`, which has none where FlashInfer is not installed."""

    @wraps(peers)
    def found(sets: Sequence[Args]) -> Peers:
        return peers(sets) if importlib.util.find_spec(MODULE) else {}

    return found


@where_installed
def top_k(sets: Sequence[Args]) -> Peers:
    """Return `top_k` on the same lists: values and indices, in no order."""
    flat = [(args["scores"].flatten(0, 2), args["k_max"]) for args in sets]
    return {"top_k": lambda: [partial(_flashinfer().top_k, x, k) for x, k in flat]}


@where_installed
def add_rms_norm(sets: Sequence[Args]) -> Peers:
    """Return `fused_add_rmsnorm` on copies of the same rows and residuals, both of which it overwrites."""

    def call(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        _flashinfer().fused_add_rmsnorm(x, residual, weight, eps)
        return x, residual

    def build() -> list[Call]:
        copies = [(args["x"].clone(), args["residual"].clone(), args["weight"], args["eps"]) for args in sets]
        return [partial(call, *one) for one in copies]

    return {"fused_add_rmsnorm": build}


@where_installed
def silu_mul(sets: Sequence[Args]) -> Peers:
    """Return `silu_and_mul` on the same products."""
    return {"silu_and_mul": lambda: [partial(_flashinfer().silu_and_mul, args["gate_up"]) for args in sets]}


@where_installed
def sampled(sets: Sequence[Args]) -> Peers:
    """Return sampling from the same distributions, with other noise.

    It takes float32 and knows no temperature: it is given logits that both were done to before the clock runs. Seeds
    are tensors, or it could not be captured.
    """
    temperature, top_k, top_p = (sets[0][name][0].item() for name in ("temperature", "top_k", "top_p"))
    is_plain = top_k == 0 and top_p == 1
    name = "sampling_from_logits" if is_plain else "top_k_top_p_sampling_from_logits"
    filters = () if is_plain else (top_k, top_p)
    seed = torch.zeros(1, dtype=torch.int64, device=sets[0]["logits"].device)

    def build() -> list[Call]:
        fn = getattr(_flashinfer().sampling, name)
        scaled = [args["logits"].float() / temperature for args in sets]
        return [partial(fn, x, *filters, seed=seed, offset=seed) for x in scaled]

    return {name: build}


@where_installed
def attention(sets: Sequence[Args]) -> Peers:
    """Return the wrappers that can do what the rows do; none returns scores."""
    rows = sets[0]["rows"]
    sparse, queries = rows.sparse.tolist(), rows.live.tolist()
    if all(sparse):
        return {"decode": lambda: [_sparse(**_parts(args)) for args in sets]}
    if any(sparse):
        return {"BatchAttention": lambda: [_mixed(**_parts(args)) for args in sets]}
    if max(queries) == 1:
        return {"decode": lambda: [_decode(**_parts(args)) for args in sets]}
    backends = ("fa2", "fa3") if max(queries) > 512 else ("fa2",)
    return {name: lambda name=name: [_prefill(name, **_parts(args)) for args in sets] for name in backends}


def _parts(args: Args) -> dict[str, Any]:
    named = {"q": "q", "k": "k_pages", "v": "v_pages", "rows": "rows", "chosen": "chosen", "scale": "scale"}
    return {short: args[name] for short, name in named.items()}


def _flashinfer() -> Any:
    return importlib.import_module(MODULE)


def _int(x: Tensor) -> Tensor:
    return x.to(torch.int32)


def _starts(counts: Tensor) -> Tensor:
    """Return where each of `counts` items begins, and the end, [n + 1] int32."""
    return F.pad(_int(counts.cumsum(0)), (1, 0))


def _pages(rows: AttentionRows, block_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return indptr, indices and last page length of rows that read everything."""
    end = rows.start + rows.live
    blocks = (end + block_size - 1) // block_size
    held = torch.arange(rows.table.shape[1], device=end.device) < blocks[:, None]
    return _starts(blocks), _int(rows.table[rows.seat][held]), _int((end - 1) % block_size + 1)


def _space(pages: Tensor) -> Tensor:
    return torch.empty(WORKSPACE, dtype=torch.uint8, device=pages.device)


def _decoder(pages: Tensor) -> Any:
    return _flashinfer().BatchDecodeWithPagedKVCacheWrapper(_space(pages), "NHD", use_tensor_cores=True)


def _types(scale: float) -> dict[str, Any]:
    return {"q_data_type": torch.bfloat16, "kv_data_type": torch.bfloat16, "sm_scale": scale}


def _heads(q: Tensor, k: Tensor) -> tuple[int, int, int]:
    return q.shape[1], k.shape[2], k.shape[3]


def _decode(q: Tensor, k: Tensor, v: Tensor, rows: AttentionRows, chosen: Chosen | None, scale: float) -> Call:
    wrapper = _decoder(k)
    wrapper.plan(*_pages(rows, k.shape[1]), *_heads(q, k), k.shape[1], **_types(scale))
    return lambda: wrapper.run(q, (k, v))


def _prefill(
    backend: str, q: Tensor, k: Tensor, v: Tensor, rows: AttentionRows, chosen: Chosen | None, scale: float
) -> Call:
    wrapper = _flashinfer().BatchPrefillWithPagedKVCacheWrapper(_space(k), "NHD", backend=backend)
    pages = _pages(rows, k.shape[1])
    wrapper.plan(_starts(rows.live), *pages, *_heads(q, k), k.shape[1], causal=True, **_types(scale))
    return lambda: wrapper.run(q, (k, v))


def _slots(rows: AttentionRows, chosen: Chosen, block_size: int) -> Tensor:
    """Return the slots that sparse rows of one query read, [groups, B, count + 1]; all counts are alike."""
    listed = chosen.positions[:, rows.seat, : int(chosen.counts[rows.seat[0]])]
    now = rows.start.expand(len(listed), -1)[..., None]
    positions = torch.cat((listed.to(torch.int64), now), -1)
    pages = rows.table[rows.seat].expand(len(positions), -1, -1).gather(-1, positions // block_size)
    return pages * block_size + positions % block_size


def _sparse(q: Tensor, k: Tensor, v: Tensor, rows: AttentionRows, chosen: Chosen, scale: float) -> Call:
    slots = _slots(rows, chosen, k.shape[1])
    n_heads, n_kv_heads, head_dim = _heads(q, k)
    groups, b, n = slots.shape
    heads = n_kv_heads // groups
    wrapper = _decoder(k)
    # one page per (token, group): row (b, g) reads page slot * groups + g
    pages = (slots * groups + torch.arange(groups, device=k.device)[:, None, None]).transpose(0, 1)
    counts = torch.full((b * groups,), n, device=k.device)
    sizes = (n_heads // groups, heads, head_dim, 1)
    wrapper.plan(_starts(counts), _int(pages.flatten()), _int(torch.ones_like(counts)), *sizes, **_types(scale))
    cache = tuple(x.view(-1, 1, heads, head_dim) for x in (k, v))
    queries = q.view(b * groups, n_heads // groups, head_dim)
    return lambda: wrapper.run(queries, cache)


def _mixed(q: Tensor, k: Tensor, v: Tensor, rows: AttentionRows, chosen: Chosen, scale: float) -> Call:
    block_size = k.shape[1]
    picked = _slots(rows, chosen, block_size)[0]
    dense = (rows.table[rows.seat, :, None] * block_size + torch.arange(block_size, device=k.device)).flatten(1)
    ends, sparse = (rows.start + rows.live).tolist(), rows.sparse.tolist()
    lists = [picked[i] if sparse[i] else dense[i, : ends[i]] for i in range(len(ends))]
    counts = torch.tensor([len(x) for x in lists], device=k.device)
    wrapper = _flashinfer().BatchAttention("NHD")
    n_heads, n_kv_heads, head_dim = _heads(q, k)
    starts, indices = _starts(counts), _int(torch.cat(lists))
    sizes = (n_heads, n_kv_heads, head_dim, head_dim, 1)
    wrapper.plan(_starts(rows.live), starts, indices, _int(counts), *sizes, causal=True, **_types(scale))
    cache = tuple(x.view(-1, 1, n_kv_heads, head_dim) for x in (k, v))
    return lambda: wrapper.run(q, cache)
