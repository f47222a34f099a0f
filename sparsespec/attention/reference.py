"""Attention backend `reference`: the defining ops in plain torch, on any device and float dtype.

It composes `append_kv` and `attention`; a step is planned once and run for every layer.
"""

from __future__ import annotations

from torch import Tensor

from sparsespec.attention.step import Bound, Step
from sparsespec.core.batch import Batch
from sparsespec.core.config import Geometry
from sparsespec.core.protocols import AttentionSide, Selection
from sparsespec.kernels.attention.api import attention


class ReferenceAttention:
    """The null member of its shelf: slow, readable, and what the others are measured against."""

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset({"scores", "step_query"})

    def bind(self, geometry: Geometry, model: AttentionSide, k_pages: Tensor, v_pages: Tensor) -> None:
        """Take the model's rotary tables and norms, and the pool."""
        self._bound = Bound(geometry, model, k_pages, v_pages)

    def plan(self, batch: Batch, choice: Selection | None) -> None:
        """Prepare for the layers of one step."""
        self._batch = batch
        self._step = Step(self._bound, batch, choice)
        self._rows = self._step.rows
        self._any_sparse = bool((self._rows.sparse & (batch.live > 0)).any())

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append k and v to the cache and return the attention of q; dead queries give 0."""
        bound = self._bound
        q, chosen = self._step.begin(layer, q, k, v, ask=self._any_sparse, impl="reference")
        k_pages, v_pages = bound.k_pages[layer], bound.v_pages[layer]
        scale = bound.geometry.head_dim**-0.5
        attended = attention(q, k_pages, v_pages, self._rows, scale=scale, chosen=chosen, impl="reference")
        self._step.see(layer, attended.scores)
        return attended.out

    def read(self) -> Tensor:
        """Return how many KV tokens each row of the step read, mean over layers, [B] float64."""
        return self._step.read()
