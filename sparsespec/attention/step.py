"""What attention backends do alike around their kernels: the step's rows, the append, the look at the selection.

Nothing here reads a value on the host, so all of it can be recorded in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Batch, Chosen, LayerKeys
from sparsespec.core.config import Geometry
from sparsespec.core.plan import Phase
from sparsespec.core.protocols import AttentionSide, Selection
from sparsespec.kernels.append_kv.api import append_kv


@dataclass(frozen=True, slots=True)
class Bound:
    """What `bind` hands to a backend."""

    geometry: Geometry
    model: AttentionSide
    k_pages: Tensor  # [L, pages, P, Hkv, D]
    v_pages: Tensor

    def append(self, batch: Batch, layer: int, q: Tensor, k: Tensor, v: Tensor, *, impl: str) -> Tensor:
        """Write k and v of a layer into the pool; return q normed and rotated."""
        cos, sin = self.model.rope
        return append_kv(
            q,
            k,
            v,
            self.k_pages[layer],
            self.v_pages[layer],
            positions=batch.positions,
            slots=batch.slots,
            cos=cos,
            sin=sin,
            q_norm=self.model.q_norm(layer),
            k_norm=self.model.k_norm(layer),
            eps=self.model.rms_eps,
            impl=impl,
        )


class Step:
    """One step of a backend, from `plan` to `read`."""

    def __init__(self, bound: Bound, batch: Batch, choice: Selection | None) -> None:
        self._bound, self._batch, self._choice = bound, batch, choice
        g = bound.geometry
        self.rows = AttentionRows(
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
            widest=batch.widest,
        )
        self._counts: list[Tensor] = []
        self._tails: Tensor | None = None

    def begin(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, ask: bool, impl: str
    ) -> tuple[Tensor, Chosen | None]:
        """Append a layer's k and v; return its rotated queries and, if `ask`, what its DRAFT rows read."""
        q = self._bound.append(self._batch, layer, q, k, v, impl=impl)
        if self._choice is None or not ask:
            return q, None
        chosen = self._choice.at(layer, q, LayerKeys(self._bound.k_pages[layer], self._batch))
        if not self._counts:
            self._tails = self.rows.start + self.rows.live - chosen.tail_from[self.rows.seat]
        self._counts.append(chosen.counts)
        return q, chosen

    def see(self, layer: int, scores: Tensor | None) -> None:
        """Show a layer's scores to the selection, where there are both."""
        if scores is not None and self._choice is not None:
            self._choice.see(layer, scores)

    def read(self) -> Tensor:
        """Return how many KV tokens each row read, mean over layers, [B] float64."""
        dense = (self.rows.start + self.rows.live).to(torch.float64)
        if self._tails is None:
            return dense
        sparse = torch.stack(self._counts).sum(0)[self.rows.seat] / self._bound.geometry.n_layers + self._tails
        return torch.where(self.rows.sparse, sparse, dense)
