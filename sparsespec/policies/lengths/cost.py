"""Length `cost`: as far as tokens per second are expected to be most, and not at all where speculation loses.

What a round costs is asked of a `CostModel` (`core/cost.py`). What it yields follows from how many drafts of this
request were accepted, and a little from those of others: each is accepted with the same chance, independently, once
those before it were. The best length if all requests were alike is the one for this request.

Where the best is not to draft, a round is drafted now and then all the same, because nothing else shows that the text
has become easier. All requests do so in the same step, for a step in which one drafts costs what one does in which all
do, and none does where speculation would lose even if all drafts were accepted.

It knows the context of a row and how many requests are seated, but neither the contexts of others nor the scheduler:
the batch is all of them, each with this row's context, and rounds are spread evenly over the steps, as `staggered` does
it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sparsespec.core.config import Geometry
from sparsespec.core.cost import CostModel
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import DRAFT, Lengths
from sparsespec.core.result import RowResults
from sparsespec.core.view import Floats, Ints, View

_log = logging.getLogger(__name__)
_ALL = 0.99
"""Weight that the counts of all requests keep with each further row: many requests together change slowly."""
_LIKE = 10.0
"""So many candidates of all requests count beside those of one: of its own there are few while it hardly drafts."""
_NEWS = 32
"""Verifications, of all requests, after which the choice not to speculate is made anew."""
_SOONER = 8
"""A try that was accepted entirely is followed by another this many times sooner."""
_REMEMBERED = 1 << 16
"""Situations whose best length is remembered."""
_NEVER = -1


class Situation(NamedTuple):
    """What decides how far a round should go; each may be an array, with a number for each row.

    Attributes:
        batch: Requests that run.
        context: Tokens of each.
        chance: That a candidate is accepted if those before it were.
        share: Part of the context that a draft reads.
        stride: Drafts that a DRAFT row yields: 1, and more where guesses are accepted.
    """

    batch: Ints | int
    context: Ints | int
    chance: Floats | float
    share: Floats | float
    stride: Floats | float


class _Count:
    """A discounted count of each seat, and of all requests together.

    Args:
        n_seats: How many seats there are.
        memory: Weight that the count of a seat keeps with each further row.
        first: What is assumed of all requests before any result was collected.
    """

    def __init__(self, n_seats: int, memory: float, first: float) -> None:
        self._memory, self._first = memory, first
        # a row of a step weighs less in the count of all requests, the more rows of the step come after it
        self._weights = _ALL ** np.arange(n_seats - 1.0, -1.0, -1.0)
        self.own, self.all = np.zeros(n_seats), first

    def add(self, seat: Ints, new: Floats) -> None:
        """Add `new` [n] to the counts of `seat` [n]."""
        n = len(seat)
        self.own[seat] = self._memory * self.own[seat] + new
        self.all = _ALL**n * self.all + float(self._weights[-n:].dot(new))

    def forget_all(self) -> None:
        """Go back to what is assumed of all requests."""
        self.all = self._first


class Cost:
    """Proposes the lengths with the highest expected throughput.

    Args:
        costs: Name of a cost model of the package, or a file that `sparsespec profile` wrote for this model and device.
        draft: Tokens a round drafts at most; 0 with selector "none".
        guess: Guesses that a forward takes from the proposer; 0 with proposer "none". Without drafts it is the most.
        memory: Weight that the counts of a request keep with each further row, in [0, 1).
        probe: Steps without speculation after which a round tries again.
        margin: How much more than plain decoding a round must promise, as a share of it. What is lost by decoding
            plainly where drafting wins a little is that little, and costs are wrong by some: choosing positions and
            judging drafts is in none of them.
    """

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

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
            raise BadOption(f"memory is the weight of earlier results, in [0, 1), got {memory}")
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
        """Load the costs and allocate by seat; logs if the costs are of a model of another shape."""
        self._model = CostModel.load(self.costs)
        n = self._n_seats = geometry.n_seats
        # all lengths there are to choose from, the plain one first
        self._judged = np.arange(1 + (self.draft or self.guess))  # drafts, or guesses where there are no drafts
        nothing = np.zeros_like(self._judged)
        self._draft = self._judged if self.draft else nothing
        self._guess = np.where(self._judged > 0, self.guess, nothing) if self.draft else self._judged
        # accepted of tried candidates; KV tokens that drafts read, of how many; drafts, and the forwards they took
        firsts = (3.2, 4.0, 0.1, 1.0, 1.0, 1.0)
        self._counts = tuple(_Count(n, self.memory, first) for first in firsts)
        self._accepted, self._tried, self._read, self._full, self._drafts, self._forwards = self._counts
        self._collected = 0  # verifications
        self._known = np.zeros(n, dtype=np.bool_)
        self._wait = np.full(n, self.probe)  # steps between rounds that try
        self._tried_at = np.zeros(n, dtype=np.int64)  # step of the last round with speculation
        self._guessed = np.zeros(n, dtype=np.bool_)  # the last round was to judge guesses without a draft
        self._plain_at = np.full(n, _NEVER)  # the news at which it was found best not to speculate
        self._bests, self._trials = dict[int, int](), dict[int, int]()  # by situation, packed
        self._rounded = _round(np.arange(1 + geometry.max_model_len))
        names = ("n_layers", "n_heads", "n_kv_heads", "head_dim", "vocab")
        others = [name for name in names if self._model.geometry.get(name) != getattr(geometry, name)]
        if others:
            _log.info("length 'cost' is told the costs %r, of a model with another %s", self.costs, others[0])

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats: other requests sit there now; with all seats, also what all requests showed."""
        self._known[list(seats)] = False
        if len(set(seats)) == self._n_seats:
            self._collected = 0
            for count in self._counts:
                count.forget_all()

    def propose(self, view: View, index: Ints) -> Lengths:
        """Return the best lengths, (0, 0) where speculation loses; then now and then the best that try."""
        seat = view.seat[index]
        known = self._known[seat]
        if not known.all():
            self._begin(seat[~known], view.step)
        # in a batch that decodes plainly every row is asked in every step, and the host has no time for more
        news = (self._collected // _NEWS << 32) + view.step // self._wait[seat]
        asked = (self._plain_at[seat] != news).nonzero()[0]
        number = np.zeros_like(seat)
        if len(asked):
            number[asked] = self._choose(view, index[asked], seat[asked], news[asked])
        return Lengths(self._draft[number], self._guess[number])

    def observe(self, results: RowResults) -> None:
        """Learn what drafts read, and how many candidates were accepted."""
        known, draft = self._known[results.seat], results.phase == DRAFT
        drafted = (known & draft & (results.live > 0)).nonzero()[0]
        if len(drafted):
            seat = results.seat[drafted]
            self._read.add(seat, results.kv_read[drafted])
            self._full.add(seat, results.kv_full[drafted])
            # without guesses a forward yields one draft
            if self.guess:
                self._drafts.add(seat, results.n_emitted[drafted].astype(np.float64))
                self._forwards.add(seat, np.ones(len(seat)))
        judged = (results.n_candidates > 0) | self._guessed[results.seat]
        verified = (known & ~draft & judged).nonzero()[0]
        if len(verified):
            seat, accepted = results.seat[verified], results.n_accepted[verified]
            # a round that found nothing to judge failed too
            rejected = accepted < np.maximum(1, results.n_candidates[verified])
            self._accepted.add(seat, accepted.astype(np.float64))
            self._tried.add(seat, (accepted + rejected).astype(np.float64))
            self._wait[seat] = np.where(rejected, self.probe, max(1, self.probe // _SOONER))
            self._plain_at[seat] = _NEVER
            self._collected += len(seat)

    def _begin(self, seat: Ints, step: int) -> None:
        """Take new requests for ones like those before them, which have tried nothing yet."""
        self._accepted.own[seat] = self._tried.own[seat] = 0
        self._read.own[seat], self._full.own[seat] = self._read.all / self._full.all, 1
        self._drafts.own[seat], self._forwards.own[seat] = self._drafts.all / self._forwards.all, 1
        self._known[seat], self._guessed[seat] = True, False
        self._wait[seat], self._plain_at[seat] = self.probe, _NEVER
        # before the first verification of any request they try at once
        self._tried_at[seat] = step if self._collected else -1

    def _choose(self, view: View, index: Ints, seat: Ints, news: Ints) -> Ints:
        """Return the number of the length that each of the rows `index` [n] is to have, and note what was chosen."""
        packed = self._packed(view.num_running, view.n_hi[index], seat)
        best = self._remembered(self._bests, self.best, packed)
        plain = (best == 0).nonzero()[0]
        if len(plain):
            few, wait = seat[plain], self._wait[seat[plain]]
            trying = plain[view.step // wait > self._tried_at[few] // wait]
            if len(trying):
                best[trying] = self._remembered(self._trials, self.trial, packed[trying])
        speculates = best > 0
        self._plain_at[seat] = np.where(speculates, _NEVER, news)
        self._tried_at[seat[speculates]] = view.step
        if not self.draft:
            self._guessed[seat] = speculates
        return best

    def _packed(self, batch: int, n: Ints, seat: Ints) -> Ints:
        """Return what the best lengths follow from, rounded, so that most rounds find their answer remembered."""
        others = _LIKE * self._accepted.all / self._tried.all
        chance = (self._accepted.own[seat] + others) / (self._tried.own[seat] + _LIKE)
        share = self._read.own[seat] / self._full.own[seat]
        stride = self._drafts.own[seat] / self._forwards.own[seat]
        return _pack(batch, self._rounded.take(n, mode="clip"), chance, share, stride)

    def _remembered(self, known: dict[int, int], judge: Callable[[Situation], Ints], packed: Ints) -> Ints:
        """Return what `judge` says of each situation, asked only about those that are not `known`."""
        if len(known) > _REMEMBERED:
            known.clear()
        keys = packed.tolist()
        new = list({key for key in keys if key not in known})
        if new:
            known.update(zip(new, judge(unpacked(np.array(new))).tolist(), strict=True))
        return np.array([known[key] for key in keys])

    def best(self, at: Situation) -> Ints:
        """Return the number of the length to choose, 0 for the plain one; ties go to the shorter."""
        rates = self.rates(at)
        trial = 1 + rates[..., 1:].argmax(-1)
        return np.where(rates[..., 1:].max(-1) > (1 + self.margin) * rates[..., 0], trial, 0)

    def trial(self, at: Situation) -> Ints:
        """Return the number of the best that speculates, 0 where that would lose even if all were accepted."""
        could_win = self.best(at._replace(chance=np.ones_like(at.chance))) > 0
        return np.where(could_win, 1 + self.rates(at)[..., 1:].argmax(-1), 0)

    def rates(self, at: Situation) -> Floats:
        """Return the expected tokens per second of `batch` such requests at each length, the plain one first."""
        batch, context, chance, share, stride = (np.asarray(column)[..., None] for column in at)
        forwards = self._draft / stride
        steps = forwards + 1
        tokens = forwards * (1 + self._guess) + 1 + self._judged
        emitted = np.cumsum(chance**self._judged, axis=-1)
        context_bytes = batch * context * self._model.kv_token_bytes
        seconds = self._seconds(batch * tokens / steps, context_bytes / steps, context_bytes * forwards * share / steps)
        return batch * emitted / (steps * seconds)

    def _seconds(self, n_tokens: Floats, dense_bytes: Floats, sparse_bytes: Floats) -> Floats:
        """Return what `CostModel.step` does, for many steps at once; all have logits of all tokens."""
        model, attention = self._model, self._model.attention
        # requests whose rounds are alike have as many tokens in a step, so different numbers are few
        sizes, which = np.unique(n_tokens, return_inverse=True)
        products = np.array([model.layers(size) + model.head(size) for size in sizes.tolist()])
        reading = attention.seconds + dense_bytes * attention.per_dense_byte + sparse_bytes * attention.per_sparse_byte
        return np.maximum(products[which.reshape(n_tokens.shape)] + reading, model.host_seconds)


def _round(n: Ints) -> Ints:
    """Return numbers of tokens with their first four or five binary digits alone; all are multiples of 32."""
    unit = 1 << np.maximum(5, np.frexp(n)[1] - 4)
    return np.maximum(1, np.rint(n / unit).astype(np.int64)) * unit


def _pack(batch: int, context: Ints, chance: Floats, share: Floats, stride: Floats) -> Ints:
    """Return each situation [n] as one number, in which quotients are rounded and have three digits each."""
    sizes = (batch << 20) + (context >> 5)
    quotients = np.rint(100 * chance) * 1e6 + np.rint(100 * share) * 1e3 + np.rint(10 * stride)
    return sizes * 10**9 + quotients.astype(np.int64)


def unpacked(packed: Ints) -> Situation:
    """Return the situations [n] that were packed into these numbers."""
    sizes, quotients = np.divmod(packed, 10**9)
    chance, share, stride = quotients // 10**6 / 100, quotients // 10**3 % 1000 / 100, quotients % 1000 / 10
    return Situation(sizes >> 20, (sizes & (1 << 20) - 1) * 32, chance, share, stride)
