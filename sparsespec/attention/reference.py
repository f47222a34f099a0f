"""Attention backend `reference`: the defining ops in plain torch, on any device and float dtype.

It composes the ops `append_kv` and `attention`.
"""

from __future__ import annotations

from torch import Tensor

from sparsespec.attention.step import Bound, Step
from sparsespec.core.batch import Batch
from sparsespec.core.config import Geometry
from sparsespec.core.protocols import AttentionSide, Selection
from sparsespec.kernels.attention import api


class ReferenceAttention:
    """Slow and readable: what the other backends are measured against."""

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset({"scores", "step_query"})

    def bind(self, geometry: Geometry, model: AttentionSide, k_pages: Tensor, v_pages: Tensor) -> None:
        """Take the model's rotary tables and norms, and the pool."""
        self._bound = Bound(geometry, model, k_pages, v_pages)

    def plan(self, batch: Batch, choice: Selection | None) -> None:
        """Prepare for the layers of one step."""
        g = self._bound.geometry
        self._step = Step(self._bound, batch, choice)
        self._plan = api.plan(
            self._step.rows,
            self._bound.k_pages[0],
            n_tokens=batch.tokens.shape[0],
            n_heads=g.n_heads,
            scale=g.head_dim**-0.5,
            impl="reference",
        )
        self._any_sparse = bool((self._step.rows.sparse & (batch.live > 0)).any())

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append k and v to the cache and return the attention of q; dead queries give 0."""
        bound = self._bound
        q, chosen = self._step.begin(layer, q, k, v, ask=self._any_sparse, impl="reference")
        attended = self._plan.run(q, bound.k_pages[layer], bound.v_pages[layer], chosen=chosen)
        self._step.see(layer, attended.scores)
        return attended.out

    def read(self) -> Tensor:
        """Return how many KV tokens each row of the step read, mean over layers, [B] float64."""
        return self._step.read()
