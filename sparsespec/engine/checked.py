"""Checked mode: the promises that a selection and a batch make to the engine, verified as they are used.

Slow, and for tests and new plug-ins; an engine composed with `checked=True` raises `ContractBroken` where they are
broken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, Chosen, LayerKeys
from sparsespec.core.errors import ContractBroken
from sparsespec.core.plan import Phase
from sparsespec.core.protocols import Selection


def check_live(batch: Batch) -> None:
    """Raise unless every row's live queries fit into its capacity: the host's bounds held."""
    if bool(((batch.live < 0) | (batch.live > batch.n_query)).any()):
        raise ContractBroken(f"{batch.live.tolist()} live queries do not fit into capacities {batch.n_query.tolist()}")


def check_chosen(chosen: Chosen, batch: Batch) -> None:
    """Raise unless the drafting rows' lists are distinct, ascending and below a tail that holds the present round."""
    drafting = ((batch.phase == Phase.DRAFT) & (batch.live > 0)).nonzero().squeeze(1)
    for b in drafting.tolist():
        seat = int(batch.seat[b])
        c, tail, count = int(batch.state.n_committed[seat]), int(chosen.tail_from[seat]), int(chosen.counts[seat])
        if not 0 <= tail <= c - 1:
            raise ContractBroken(f"tail_from is {tail} with {c} committed tokens; it must be in [0, c - 1]")
        lists = chosen.positions[:, seat, :count].to(torch.int64)
        ascending = bool((lists.diff(dim=1) > 0).all())
        if lists.shape[1] != count or not ascending or (count and not 0 <= int(lists.min()) <= int(lists.max()) < tail):
            raise ContractBroken(
                f"chosen positions must be distinct, ascending and below tail_from={tail}, got {lists.tolist()}"
            )


class CheckedSelection:
    """A selection whose every answer is checked."""

    def __init__(self, selection: Selection, batch: Batch) -> None:
        self._selection, self._batch = selection, batch

    def at(self, layer: int, q: Tensor, keys: LayerKeys) -> Chosen:
        """Return the positions of `layer`, checked."""
        chosen = self._selection.at(layer, q, keys)
        check_chosen(chosen, self._batch)
        return chosen

    def see(self, layer: int, scores: Tensor) -> None:
        """Hand the scores of `layer` on; raises if one is no probability."""
        if not bool(((scores >= 0) & (scores <= 1 + 1e-6)).all()):
            raise ContractBroken(f"attention handed scores of layer {layer} that are not probabilities")
        self._selection.see(layer, scores)
