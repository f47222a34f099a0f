"""A verifier that accepts drafts by the toss of a coin, so that random weights can be timed at a given acceptance.

What it emits is not what the model says: it is no part of the package, stands on no shelf, and every result that it
has a hand in is marked `synthetic`. The coin is a hash of (seed, sample, position), so a run can be repeated, and it is
tossed on the device without a look from the host, so a step can be recorded in a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.sampling.shared_noise import SharedNoise
from sparsespec.sampling.spread import LogitRows, match, spread


def mean_accepted(chance: float, k: int) -> float:
    """Return how many of `k` drafts stand in the mean, if each stands with `chance` while those before it do."""
    return sum(chance**j for j in range(1, k + 1))


def chance_for(mean: float, k: int) -> float:
    """Return the chance with which each next of `k` drafts must stand, so that `mean` of them do.

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
"""Odd numbers of 64 bits, as they stand in an int64: increments and a multiplier of well-known mixers."""


class Synthetic:
    """Draws as `shared-noise` does; a VERIFY row's candidates stand by chance, whatever was drawn.

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
        # on the device, so that what was recorded heeds another aim
        self._below = torch.zeros((), dtype=torch.int64, device=geometry.device)
        self._vocab = geometry.vocab
        self.aim(self.mean, geometry.max_draft or geometry.max_guess)

    def aim(self, mean: float, k: int) -> None:
        """Let so many of `k` drafts stand in the mean from now on; nothing may be running."""
        # 33 bits: a chance of 1 is above all of them
        self._below.fill_(round(chance_for(mean, k) * 2**32))

    def accepts(self, temperature: float) -> str | None:
        """Return None: every temperature is served."""
        return None

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        """See `core.protocols.Verifier.verify`; `q` is not read, and what is emitted has no law."""
        at = spread(rows, len(logits))
        draws = self._noise.draw(logits, at, self._noise.key(at))
        # where a candidate must fall, whatever else was drawn will do
        other = torch.where(draws == at.candidate, (draws + 1) % self._vocab, draws)
        forced = torch.where(self.is_accepted(at), at.candidate, other)
        full = rows.level[at.row] == 0
        return match(torch.where(at.judges & full, forced, draws), at, rows)

    def is_accepted(self, at: LogitRows) -> Tensor:
        """Return how the coin of each logit row falls, [T] bool."""
        # a hash and no Philox: a handful of kernels, where a step of an engine has few others of this kind
        x = at.seed + at.sample_index * _MIX[0] + at.position * _MIX[1]
        for _ in range(2):
            x = (x ^ (x >> 32)) * _MIX[2]
        return (x ^ (x >> 29)) & 0xFFFFFFFF < self._below
