"""The null verifier: every token is the model's best one, and a draft is accepted iff it equals it."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.core.config import Geometry
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.sample.api import sample
from sparsespec.kernels.verify_inputs.api import LogitRows, per_logit_row
from sparsespec.sampling.match import match


class Greedy:
    """Argmax, ties to the lowest id; serves requests of temperature 0 only."""

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset({"capturable"})

    def bind(self, geometry: Geometry) -> None:
        """Allocate nothing."""

    def accepts(self, temperature: float) -> str | None:
        """Return None for temperature 0, else what to use."""
        if temperature == 0:
            return None
        return (
            f"verifier 'greedy' serves temperature 0 only, got {temperature}; "
            "use temperature=0 or verifier='shared-noise'"
        )

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        """See `core.protocols.Verifier.verify`; `q` is not read."""
        at = per_logit_row(rows, len(logits), impl=fastest(rows.first))
        return match(self.sample(logits, at), at, rows)

    def sample(self, logits: Tensor, at: LogitRows) -> Tensor:
        """Return the best token of each logit row, [T] int64."""
        zero = torch.zeros_like(at.temperature)
        key = (at.seed, at.sample_index, at.position, torch.zeros_like(at.seed))
        return sample(logits, zero, at.top_k, at.top_p, at.min_p, *key, impl=fastest(logits))
