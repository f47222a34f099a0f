"""Length `cost`: as far as tokens per second are expected to be most, and not at all where speculation loses.

What a round costs is asked of a `CostModel` (`core/cost.py`), what it yields follows from the drafts of this request
that stood: each stands with the same chance, independently, once those before it did. The best length for everybody
alike is the one for this request. Where that is 0 drafts, a round is drafted now and then all the same, because nothing
else shows that the text has become easier; one that stands entirely is followed by another at once.

It knows the context of a row and how many requests are seated, but neither the contexts of others nor the scheduler:
the batch is all of them, each with this row's context, and rounds are spread evenly over the steps, as `staggered` does
it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from sparsespec.core.config import Geometry
from sparsespec.core.cost import CostModel
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Lengths, Phase
from sparsespec.core.result import RowResult
from sparsespec.core.view import RowView

_log = logging.getLogger(__name__)
_CONTEXT = 256
"""Tokens of context that are not told apart."""


class Situation(NamedTuple):
    """What decides how far a round should go.

    Attributes:
        batch: Requests that run.
        context: Tokens of each.
        chance: That a candidate stands if those before it did.
        share: Part of the context that a draft reads.
        stride: Drafts that a DRAFT row yields: 1, and more where guesses stand.
    """

    batch: int
    context: int
    chance: float
    share: float
    stride: float


@dataclass(slots=True)
class _Past:
    """Discounted counts of what was heard of a seat; the first ones are assumed."""

    stood: float = 3.2
    tried: float = 4.0
    drafts: float = 1.0
    forwards: float = 1.0
    read: float = 0.1
    full: float = 1.0
    plain: int = 0  # rounds without speculation since the last with it
    guessed: bool = False  # the last round was to judge guesses without a draft


class Cost:
    """Proposes the lengths with the highest expected throughput.

    Args:
        costs: Name of a cost model of the package, or a file that `sparsespec profile` wrote for this model and device.
        draft: Tokens a round drafts at most; 0 with selector "none".
        guess: Guesses that a forward takes from the proposer; 0 with proposer "none". Without drafts it is the most.
        memory: Weight that what was heard keeps with each further row, in [0, 1).
        probe: Rounds without speculation after which one round tries again.
    """

    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()

    def __init__(
        self, costs: str = "h100-qwen3-8b", draft: int = 12, guess: int = 0, memory: float = 0.9, probe: int = 64
    ) -> None:
        if draft < 0 or guess < 0 or not draft + guess:
            raise BadOption(f"cost chooses up to draft or guess tokens, not both 0, got draft={draft}, guess={guess}")
        if not 0 <= memory < 1:
            raise BadOption(f"memory is the weight of what was heard before, in [0, 1), got {memory}")
        if probe < 1:
            raise BadOption(f"probe is a number of rounds, 1 or more, got {probe}")
        CostModel.load(costs)
        self.costs, self.draft, self.guess, self.memory, self.probe = costs, draft, guess, memory, probe

    @property
    def max_draft(self) -> int:
        """Return `draft`."""
        return self.draft

    @property
    def max_guess(self) -> int:
        """Return `guess`."""
        return self.guess

    def bind(self, geometry: Geometry) -> None:
        """Load the costs; logs if they are of a model of another shape."""
        self._model = CostModel.load(self.costs)
        self._pasts: dict[int, _Past] = {}
        self._best = lru_cache(4096)(self.best)
        names = ("n_layers", "n_heads", "n_kv_heads", "head_dim", "vocab")
        others = [name for name in names if self._model.geometry.get(name) != getattr(geometry, name)]
        if others:
            _log.info("length 'cost' is told the costs %r, of a model with another %s", self.costs, others[0])

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats: another request sits there now."""
        for seat in seats:
            self._pasts.pop(seat, None)

    def propose(self, row: RowView) -> Lengths:
        """Return the best lengths, (0, 0) where speculation loses; then every `probe`-th round the best that try."""
        past = self._pasts.setdefault(row.seat, _Past())
        # rounded, so that most rounds find their answer remembered
        best, trial = self._best(
            Situation(
                row.running,
                -(-row.n_hi // _CONTEXT) * _CONTEXT,
                round(past.stood / past.tried, 2),
                round(past.read / past.full, 2),
                round(past.drafts / past.forwards, 1),
            )
        )
        past.plain = past.plain + 1 if best == (0, 0, 0.0) else 0
        if past.plain > self.probe:
            best, past.plain = trial, 0
        past.guessed = not best.draft and best.guess > 0
        return best

    def observe(self, result: RowResult) -> None:
        """Learn what a draft read, or how many candidates stood."""
        past, keep = self._pasts.setdefault(result.seat, _Past()), self.memory
        if result.phase is Phase.DRAFT:
            if result.live:
                past.drafts, past.forwards = keep * past.drafts + len(result.tokens), keep * past.forwards + 1
                past.read, past.full = keep * past.read + result.kv_read, keep * past.full + result.kv_full
            return
        fell = result.n_accepted < result.n_candidates or (past.guessed and not result.n_candidates)
        if fell or result.n_candidates:
            past.stood, past.tried = keep * past.stood + result.n_accepted, keep * past.tried + result.n_accepted + fell
        if result.n_candidates and not fell:
            past.plain = self.probe

    def best(self, at: Situation) -> tuple[Lengths, Lengths]:
        """Return the lengths of the highest rate, and the best among those that speculate; ties go to the shorter."""
        if self.draft:
            trials = [Lengths(k, self.guess) for k in range(1, self.draft + 1)]
        else:
            trials = [Lengths(0, guess) for guess in range(1, self.guess + 1)]
        trial = max(trials, key=lambda lengths: self.rate(lengths, at))
        return max(Lengths(0, 0), trial, key=lambda lengths: self.rate(lengths, at)), trial

    def rate(self, lengths: Lengths, at: Situation) -> float:
        """Return the expected tokens per second of `batch` such requests."""
        k, guess, _ = lengths
        forwards = k / at.stride
        steps = forwards + 1
        tokens = forwards * (1 + guess) + 1 + (k or guess)
        stand = sum(at.chance**i for i in range(1, 1 + (k or guess)))
        context_bytes = at.batch * at.context * self._model.kv_token_bytes
        n_tokens = at.batch * tokens / steps
        step = self._model.step(n_tokens, n_tokens, context_bytes / steps, context_bytes * forwards * at.share / steps)
        return at.batch * (1 + stand) / (steps * step)
