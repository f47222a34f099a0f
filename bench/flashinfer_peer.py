"""FlashInfer on the inputs of the cases of `bench.kernels`, planned before it is timed; absent where not installed.

Stock FlashInfer reads a selection per KV head if the cache is viewed as one page per (token, KV head): rows of G query
heads and one KV head. A selection shared by the layer needs a page size of 1.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen

if TYPE_CHECKING:
    from bench.kernel_cases import Rows, Shape
    from bench.timing import Call

Peers = dict[str, Callable[[], "list[Call]"]]
Inputs = tuple[Tensor, AttentionRows, Chosen | None]

WORKSPACE = 256 * 2**20
MODULE = "flashinfer"


def is_installed() -> bool:
    """Say whether there is something to import."""
    return importlib.util.find_spec(MODULE) is not None


def version() -> str | None:
    """Return FlashInfer's version, None where it is not installed, and why it cannot be imported where it is broken."""
    if not is_installed():
        return None
    try:
        return importlib.import_module(MODULE).__version__
    except Exception as error:  # its own dependencies; each case says so again
        return f"{type(error).__name__}: {error}"[:100]


def top_k(scores: Sequence[Tensor], k: int) -> Peers:
    """Return `top_k` on the same lists: values and indices, in no order."""
    if not is_installed():
        return {}
    return {"top_k": lambda: [lambda x=x: _flashinfer().top_k(x.flatten(0, 2), k) for x in scores]}


def add_rms_norm(sets: Sequence[tuple[Tensor, Tensor]], weight: Tensor, eps: float) -> Peers:
    """Return `fused_add_rmsnorm` on copies of the same rows and residuals, both of which it overwrites."""

    def call(x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        _flashinfer().fused_add_rmsnorm(x, residual, weight, eps)
        return x, residual

    if not is_installed():
        return {}
    return {"fused_add_rmsnorm": lambda: [partial(call, x.clone(), residual.clone()) for x, residual in sets]}


def silu_mul(sets: Sequence[Tensor]) -> Peers:
    """Return `silu_and_mul` on the same products."""
    if not is_installed():
        return {}
    return {"silu_and_mul": lambda: [lambda x=x: _flashinfer().silu_and_mul(x) for x in sets]}


def sampled(sets: Sequence[Tensor], temperature: float, top_k: int, top_p: float) -> Peers:
    """Return sampling from the same laws, with other noise.

    It takes float32 and knows no temperature: it is given logits that both were done to before the clock runs. Seeds
    are tensors, or it could not be captured.
    """

    def call(x: Tensor, seed: Tensor) -> Tensor:
        sampling = _flashinfer().sampling
        if top_k == 0 and top_p == 1:
            return sampling.sampling_from_logits(x, seed=seed, offset=seed)
        return sampling.top_k_top_p_sampling_from_logits(x, top_k, top_p, seed=seed, offset=seed)

    if not is_installed():
        return {}
    name = "sampling_from_logits" if top_k == 0 and top_p == 1 else "top_k_top_p_sampling_from_logits"
    seed = torch.zeros(1, dtype=torch.int64, device=sets[0].device)
    return {name: lambda: [partial(call, x.float() / temperature, seed) for x in sets]}


def attention(
    case: Rows, shape: Shape, k_pages: Tensor, v_pages: Tensor, sets: Sequence[Inputs], scale: float
) -> Peers:
    """Return the wrappers that can do what `case` does; none returns scores."""
    if not is_installed():
        return {}
    sparse = [is_sparse for _, _, is_sparse in case.rows]
    if all(sparse):
        return {"decode": lambda: [_sparse(shape, k_pages, v_pages, *one, scale) for one in sets]}
    if any(sparse):
        return {"BatchAttention": lambda: [_mixed(shape, k_pages, v_pages, *one, scale) for one in sets]}
    if all(n == 1 for _, n, _ in case.rows):
        return {"decode": lambda: [_decode(shape, k_pages, v_pages, *one[:2], scale) for one in sets]}
    backends = ("fa2", "fa3") if any(n > 512 for _, n, _ in case.rows) else ("fa2",)
    return {b: lambda b=b: [_prefill(b, shape, k_pages, v_pages, *one[:2], scale) for one in sets] for b in backends}


def _flashinfer() -> Any:
    return importlib.import_module(MODULE)


def _int(x: Tensor) -> Tensor:
    return x.to(torch.int32)


def _starts(counts: Tensor) -> Tensor:
    """Return where each of `counts` items begins, and the end, [n + 1] int32."""
    return torch.nn.functional.pad(_int(counts.cumsum(0)), (1, 0))


def _pages(rows: AttentionRows, block_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return indptr, indices and last page length of rows that read everything."""
    end = rows.start + rows.live
    blocks = (end + block_size - 1) // block_size
    held = torch.arange(rows.table.shape[1], device=end.device) < blocks[:, None]
    return _starts(blocks), _int(rows.table[rows.seat][held]), _int((end - 1) % block_size + 1)


def _decoder() -> Any:
    space = torch.empty(WORKSPACE, dtype=torch.uint8, device="cuda")
    return _flashinfer().BatchDecodeWithPagedKVCacheWrapper(space, "NHD", use_tensor_cores=True)


def _types(scale: float) -> dict[str, Any]:
    return {"q_data_type": torch.bfloat16, "kv_data_type": torch.bfloat16, "sm_scale": scale}


def _decode(shape: Shape, k: Tensor, v: Tensor, q: Tensor, rows: AttentionRows, scale: float) -> Call:
    wrapper = _decoder()
    wrapper.plan(*_pages(rows, k.shape[1]), shape.heads, shape.kv_heads, shape.head_dim, k.shape[1], **_types(scale))
    return lambda: wrapper.run(q, (k, v))


def _prefill(backend: str, shape: Shape, k: Tensor, v: Tensor, q: Tensor, rows: AttentionRows, scale: float) -> Call:
    space = torch.empty(WORKSPACE, dtype=torch.uint8, device="cuda")
    wrapper = _flashinfer().BatchPrefillWithPagedKVCacheWrapper(space, "NHD", backend=backend)
    sizes = (shape.heads, shape.kv_heads, shape.head_dim, k.shape[1])
    wrapper.plan(_starts(rows.live), *_pages(rows, k.shape[1]), *sizes, causal=True, **_types(scale))
    return lambda: wrapper.run(q, (k, v))


def _slots(rows: AttentionRows, chosen: Chosen, block_size: int) -> Tensor:
    """Return the slots that sparse rows of one query read, [groups, B, count + 1]; all counts are alike."""
    now = rows.start.expand(chosen.positions.shape[0], -1)[..., None]
    positions = torch.cat((chosen.positions.to(torch.int64), now), -1)
    pages = rows.table[rows.seat].expand(len(positions), -1, -1).gather(-1, positions // block_size)
    return pages * block_size + positions % block_size


def _sparse(shape: Shape, k: Tensor, v: Tensor, q: Tensor, rows: AttentionRows, chosen: Chosen, scale: float) -> Call:
    slots = _slots(rows, chosen, k.shape[1])
    groups, b, n = slots.shape
    heads = shape.kv_heads // groups
    wrapper = _decoder()
    # one page per (token, group): row (b, g) reads page slot * groups + g
    pages = (slots * groups + torch.arange(groups, device=k.device)[:, None, None]).transpose(0, 1)
    counts = torch.full((b * groups,), n, device=k.device)
    sizes = (shape.heads // groups, heads, shape.head_dim, 1)
    wrapper.plan(_starts(counts), _int(pages.flatten()), _int(torch.ones_like(counts)), *sizes, **_types(scale))
    cache = tuple(x.view(-1, 1, heads, shape.head_dim) for x in (k, v))
    queries = q.view(b * groups, shape.heads // groups, shape.head_dim)
    return lambda: wrapper.run(queries, cache)


def _mixed(shape: Shape, k: Tensor, v: Tensor, q: Tensor, rows: AttentionRows, chosen: Chosen, scale: float) -> Call:
    block_size = k.shape[1]
    picked = _slots(rows, chosen, block_size)[0]
    dense = (rows.table[:, :, None] * block_size + torch.arange(block_size, device=k.device)).flatten(1)
    ends, sparse = (rows.start + rows.live).tolist(), rows.sparse.tolist()
    lists = [picked[i] if sparse[i] else dense[i, : ends[i]] for i in range(len(ends))]
    counts = torch.tensor([len(x) for x in lists], device=k.device)
    wrapper = _flashinfer().BatchAttention("NHD")
    sizes = (shape.heads, shape.kv_heads, shape.head_dim, shape.head_dim, 1)
    starts, indices = _starts(counts), _int(torch.cat(lists))
    wrapper.plan(_starts(rows.live), starts, indices, _int(counts), *sizes, causal=True, **_types(scale))
    cache = tuple(x.view(-1, 1, shape.kv_heads, shape.head_dim) for x in (k, v))
    return lambda: wrapper.run(q, cache)
