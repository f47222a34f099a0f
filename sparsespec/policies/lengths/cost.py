"""Length `cost`: as far as tokens per second are expected to be most, and not at all where speculation loses.

What a round costs is asked of a `CostModel` (`core/cost.py`), what it yields follows from the drafts of this request
that stood, and a little from those of others: each stands with the same chance, independently, once those before it
did. The best length for everybody alike is the one for this request.

Where the best is not to draft, a round is drafted now and then all the same, because nothing else shows that the text
has become easier. All requests do so in the same step, for a step in which one drafts costs what one does in which all
do, and nobody does where speculation would lose even if all drafts stood.

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
_PLAIN = Lengths(0, 0)
_ALL = 0.99
"""Weight that what was heard of anybody keeps with each further row: many requests together change slowly."""
_LIKE = 10.0
"""As many candidates of anybody count beside those of a request: of its own there are few while it hardly drafts."""
_NEWS = 32
"""Verifications of anybody after which it is asked again whether to speculate."""
_SOONER = 8
"""A try that stood entirely is followed by another this many times sooner."""


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
class _Counts:
    """Discounted counts of what was heard; the first ones are assumed."""

    stood: float = 3.2
    tried: float = 4.0
    drafts: float = 1.0
    forwards: float = 1.0
    read: float = 0.1
    full: float = 1.0

    def verified(self, keep: float, stood: int, fell: bool) -> None:
        """Take in a verification of which `stood` candidates stood; one that `fell` was tried too."""
        self.stood, self.tried = keep * self.stood + stood, keep * self.tried + stood + fell

    def drafted(self, keep: float, n: int, read: float, full: float) -> None:
        """Take in a DRAFT row that drew `n` tokens."""
        self.drafts, self.forwards = keep * self.drafts + n, keep * self.forwards + 1
        self.read, self.full = keep * self.read + read, keep * self.full + full

    def like(self) -> _Counts:
        """Return counts of who has tried nothing yet, and reads what these did."""
        return _Counts(0.0, 0.0, self.drafts / self.forwards, 1.0, self.read / self.full)


@dataclass(slots=True)
class _Past:
    """What is known of a seat."""

    counts: _Counts
    wait: int  # steps between rounds that try
    tried_at: int  # step before the last round with speculation
    plain_at: tuple[int, int] | None = None  # what there was to go by when it was found best not to speculate
    guessed: bool = False  # the last round was to judge guesses without a draft


class Cost:
    """Proposes the lengths with the highest expected throughput.

    Args:
        costs: Name of a cost model of the package, or a file that `sparsespec profile` wrote for this model and device.
        draft: Tokens a round drafts at most; 0 with selector "none".
        guess: Guesses that a forward takes from the proposer; 0 with proposer "none". Without drafts it is the most.
        memory: Weight that what was heard of a request keeps with each further row, in [0, 1).
        probe: Steps without speculation after which a round tries again.
        margin: How much more than plain decoding a round must promise, as a share of it. What is lost by decoding
            plainly where drafting wins a little is that little, and costs are wrong by some: choosing positions and
            judging drafts is in none of them.
    """

    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()

    def __init__(
        self,
        costs: str = "h100-qwen3-8b",
        draft: int = 12,
        guess: int = 0,
        memory: float = 0.95,
        probe: int = 64,
        margin: float = 0.2,
    ) -> None:
        if draft < 0 or guess < 0 or not draft + guess:
            raise BadOption(f"cost chooses up to draft or guess tokens, not both 0, got draft={draft}, guess={guess}")
        if not 0 <= memory < 1:
            raise BadOption(f"memory is the weight of what was heard before, in [0, 1), got {memory}")
        if probe < 1:
            raise BadOption(f"probe is a number of steps, 1 or more, got {probe}")
        if not 0 <= margin < float("inf"):
            raise BadOption(f"margin is what a round must promise above plain decoding, 0 or more, got {margin}")
        CostModel.load(costs)
        self.costs, self.draft, self.guess, self.memory = costs, draft, guess, memory
        self.probe, self.margin = probe, margin

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
        self._n_seats, self._pasts = geometry.n_seats, dict[int, _Past]()
        self._forget_all()
        self._best = lru_cache(4096)(self.best)
        names = ("n_layers", "n_heads", "n_kv_heads", "head_dim", "vocab")
        others = [name for name in names if self._model.geometry.get(name) != getattr(geometry, name)]
        if others:
            _log.info("length 'cost' is told the costs %r, of a model with another %s", self.costs, others[0])

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats: other requests sit there now; with all seats, also what was heard of anybody."""
        for seat in seats:
            self._pasts.pop(seat, None)
        if len(set(seats)) == self._n_seats:
            self._forget_all()

    def propose(self, row: RowView) -> Lengths:
        """Return the best lengths, (0, 0) where speculation loses; then now and then the best that try."""
        step, past = row.waiting_since, self._pasts.get(row.seat)
        if past is None:
            # of nobody anything was heard: try at once
            past = self._pasts[row.seat] = _Past(self._all.like(), self.probe, step if self._heard else -1)
        # in a batch that decodes plainly every row is asked in every step, and the host has no time for more
        now = self._heard // _NEWS, step // past.wait
        if now == past.plain_at:
            return _PLAIN
        at = self._situation(row, past.counts)
        best, trial = self._best(at)
        if best == _PLAIN and step // past.wait > past.tried_at // past.wait and self._could_win(at):
            best = trial
        past.plain_at = now if best == _PLAIN else None
        past.tried_at = past.tried_at if best == _PLAIN else step
        past.guessed = not best.draft and best.guess > 0
        return best

    def observe(self, result: RowResult) -> None:
        """Learn what a draft read, or how many candidates stood."""
        # plain rounds are most of what is heard in a batch that decodes plainly, and say nothing
        if not (result.k or result.n_candidates or self.guess):
            return
        past = self._pasts.get(result.seat)
        if past is None:
            return
        if result.phase is Phase.DRAFT:
            if result.live:
                for counts, keep in ((past.counts, self.memory), (self._all, _ALL)):
                    counts.drafted(keep, len(result.tokens), result.kv_read, result.kv_full)
        elif result.n_candidates or past.guessed:
            stood, fell = result.n_accepted, result.n_accepted < max(1, result.n_candidates)
            for counts, keep in ((past.counts, self.memory), (self._all, _ALL)):
                counts.verified(keep, stood, fell)
            past.wait = self.probe if fell else max(1, self.probe // _SOONER)
            past.plain_at = None
            self._heard += 1

    def _forget_all(self) -> None:
        self._all, self._heard = _Counts(), 0  # verifications

    def _situation(self, row: RowView, counts: _Counts) -> Situation:
        """Return what the best lengths follow from, rounded, so that most rounds find their answer remembered."""
        unit = 1 << max(5, row.n_hi.bit_length() - 4)
        others = _LIKE * self._all.stood / self._all.tried
        return Situation(
            row.running,
            max(1, round(row.n_hi / unit)) * unit,
            round((counts.stood + others) / (counts.tried + _LIKE), 2),
            round(counts.read / counts.full, 2),
            round(counts.drafts / counts.forwards, 1),
        )

    def _could_win(self, at: Situation) -> bool:
        """Say whether speculation would win if all candidates stood."""
        return self._best(at._replace(chance=1.0))[0] != _PLAIN

    def best(self, at: Situation) -> tuple[Lengths, Lengths]:
        """Return the lengths to choose, and the best among those that speculate; ties go to the shorter."""
        if self.draft:
            trials = [Lengths(k, self.guess) for k in range(1, self.draft + 1)]
        else:
            trials = [Lengths(0, guess) for guess in range(1, self.guess + 1)]
        rates = [self.rate(lengths, at) for lengths in trials]
        trial = trials[rates.index(max(rates))]
        return (trial if max(rates) > (1 + self.margin) * self.rate(_PLAIN, at) else _PLAIN), trial

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
