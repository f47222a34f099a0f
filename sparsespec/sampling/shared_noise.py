"""The default verifier: drafts and verifications use the same noise, and a draft is accepted iff both sample it.

The token at position t is argmax(processed logits + noise(seed, sample_index, t)) at every level. So the output is that
of plain decoding with that seed: no draft, accepted or not, can change it, and no probabilities of drafts are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.core.config import Geometry
from sparsespec.core.noise import Key
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.sample.api import sample
from sparsespec.kernels.verify_inputs.api import LogitRows, per_logit_row
from sparsespec.sampling.match import match


class SharedNoise:
    """Samples each logit row with the noise of its position; accepts candidates while they equal what was sampled."""

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset({"capturable"})

    def bind(self, geometry: Geometry) -> None:
        """Allocate nothing."""

    def accepts(self, temperature: float) -> str | None:
        """Return None: every temperature is served, and 0 is greedy."""
        return None

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        """See `core.protocols.Verifier.verify`; `q` is not read."""
        at = per_logit_row(rows, len(logits), impl=fastest(rows.first))
        return match(self.sample(logits, at, self.key(at)), at, rows)

    def key(self, at: LogitRows) -> Key:
        """Return the key of each logit row's noise, [T].

        The tag is 0 in drafting, verifying and plain decoding alike: that is the whole method.
        """
        return Key(at.seed, at.sample_index, at.position, torch.zeros_like(at.seed))

    def sample(self, logits: Tensor, at: LogitRows, key: Key) -> Tensor:
        """Return one token per logit row, [T] int64; a hook for tests that bring a noise space of their own."""
        return sample(logits, at.temperature, at.top_k, at.top_p, at.min_p, *key, impl=fastest(logits))
