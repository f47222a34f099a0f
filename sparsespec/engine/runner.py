"""One forward of the model over a batch, and the rows it hands to the verifier.

The model meets its KV only through the attention backend, so this file knows neither pages nor selections.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from sparsespec.core.batch import Batch
from sparsespec.core.protocols import Attention, AttentionSide, Selection


class Model(AttentionSide, Protocol):
    """What the engine needs of a model: tokens to hidden states, hidden states to logits."""

    def forward(self, tokens: Tensor, attend: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Return the final hidden states [N, hidden] of tokens [N]."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits [T, V]."""
        ...


def forward(model: Model, attention: Attention, batch: Batch, choice: Selection | None, n_logits: int) -> Tensor | None:
    """Run the model over `batch` and return the logits of its first `n_logits` queries, [T, V]; None if T is 0."""
    attention.plan(batch, choice)
    hidden = model.forward(batch.tokens, attention.run)
    return model.logits(hidden[:n_logits]) if n_logits else None
