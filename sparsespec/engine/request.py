"""What the host knows of a request: the text so far as heard, the round it is in, and the rows not yet heard.

Bounds are derived from the unheard rows each time they are asked for, never stored.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from sparsespec.core.params import SamplingParams
from sparsespec.core.plan import Phase
from sparsespec.metrics.speculation import SpecMetrics

# looking a member up on its enum takes longer than adding up a row
_VERIFY = Phase.VERIFY


@dataclass(slots=True)
class Round:
    """The lengths of the present round, fixed at its start."""

    k: int
    guess: int
    stop_below: float


class Sent(NamedTuple):
    """A DRAFT or VERIFY row that was launched; `at_least` is what it adds to d or n in any case."""

    phase: Phase
    n_query: int
    k: int
    at_least: int
    round: Round


class Bounds(NamedTuple):
    """What the host heard, plus what rows not yet heard may add."""

    n_lo: int
    n_hi: int
    d_lo: int
    d_hi: int


@dataclass(slots=True, eq=False)
class Request:
    """One sample of one prompt; identity is the object, never the seat."""

    number: int  # order of arrival, and age
    group: int  # id that `add` returned; its samples share a prompt
    sample: int
    prompt: tuple[int, ...]
    params: SamplingParams
    seed: int
    limit: int  # tokens it may hold, prompt and output
    stop_ids: frozenset[int]
    seat: int = -1
    n: int = 0  # heard committed tokens
    d: int = 0  # heard drafts of the present round
    to_prefill: int = 0
    unheard: deque[Sent] = field(default_factory=deque)
    round: Round | None = None
    first_fill: bool = True  # its prompt was never filled to the end; recomputation scores nothing
    first_round: bool = True
    starved: bool = False
    preempted: bool = False  # lost its pages, and not yet ready to be filled again
    must_verify: bool = False
    placed_at: int = 0
    confidence: float = float("nan")
    output: list[int] = field(default_factory=list)
    logprobs: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    finished: bool = False
    metrics: SpecMetrics = field(default_factory=SpecMetrics)

    @property
    def bounds(self) -> Bounds:
        """Return `n_lo ≤ c ≤ n_hi` and `d_lo ≤ d ≤ d_hi` for the device's present c and d."""
        n_lo = n_hi = self.n
        d_lo = d_hi = self.d
        for phase, n_query, k, at_least, _ in self.unheard:
            if phase is _VERIFY:
                n_lo, n_hi = n_lo + at_least, n_hi + n_query
                d_lo = d_hi = 0
            else:
                d_lo = min(k, d_lo + at_least)
                d_hi = min(k, d_hi + n_query)
        return Bounds(n_lo, n_hi, d_lo, d_hi)

    @property
    def accepted_mean(self) -> float:
        """Accepted drafts per round that drafted; NaN before the first."""
        rounds = self.metrics.num_spec_rounds
        return self.metrics.num_accepted_tokens / rounds if rounds else float("nan")
