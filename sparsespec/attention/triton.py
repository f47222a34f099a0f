"""Attention backend `triton`: the same composition as `reference`, planned on the device and run by Triton kernels.

A step is planned once; each layer is an append, one attention launch per kind of row, and the folding of what was
split. The host reads nothing back, so a step can be recorded in a CUDA graph. Buffers grow to the largest step seen
and are then static: warm up with the largest before recording.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Batch, LayerKeys
from sparsespec.core.config import Geometry
from sparsespec.core.plan import Phase
from sparsespec.core.protocols import AttentionSide, Selection
from sparsespec.kernels.append_kv.api import append_kv
from sparsespec.kernels.attention import triton as kernels


class TritonAttention:
    """For a GPU; in the Triton interpreter it runs on a CPU, slowly, in float32 and float16."""

    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset({"scores", "step_query", "capturable"})

    def bind(self, geometry: Geometry, model: AttentionSide, k_pages: Tensor, v_pages: Tensor) -> None:
        """Take the model's rotary tables and norms, and the pool."""
        kernels.check(k_pages[0], geometry.scored)
        self._geometry, self._model = geometry, model
        self._k_pages, self._v_pages = k_pages, v_pages
        self._work: kernels.Work | None = None
        self._scores: Tensor | None = None

    def plan(self, batch: Batch, choice: Selection | None) -> None:
        """Make the step's work list on the device."""
        g = self._geometry
        self._batch, self._choice = batch, choice
        self._rows = AttentionRows(
            seat=batch.seat,
            offset=batch.offset,
            start=batch.start,
            live=batch.live,
            # without a selection every row reads everything, as `selector="none"` promises
            sparse=batch.phase == (Phase.DRAFT if choice is not None else -1),
            scored=batch.scored & (batch.live > 0),
            table=batch.state.table,
            ends=g.scored if choice is not None else (0, 0),
            groups=g.groups,
        )
        n_tokens = batch.tokens.shape[0]
        if self._work is None or not self._work.holds(self._rows, n_tokens):
            self._work = kernels.work_for(self._k_pages[0], g.n_heads, self._rows, n_tokens, like=self._work)
            self._scores = None
        self._work.fill(self._rows, n_tokens)
        if self._work.scores is not None:
            if self._scores is None:
                shape = (g.n_layers, *self._work.scores.shape)
                self._scores = torch.zeros(shape, dtype=torch.float32, device=batch.seat.device)
            self._scores.zero_()
        self._read = torch.zeros(batch.n_rows, dtype=torch.float64, device=batch.seat.device)

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append k and v to the cache and return the attention of q; dead queries give 0."""
        assert self._work is not None, "plan comes before run"
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
            impl="triton",
        )
        chosen = None
        if self._choice is not None:
            chosen = self._choice.at(layer, q, LayerKeys(k_pages, self._batch))
            tail = self._batch.start + self._batch.live - chosen.tail_from[self._batch.seat]
            self._read += torch.where(self._rows.sparse, chosen.counts[self._batch.seat] + tail, 0)
        into = None if self._scores is None else self._scores[layer]
        scale = self._geometry.head_dim**-0.5
        out, _, scores = kernels.run(q, k_pages, v_pages, self._rows, self._work, scale=scale, chosen=chosen, into=into)
        if scores is not None and self._choice is not None:
            self._choice.see(layer, scores[:, :, : self._geometry.max_context])
        return out

    def read(self) -> Tensor:
        """Return how many KV tokens each row of the step read, mean over layers, [B] float64."""
        dense = self._batch.start + self._batch.live
        return torch.where(self._rows.sparse, self._read / self._geometry.n_layers, dense)
