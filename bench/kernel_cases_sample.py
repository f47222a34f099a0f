"""Sampling and the judgement of drafts as cases of `bench.kernels`: `draw`, what is asked about a law, and a chain.

Logits are standard normal: at so flat a law the noise of every token counts, and nothing is ruled out early.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench import flashinfer_peer
from bench.kernel_cases import Ready, Shape
from bench.timing import buffers_for
from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.core.noise import Key, gumbel
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.sample.api import logprobs, probs, process, sample, top_probability
from sparsespec.sampling.shared_noise import SharedNoise
from sparsespec.sampling.spread import spread

DEVICE = "cuda"
VOCAB = 151936
"""Qwen3's vocabulary."""
ROWS = 121
"""Logit rows of a step of 57 requests, 8 of which verify 8 drafts each."""
TIED = 1e-5
"""Scores closer than this may be told apart by the rounding of a logarithm alone."""
CLOSE = 1e-4
"""Largest relative error of a probability, and error of its logarithm."""
SIGMAS = 6
"""How far off its mean a peer's draws may be, in standard deviations."""


@dataclass(frozen=True)
class Filters:
    """Temperature and filters of all rows of a case."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def columns(self, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what `draw` takes for `n` rows."""
        real = partial(torch.full, (n,), dtype=torch.float64, device=DEVICE)
        return real(self.temperature), torch.full((n,), self.top_k, device=DEVICE), real(self.top_p), real(0.0)


@dataclass(frozen=True)
class Draw:
    """Rows of logits to draw a token from, each with a key of its own."""

    dtype: torch.dtype
    filters: Filters
    rows: int = ROWS
    vocab: int = VOCAB

    def __call__(self, _: Shape) -> Ready:
        """Allocate logits."""
        columns, key = self.filters.columns(self.rows), keys(self.rows)
        sets = laws(self.rows, self.vocab, self.dtype)
        calls = [partial(sample, x, *columns, *key, impl=fastest(x)) for x in sets]
        wrong = lambda: astray(calls[0](), sets[0], columns, key)  # noqa: E731
        f = self.filters
        peers = flashinfer_peer.sampled(sets, f.temperature, f.top_k, f.top_p)
        n_bytes = sets[0].numel() * sets[0].element_size()
        return Ready(calls, n_bytes, wrong, peers, lambda got: are_draws(got.long(), sets[0], columns))


@dataclass(frozen=True)
class Sure:
    """Rows of logits whose best token's probability is asked for."""

    dtype: torch.dtype
    rows: int = ROWS
    vocab: int = VOCAB

    def __call__(self, _: Shape) -> Ready:
        """Allocate logits."""
        sets = laws(self.rows, self.vocab, self.dtype)
        calls = [partial(top_probability, x, impl=fastest(x)) for x in sets]

        def wrong() -> str:
            want = top_probability(sets[0].double())
            e = float(((calls[0]() - want) / want).abs().max())
            return "" if e < CLOSE else f"it errs by {e:.2g}"

        return Ready(calls, sets[0].numel() * sets[0].element_size(), wrong)


@dataclass(frozen=True)
class Law:
    """Rows of logits whose law is written out."""

    dtype: torch.dtype
    filters: Filters
    rows: int = ROWS
    vocab: int = VOCAB

    def __call__(self, _: Shape) -> Ready:
        """Allocate logits."""
        columns = self.filters.columns(self.rows)
        sets = laws(self.rows, self.vocab, self.dtype)
        calls = [partial(probs, x, *columns, impl=fastest(x)) for x in sets]

        def wrong() -> str:
            got, want = calls[0](), probs(sets[0].float(), *columns)
            if not torch.equal(got > 0, want > 0):
                return "other tokens have none"
            e = float(((got - want) / want).nan_to_num(0).abs().max())
            return "" if e < CLOSE else f"it errs by {e:.2g}"

        return Ready(calls, sets[0].numel() * (sets[0].element_size() + 4), wrong)


@dataclass(frozen=True)
class Best:
    """Rows of logits of whose `n` best tokens log-probabilities are asked for."""

    dtype: torch.dtype
    n: int
    rows: int = ROWS
    vocab: int = VOCAB

    def __call__(self, _: Shape) -> Ready:
        """Allocate logits."""
        chosen = torch.arange(self.rows, device=DEVICE)
        sets = laws(self.rows, self.vocab, self.dtype)
        calls = [partial(logprobs, x, chosen, self.n, impl=fastest(x)) for x in sets]

        def wrong() -> str:
            got, want = calls[0](), logprobs(sets[0], chosen, self.n)
            pairs = ((got.values, want.values), (got.chosen_value, want.chosen_value))
            e = max(float((a - b).abs().max()) for a, b in pairs)
            if not torch.equal(got.ids, want.ids):
                return "tokens differ from the reference's"
            return "" if e < CLOSE else f"it errs by {e:.2g}"

        return Ready(calls, sets[0].numel() * sets[0].element_size(), wrong)


@dataclass(frozen=True)
class Chain:
    """Rows that verify `drafts` drafts each, as `shared-noise` does; beside them, the same draws and nothing else.

    Row r's first r drafts are what will be drawn, and the next one is not.
    """

    dtype: torch.dtype
    filters: Filters
    rows: int = 8
    drafts: int = 8
    vocab: int = VOCAB

    def __call__(self, _: Shape) -> Ready:
        """Allocate logits, and drafts that stand as said."""
        verifier, n_logits = SharedNoise(), self.rows * (self.drafts + 1)
        stand = torch.arange(self.rows, device=DEVICE) % (self.drafts + 1)
        chains, draws = [], []
        for x in laws(n_logits, self.vocab, self.dtype):
            rows = self._judged(torch.zeros(self.rows, self.drafts, dtype=torch.int64, device=DEVICE))
            at = spread(rows, n_logits)
            columns, key = (at.temperature, at.top_k, at.top_p, at.min_p), verifier.key(at)
            alone = partial(sample, x, *columns, *key, impl=fastest(x))
            right = alone().view(self.rows, -1)[:, :-1]
            column = torch.arange(self.drafts, device=DEVICE)
            drafted = torch.where(column < stand[:, None], right, (right + 1) % self.vocab)
            chains.append(partial(verifier.verify, x, self._judged(drafted.contiguous()), None))
            draws.append((alone, x, columns, key))

        def wrong() -> str:
            alone, x, columns, key = draws[0]
            drawn = alone()
            return astray(drawn, x, columns, key) or misjudged(chains[0](), drawn, stand)

        n_bytes = n_logits * self.vocab * torch.finfo(self.dtype).bits // 8
        peers = {"its draws": lambda: [alone for alone, *_ in draws]}
        return Ready(chains, n_bytes, wrong, peers, lambda got: torch.equal(got, draws[0][0]()))

    def _judged(self, candidates: Tensor) -> VerifyInputs:
        """Return the rows as a verifier sees them."""
        n, device = self.rows, candidates.device
        row = torch.arange(n, device=device)
        temperature, top_k, top_p, min_p = self.filters.columns(n)
        return VerifyInputs(
            first=row * (self.drafts + 1),
            count=torch.full((n,), self.drafts, device=device),
            candidates=candidates,
            sampled=torch.ones(n, dtype=torch.bool, device=device),
            level=torch.zeros_like(row),
            position=1000 + 17 * row,
            n_committed=1000 + 17 * row,
            seed=row + 1,
            sample_index=torch.zeros_like(row),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
        )


def laws(n_rows: int, vocab: int, dtype: torch.dtype) -> list[Tensor]:
    """Return sets of logits that together exceed the L2 cache."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    n_sets = buffers_for(n_rows * vocab * torch.finfo(dtype).bits // 8)
    return [torch.randn(n_rows, vocab, device=DEVICE, generator=generator).to(dtype) for _ in range(n_sets)]


def keys(n: int) -> Key:
    """Return a noise key for each of `n` rows."""
    row = torch.arange(n, device=DEVICE)
    return Key(row + 1, torch.zeros_like(row), 1000 + row, torch.zeros_like(row))


def astray(got: Tensor, logits: Tensor, columns: tuple[Tensor, ...], key: Key) -> str:
    """Return which tokens are neither the reference's nor, by score, as good within rounding."""
    want = sample(logits, *columns, *key)
    parted = (got != want).nonzero()[:, 0]
    if not len(parted):
        return ""
    some = [x[parted] for x in (logits.float(), *columns, *key)]
    score = process(*some[:5]) + gumbel(*some[5:], logits.shape[1], torch.float32)
    lost = (score.gather(1, want[parted][:, None]) - score.gather(1, got[parted][:, None])).max()
    return "" if float(lost) < TIED else f"a token is {lost:.2g} below the reference's"


def misjudged(verified: VerifyOutput, drawn: Tensor, stand: Tensor) -> str:
    """Return what is wrong with a chain of which `stand` [R] candidates stand, where `drawn` [T] was drawn."""
    own = drawn.view(len(stand), -1)
    shown = torch.arange(own.shape[1], device=own.device) <= stand[:, None]
    want = {"tokens": torch.where(shown, own, 0), "emitted": stand + 1, "accepted": stand}
    wrong = [name for name, x in want.items() if not torch.equal(getattr(verified, name), x)]
    return ", ".join(f"{name} are not what was drawn" for name in wrong)


def are_draws(tokens: Tensor, logits: Tensor, columns: tuple[Tensor, ...]) -> bool:
    """Say whether another's tokens, drawn with other noise, are what these laws give.

    None lies below the last that a filter keeps, and their mean logit is the laws' within `SIGMAS`: that tells a law of
    a wrong row or filter, and no more.
    """
    x = logits.double()
    odds = probs(logits.float(), *columns).double()
    mean = (odds * x).sum(-1)
    spreads = (odds * (x - mean[:, None]).square()).sum(-1)
    found = x.gather(1, tokens[:, None])[:, 0]
    least = x.masked_fill(odds == 0, torch.inf).amin(-1)
    return bool((found >= least).all() and (found - mean).sum().abs() <= SIGMAS * spreads.sum().sqrt())
