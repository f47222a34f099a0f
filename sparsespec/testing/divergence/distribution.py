"""Could another token have been sampled here, had the logits been off by no more than kernels err?

All distances are in units of processed logits, that is logits / temperature. `off` is what the gap of two tokens may
differ by between two runs. A token is *within reach* of a run that sampled another one if

- the filters keep it, or would if gaps changed by `off`, and
- whatever beats it by more than `off` would be masked if gaps changed by `off`.

If neither clause needs a filter's mask to change, the two tokens are a near-tie; else a filter's boundary lies between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparsespec.core.noise import Key, gumbel
from sparsespec.core.params import SamplingParams
from sparsespec.kernels.sample.api import process

MANY = 16
"""So many tokens that beat a token by more than kernels err are not all at a filter's boundary."""
FAR = 64.0
"""A distance that is as good as infinite: noise spans less than 26."""


@dataclass(frozen=True)
class Reach:
    """How far a token was from being sampled.

    Attributes:
        ok: Whether it is within reach.
        by_filter: Whether a filter's mask has to change for it.
        gap: How far its perturbed logit lies below the best kept one's; infinite if it is masked.
        boundary: The farthest that a mask which has to change is from changing; 0 if none has to.
    """

    ok: bool
    by_filter: bool
    gap: float
    boundary: float


@dataclass(frozen=True)
class Distribution:
    """What one run sampled from at one position.

    Attributes:
        logits: The run's logits, [V].
        params: How the request is decoded.
        seed: The request's seed.
        position: The position of the token.
    """

    logits: Tensor
    params: SamplingParams
    seed: int
    position: int

    @cached_property
    def scaled(self) -> Tensor:
        """Logits over temperature, the best is 0, [V] float64 on the CPU; greedy ones are shifted and no more."""
        wide = self.logits.double().cpu()
        return (wide - wide.max()) / (self.params.temperature or 1.0)

    @cached_property
    def scores(self) -> Tensor:
        """`scaled` plus the position's noise, whatever the filters mask, [V] float64."""
        if self.params.is_greedy:
            return self.scaled
        zero = torch.tensor([0])
        key = Key(torch.tensor([self.seed]), zero, torch.tensor([self.position]), zero)
        return self.scaled + gumbel(*key, len(self.scaled), torch.float32)[0].double()

    @cached_property
    def kept(self) -> Tensor:
        """Which tokens the filters keep, [V] bool."""
        p = self.params
        if p.is_greedy:
            return torch.ones_like(self.scaled, dtype=torch.bool)
        floats = (torch.tensor([value], dtype=torch.float64) for value in (p.temperature, p.top_p, p.min_p))
        temperature, top_p, min_p = floats
        wide = self.logits.double().cpu()[None]
        return process(wide, temperature, torch.tensor([p.top_k]), top_p, min_p)[0].isfinite()

    def margin(self, token: int) -> float:
        """Return by how much gaps must change before a filter masks a token; negative for one that is masked."""
        p, mine = self.params, float(self.scaled[token])
        margins = [FAR]
        if p.is_greedy:
            return FAR
        others = torch.cat((self.scaled[:token], self.scaled[token + 1 :])).sort(descending=True).values
        if 0 < p.top_k <= len(others):
            margins.append(mine - float(others[p.top_k - 1]))
            others = others[: p.top_k - 1]  # top_p is over what top_k keeps
        if p.top_p < 1:
            margins.append(_top_p_margin(others, mine, p.top_p))
        if p.min_p > 0:
            margins.append(mine - math.log(p.min_p))
        return min(margins)

    def reach(self, token: int, off: float) -> Reach:
        """Say whether `token` could have been sampled; `off` is what gaps may be off by."""
        mine = float(self.scores[token])
        masked = not bool(self.kept[token])
        rivals: list[int] = (self.kept & (self.scores > mine + off)).nonzero()[:, 0].tolist()
        moved = [abs(self.margin(t)) for t in (*([token] if masked else []), *rivals[:MANY])]
        return Reach(
            ok=len(rivals) <= MANY and all(distance <= off for distance in moved),
            by_filter=bool(moved),
            gap=math.inf if masked else float(self.scores[self.kept].max()) - mine,
            boundary=max(moved, default=0.0),
        )


def _top_p_margin(others: Tensor, mine: float, top_p: float) -> float:
    """Return the margin of a token at `mine` among `others` (sorted, best first) to the boundary of top_p.

    A token is kept while what is ahead of it has less mass than top_p. If gaps change by g, those within g change
    places with it, and the odds of what is ahead against the rest change by a factor exp(g) at most.
    """
    mass = others.exp().cumsum(0)
    total = (float(mass[-1]) if len(mass) else 0.0) + math.exp(mine)
    ascending = others.flip(0).contiguous()

    def keeps(g: float) -> bool:
        """Say whether it is kept if gaps change by |g|: against it if g > 0, in its favour if g < 0."""
        n_ahead = len(others) - int(torch.searchsorted(ascending, mine - g, right=True))
        ahead = float(mass[n_ahead - 1]) if n_ahead else 0.0
        return ahead * math.exp(g) * (1 - top_p) < top_p * (total - ahead)

    low, high = (0.0, FAR) if keeps(0.0) else (-FAR, 0.0)
    if keeps(high):
        return high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low
