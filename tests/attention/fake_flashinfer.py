"""A stand-in for FlashInfer 0.6.12's paged wrappers in plain torch, for a CPU and any float type.

It takes the arguments that the real ones take, by the same names and in the same order, refuses what they would
misread, and keeps the page indices it was planned with, not a copy, as they do.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class _Paged:
    """What both wrappers do."""

    def __init__(self, space: Tensor, kv_layout: str) -> None:
        assert space.dtype == torch.uint8 and kv_layout == "NHD"
        self.plans = 0

    def _keep(
        self,
        queries: Tensor,
        starts: Tensor,
        pages: Tensor,
        last: Tensor,
        sizes: tuple[int, ...],
        types: dict[str, Any],
    ) -> None:
        for x in (queries, starts, pages, last):
            assert x.dtype == torch.int32 and x.ndim == 1
        assert len(queries) == len(starts) == len(last) + 1 > 1
        assert int(starts[0]) == int(queries[0]) == 0 and int(starts[-1]) == len(pages)
        assert (starts.diff() > 0).all() and (queries.diff() > 0).all(), "a row without pages or queries"
        n_heads, n_kv_heads, self.head_dim, self.block_size = sizes
        assert n_heads % n_kv_heads == 0
        assert ((last >= 1) & (last <= self.block_size)).all()
        lengths = (starts.diff() - 1) * self.block_size + last
        assert (lengths >= queries.diff()).all(), "a row of more queries than tokens"
        assert types["q_data_type"] == types["kv_data_type"]
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.queries, self.starts, self.lengths = queries.tolist(), starts.tolist(), lengths.tolist()
        self.pages, self.scale, self.dtype = pages, types["sm_scale"], types["q_data_type"]
        self.plans += 1

    def run(self, q: Tensor, paged_kv_cache: tuple[Tensor, Tensor], *, return_lse: bool = False) -> Any:
        k_pages, v_pages = paged_kv_cache
        assert q.shape == (self.queries[-1], self.n_heads, self.head_dim) and q.dtype == self.dtype
        for x in (k_pages, v_pages):
            assert x.shape[1:] == (self.block_size, self.n_kv_heads, self.head_dim) and x.dtype == self.dtype
        wide = torch.promote_types(q.dtype, torch.float32)
        out, lse = torch.empty_like(q), torch.empty(q.shape[:2], dtype=wide)
        for r, length in enumerate(self.lengths):
            here = slice(self.queries[r], self.queries[r + 1])
            pages = self.pages[self.starts[r] : self.starts[r + 1]].long()
            k, v = (x[pages].flatten(0, 1)[:length].to(wide) for x in (k_pages, v_pages))
            k, v = (x.repeat_interleave(self.n_heads // self.n_kv_heads, 1) for x in (k, v))
            n = here.stop - here.start
            logits = torch.einsum("nhd,mhd->nhm", q[here].to(wide), k) * self.scale
            later = torch.arange(length) > length - n + torch.arange(n)[:, None]
            logits = logits.masked_fill(later[:, None], -torch.inf)
            out[here] = torch.einsum("nhm,mhd->nhd", logits.softmax(-1), v).to(q.dtype)
            lse[here] = logits.logsumexp(-1) / math.log(2)
        return (out, lse) if return_lse else out


class BatchDecodeWithPagedKVCacheWrapper(_Paged):
    def __init__(
        self,
        float_workspace_buffer: Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        use_tensor_cores: bool = False,
    ) -> None:
        super().__init__(float_workspace_buffer, kv_layout)
        assert use_tensor_cores and not use_cuda_graph

    def plan(
        self,
        indptr: Tensor,
        indices: Tensor,
        last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        block_size: int,
        **types: Any,
    ) -> None:
        queries = torch.arange(len(last_page_len) + 1, dtype=torch.int32)
        self._keep(queries, indptr, indices, last_page_len, (num_qo_heads, num_kv_heads, head_dim, block_size), types)


class BatchPrefillWithPagedKVCacheWrapper(_Paged):
    def __init__(
        self, float_workspace_buffer: Tensor, kv_layout: str = "NHD", use_cuda_graph: bool = False, *, backend: str
    ) -> None:
        super().__init__(float_workspace_buffer, kv_layout)
        assert backend == "fa2" and not use_cuda_graph

    def plan(
        self,
        qo_indptr: Tensor,
        paged_kv_indptr: Tensor,
        paged_kv_indices: Tensor,
        paged_kv_last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        block_size: int,
        *,
        causal: bool = False,
        **types: Any,
    ) -> None:
        assert causal
        sizes = (num_qo_heads, num_kv_heads, head_dim_qk, block_size)
        self._keep(qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, sizes, types)
