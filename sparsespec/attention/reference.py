"""Attention backend `reference`: the defining ops in plain torch, on any device and float dtype.

It composes `append_kv` and `attention`; a step is planned once and run for every layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Batch, LayerKeys
from sparsespec.core.config import Geometry
from sparsespec.core.plan import Phase
from sparsespec.core.protocols import AttentionSide, Selection
from sparsespec.kernels.append_kv.api import append_kv
from sparsespec.kernels.attention.api import attention


class ReferenceAttention:
    """The null member of its shelf: slow, readable, and what the others are measured against."""

    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset({"scores", "step_query"})

    def bind(self, geometry: Geometry, model: AttentionSide, k_pages: Tensor, v_pages: Tensor) -> None:
        """Take the model's rotary tables and norms, and the pool."""
        self._geometry = geometry
        self._model = model
        self._k_pages, self._v_pages = k_pages, v_pages

    def plan(self, batch: Batch, choice: Selection | None) -> None:
        """Prepare for the layers of one step."""
        self._batch, self._choice = batch, choice
        sparse = batch.phase == Phase.DRAFT
        self._any_sparse = bool((sparse & (batch.live > 0)).any())
        self._rows = AttentionRows(
            seat=batch.seat,
            offset=batch.offset,
            start=batch.start,
            live=batch.live,
            sparse=sparse,
            scored=batch.scored & (batch.live > 0),
            table=batch.state.table,
            ends=self._geometry.scored,
            groups=self._geometry.groups,
        )
        self._read = torch.zeros(batch.n_rows, dtype=torch.float64, device=batch.seat.device)

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append k and v to the cache and return the attention of q; dead queries give 0."""
        k_pages, v_pages = self._k_pages[layer], self._v_pages[layer]
        cos, sin = self._model.rope
        q = append_kv(
            q,
            k,
            v,
            k_pages,
            v_pages,
            positions=self._batch.positions,
            slots=self._batch.slots,
            cos=cos,
            sin=sin,
            q_norm=self._model.q_norm(layer),
            k_norm=self._model.k_norm(layer),
            eps=self._model.rms_eps,
            impl="reference",
        )
        chosen = None
        if self._choice is not None and self._any_sparse:
            chosen = self._choice.at(layer, q, LayerKeys(k_pages, self._batch))
            tail = self._batch.start + self._batch.live - chosen.tail_from[self._batch.seat]
            self._read += torch.where(self._rows.sparse, chosen.counts[self._batch.seat] + tail, 0)
        scale = self._geometry.head_dim**-0.5
        attended = attention(q, k_pages, v_pages, self._rows, scale=scale, chosen=chosen, impl="reference")
        if attended.scores is not None and self._choice is not None:
            self._choice.see(layer, attended.scores)
        return attended.out

    def read(self) -> Tensor:
        """Return how many KV tokens each row of the step read, mean over layers, [B] float64."""
        dense = self._batch.start + self._batch.live
        return torch.where(self._rows.sparse, self._read / self._geometry.n_layers, dense)
