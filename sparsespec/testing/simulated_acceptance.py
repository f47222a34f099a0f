"""A verifier that accepts drafts at random, so that random weights can be timed at a given acceptance.

What it emits is not what the model says, so no preset can name it, and every result of it is marked `simulated`.
Whether a draft is accepted is a hash of (seed, sample index, position), computed on the device: a run can be repeated,
and a step can be recorded in a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.verify_inputs.api import LogitRows, per_logit_row
from sparsespec.sampling.match import match
from sparsespec.sampling.shared_noise import SharedNoise


def mean_accepted(chance: float, k: int) -> float:
    """Return how many of `k` drafts are accepted in the mean, if each next one is with probability `chance`."""
    return sum(chance**j for j in range(1, k + 1))


def chance_for(mean: float, k: int) -> float:
    """Return the probability with which each next of `k` drafts must be accepted, so that `mean` of them are.

    Raises:
        BadOption: if there is none.
    """
    if not 0 <= mean <= k:
        raise BadOption(f"of {k} drafts between 0 and {k} can be accepted in the mean, got {mean:g}")
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_accepted(middle, k) < mean else (low, middle)
    return high


_MIX = (0x2545F4914F6CDD1D, -0x61C8864680B583EB, 0x369DEA0F31A53F85)
"""Odd numbers of 64 bits, as int64: increments and a multiplier of well-known mixers."""


class SimulatedAcceptance:
    """Samples as `shared-noise` does; a VERIFY row's candidates are accepted at random, whatever was sampled.

    Args:
        mean: Accepted drafts of a whole round, in the mean; a round that is cut short accepts in proportion.
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset({"capturable"})

    def __init__(self, mean: float) -> None:
        self.mean = mean
        self._noise = SharedNoise()

    def bind(self, geometry: Geometry) -> None:
        """Find the chance for the longest round."""
        # on the device, so that recorded steps follow `aim`
        self._below = torch.zeros((), dtype=torch.int64, device=geometry.device)
        self._vocab = geometry.vocab
        self.aim(self.mean, geometry.max_draft or geometry.max_guess)

    def aim(self, mean: float, k: int) -> None:
        """Accept `mean` of `k` drafts in the mean from now on; nothing may be running."""
        # 33 bits: a chance of 1 is above all of them
        self._below.fill_(round(chance_for(mean, k) * 2**32))

    def accepts(self, temperature: float) -> str | None:
        """Return None: every temperature is served."""
        return None

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        """See `core.protocols.Verifier.verify`; `q` is not read, and the output has no meaning."""
        at = per_logit_row(rows, len(logits), impl=fastest(logits))
        sampled = self._noise.sample(logits, at, self._noise.key(at))
        # where a candidate is to be rejected, any other token will do
        other = torch.where(sampled == at.candidate, (sampled + 1) % self._vocab, sampled)
        forced = torch.where(self.is_accepted(at), at.candidate, other)
        full = rows.level[at.row] == 0
        return match(torch.where(at.judges & full, forced, sampled), at, rows)

    def is_accepted(self, at: LogitRows) -> Tensor:
        """Say of each logit row whether its candidate is accepted, [T] bool."""
        # a hash and no Philox: a handful of kernels, where a step of an engine has few others of this kind
        x = at.seed + at.sample_index * _MIX[0] + at.position * _MIX[1]
        for _ in range(2):
            x = (x ^ (x >> 32)) * _MIX[2]
        return (x ^ (x >> 29)) & 0xFFFFFFFF < self._below
