"""Attention backend `flashinfer`: FlashInfer's paged wrappers, beside which the project's own kernels can be compared.

Rows that read everything are one call, rows that read a selection another; what each call is told is worked out in
`flashinfer_lists`. FlashInfer plans on the host, which must know all lengths: plan and run copy a few integers from the
device, so the loop must be `sync` and nothing can be recorded in a CUDA graph. It returns no scores: those cost one
more reading of the keys of scored rows. A row's bits may depend on its neighbours.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsespec.attention.flashinfer_lists import (
    Lists,
    LiveRow,
    SparseLists,
    dense_lists,
    live_rows,
    pool_by_groups,
    seen_by_groups,
)
from sparsespec.attention.flashinfer_scores import mean_probabilities, scored_queries
from sparsespec.attention.step import Bound, Step
from sparsespec.core.batch import Batch, Chosen
from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption, MissingPackage
from sparsespec.core.protocols import AttentionSide, Selection
from sparsespec.kernels.implementations import fastest

WORKSPACE = 256 * 2**20
"""Bytes for partial results of rows that FlashInfer splits; all calls share them, one behind the other."""
DTYPES = (torch.float16, torch.bfloat16)
HEAD_DIMS = (64, 128, 256)


@dataclass(frozen=True, slots=True)
class _Planned:
    """A call that is planned: FlashInfer's wrapper, and what it was told."""

    wrapper: Any
    lists: Lists

    def run(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, out: Tensor, *, lse: bool = False) -> Tensor | None:
        """Write the attention of the call's queries into `out`; return their log-sum-exp to base 2 if asked."""
        groups, tokens = self.lists.groups, self.lists.tokens
        pools = (k_pages, v_pages)
        if self.lists.block_size != k_pages.shape[1] or groups > 1:
            pools = tuple(pool_by_groups(x, groups) for x in pools)
        queries = seen_by_groups(q, groups).index_select(0, tokens)
        got = self.wrapper.run(queries, pools, return_lse=lse)
        seen_by_groups(out, groups).index_copy_(0, tokens, got[0] if lse else got)
        return got[1] if lse else None


class FlashInferAttention:
    """For a GPU and loop `sync`, in half types: a second opinion, and a yardstick."""

    needs: frozenset[str] = frozenset({"host_lengths"})
    provides: frozenset[str] = frozenset({"scores", "step_query"})

    def bind(self, geometry: Geometry, model: AttentionSide, k_pages: Tensor, v_pages: Tensor) -> None:
        """Take the model's rotary tables and norms, and the pool."""
        self._flashinfer = _package(k_pages)
        self._bound = Bound(geometry, model, k_pages, v_pages)
        self._append = fastest(k_pages)
        self._space = torch.zeros(WORKSPACE, dtype=torch.uint8, device=k_pages.device)
        self._wrappers: dict[tuple[str, bool], Any] = {}

    def plan(self, batch: Batch, choice: Selection | None) -> None:
        """Plan the rows that read everything; the others must wait for what their first layer selects."""
        self._step = Step(self._bound, batch, choice)
        rows = live_rows(self._step.rows)
        self._dense, self._sparse = ([row for row in rows if row.sparse is sparse] for sparse in (False, True))
        self._full: _Planned | None = None
        if self._dense:
            lists = dense_lists(self._dense, self._step.rows.table, self._bound.k_pages.shape[2])
            self._full = self._planned("dense", lists)
        self._selected: tuple[SparseLists, _Planned] | None = None

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append k and v to the cache and return the attention of q; dead queries give 0."""
        q, chosen = self._step.begin(layer, q, k, v, ask=bool(self._sparse), impl=self._append)
        k_pages, v_pages = self._bound.k_pages[layer], self._bound.v_pages[layer]
        out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
        if self._full is not None:
            scored = [row for row in self._dense if row.scored and any(self._step.rows.ends)]
            lse = self._full.run(q, k_pages, v_pages, out, lse=bool(scored))
            if lse is not None:
                self._step.see(layer, self._scores(q, k_pages, lse, scored))
        if chosen is not None:
            self._for_layer(chosen).run(q, k_pages, v_pages, out)
        return out

    def read(self) -> Tensor:
        """Return how many KV tokens each row of the step read, mean over layers, [B] float64."""
        return self._step.read()

    def _for_layer(self, chosen: Chosen) -> _Planned:
        """Return the call for rows that read a selection, planned again only where a layer's is longer or shorter."""
        if self._selected is None or not self._selected[0].fits(chosen):
            lists = SparseLists(self._sparse, chosen, self._step.rows.table, self._bound.k_pages.shape[2])
            self._selected = lists, self._planned("sparse", lists.of)
        lists, planned = self._selected
        lists.refill(chosen)
        return planned

    def _planned(self, kind: str, lists: Lists) -> _Planned:
        """Plan a call. FlashInfer keeps `lists.pages` itself, no copy: it is on the device and of the right type."""
        g, single = self._bound.geometry, lists.single
        name = "BatchDecodeWithPagedKVCacheWrapper" if single else "BatchPrefillWithPagedKVCacheWrapper"
        if (kind, single) not in self._wrappers:
            options: dict[str, Any] = {"use_tensor_cores": True} if single else {"backend": "fa2"}
            self._wrappers[kind, single] = getattr(self._flashinfer, name)(self._space, "NHD", **options)
        wrapper = self._wrappers[kind, single]
        dtype = self._bound.k_pages.dtype
        wrapper.plan(
            *(() if single else (lists.queries,)),
            lists.starts,
            lists.pages,
            lists.last,
            g.n_heads // lists.groups,
            g.n_kv_heads // lists.groups,
            g.head_dim,
            lists.block_size,
            **({} if single else {"causal": True}),
            sm_scale=g.head_dim**-0.5,
            q_data_type=dtype,
            kv_data_type=dtype,
        )
        return _Planned(wrapper, lists)

    def _scores(self, q: Tensor, k_pages: Tensor, lse: Tensor, scored: Sequence[LiveRow]) -> Tensor:
        """Return the scores of a layer, [groups, B, S]; `lse` is that of the rows that read everything, in order."""
        rows, g = self._step.rows, self._bound.geometry
        assert self._full is not None, "a scored row reads everything"
        first = dict(zip((row.at for row in self._dense), self._full.lists.queries.tolist(), strict=False))
        longest, wide = (
            max(row.end for row in (*self._dense, *self._sparse)),
            torch.promote_types(q.dtype, torch.float32),
        )
        scores = torch.zeros((rows.groups, len(rows.seat), longest), dtype=wide, device=q.device)
        for row in scored:
            which = torch.tensor(scored_queries(row.live, rows.ends), device=q.device)
            pages = rows.table[row.seat, : -(-row.end // k_pages.shape[1])]
            keys = k_pages.index_select(0, pages).flatten(0, 1)[: row.end]
            scores[:, row.at, : row.end] = mean_probabilities(
                q[row.offset + which],
                keys,
                lse[first[row.at] + which],
                row.start + which,
                scale=g.head_dim**-0.5,
                groups=rows.groups,
            )
        return scores


def _package(k_pages: Tensor) -> Any:
    """Return FlashInfer; raise where it is missing, or cannot do what the pool asks for."""
    head_dim, dtype = k_pages.shape[-1], k_pages.dtype
    try:
        flashinfer = importlib.import_module("flashinfer")
    except ImportError as error:
        raise MissingPackage(
            "attention 'flashinfer' needs: pip install 'sparsespec[flashinfer]'; attention='triton' and "
            "attention='reference' do not"
        ) from error
    if k_pages.device.type != "cuda":
        raise BadOption(
            f"attention 'flashinfer' needs a CUDA device, got {k_pages.device.type!r}; use attention='reference'"
        )
    if dtype not in DTYPES or head_dim not in HEAD_DIMS:
        raise BadOption(
            f"attention 'flashinfer' takes float16 or bfloat16 and heads of {', '.join(map(str, HEAD_DIMS))}, got "
            f"{dtype} and heads of {head_dim}; use attention='triton' or 'reference'"
        )
    return flashinfer
