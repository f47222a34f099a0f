"""Attention backend `triton`: the same composition as `reference`, planned on the device and run by Triton kernels.

A step is planned once; each layer is an append, one attention launch per kind of row, and the folding of what was
split. The host reads nothing back, so a step can be recorded in a CUDA graph. Buffers are static until a larger step
comes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.attention.step import Bound, Step
from sparsespec.core.batch import Batch
from sparsespec.core.config import Geometry
from sparsespec.core.errors import MissingPackage
from sparsespec.core.protocols import AttentionSide, Selection
from sparsespec.kernels.attention import api
from sparsespec.kernels.attention.api import Plan


class TritonAttention:
    """For a GPU; in the Triton interpreter it runs on a CPU, slowly, in float32 and float16."""

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset({"scores", "step_query", "capturable", "batch_invariant"})

    def bind(self, geometry: Geometry, model: AttentionSide, k_pages: Tensor, v_pages: Tensor) -> None:
        """Take the model's rotary tables and norms, and the pool."""
        g = geometry
        try:
            api.check_sizes(k_pages[0], g.n_heads, g.scored, impl="triton")
        except MissingPackage as error:
            raise MissingPackage(
                "attention 'triton' needs: pip install 'sparsespec[triton]'; attention='reference' needs nothing"
            ) from error
        self._bound, self._pool = Bound(geometry, model, k_pages, v_pages), k_pages[0]
        # of rows that decode, in steps without a selection and with one
        self._decode_queries = (1 + g.max_guess, 1 + max(g.max_draft, g.max_guess))
        self._plans: list[Plan | None] = [None, None]
        self._plan: Plan | None = None
        self._scores: Tensor | None = None

    def plan(self, batch: Batch, choice: Selection | None) -> None:
        """Make the step's work list on the device."""
        g, kind = self._bound.geometry, int(choice is not None)
        self._step = Step(self._bound, batch, choice)
        self._plan = self._plans[kind] = api.plan(
            self._step.rows,
            self._pool,
            n_tokens=batch.tokens.shape[0],
            n_heads=g.n_heads,
            scale=g.head_dim**-0.5,
            impl="triton",
            n_rows=g.n_seats,
            decode_queries=self._decode_queries[kind],
            reuse=self._plans[kind],
        )
        if self._plan.scores_shape is not None:
            if self._scores is None:
                shape = (g.n_layers, *self._plan.scores_shape)
                self._scores = torch.zeros(shape, dtype=torch.float32, device=batch.seat.device)
            self._scores.zero_()

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append k and v to the cache and return the attention of q; dead queries give 0."""
        assert self._plan is not None, "plan comes before run"
        bound, step = self._bound, self._step
        q, chosen = step.begin(layer, q, k, v, ask=True, impl="triton")
        into = None if self._scores is None or self._plan.scores_shape is None else self._scores[layer]
        out, _, scores = self._plan.run(q, bound.k_pages[layer], bound.v_pages[layer], chosen=chosen, scores=into)
        step.see(layer, None if scores is None else scores[:, :, : bound.geometry.max_model_len])
        return out

    def read(self) -> Tensor:
        """Return how many KV tokens each row of the step read, mean over layers, [B] float64."""
        return self._step.read()
