"""Cases of `bench.kernels` on logits: `sample`, what is asked about a distribution, and a verifier's judgement.

Logits are standard normal: at so flat a distribution the noise of every token counts, and nothing is ruled out early.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.kernels import case, peers
from bench.kernels.case import OnGpu, Ready, judged
from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.engine.profile.clock import Call
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.sample.api import probs
from sparsespec.kernels.verify_inputs.api import per_logit_row
from sparsespec.sampling.shared_noise import SharedNoise
from sparsespec.testing.ops.op import Args, KernelOp
from sparsespec.testing.ops.sampling import LOGPROBS, OFF, PROBS, SAMPLE, TOP_PROBABILITY, Filters, columns

VOCAB = 151936
"""Qwen3's vocabulary."""
ROWS = 121
"""Logit rows of a step of 57 requests, 8 of which verify 8 drafts each."""
NUCLEUS: Filters = (0.65, 20, 0.95, 0.0)
FILTERS = ("temperature", "top_k", "top_p", "min_p")
SIGMAS = 6
"""How far off its mean a peer's samples may be, in standard deviations."""


def flat(args: Args, seed: int) -> Args:
    """Return arguments with standard normal logits."""
    return {**args, "logits": normal(args["logits"], seed)}


def normal(like: Tensor, seed: int) -> Tensor:
    """Return standard normal numbers."""
    generator = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(like.shape, generator=generator, device=like.device).to(like.dtype)


def on_logits(op: KernelOp, dtype: torch.dtype, *, rows: int = ROWS, vocab: int = VOCAB, **sizes: Any) -> OnGpu:
    """Return an op on `rows` rows of logits."""
    return OnGpu(op, {"n": rows, "vocab": vocab, **sizes}, dtype, judged, flat)


def sampled(dtype: torch.dtype, filters: Filters, *, rows: int = ROWS, vocab: int = VOCAB) -> OnGpu:
    """Return rows of logits to sample a token from, each with a key of its own."""
    sizes = {"filters": (filters,) * rows, "vocab": vocab}
    return OnGpu(SAMPLE, sizes, dtype, judged, flat, peers=peers.sampled, agrees=are_sampled)


def distribution(dtype: torch.dtype, filters: Filters, *, rows: int = ROWS, vocab: int = VOCAB) -> OnGpu:
    """Return rows of logits whose distribution is written out."""
    return OnGpu(PROBS, {"filters": (filters,) * rows, "vocab": vocab}, dtype, judged, flat)


top_probability = partial(on_logits, TOP_PROBABILITY)
logprobs = partial(on_logits, LOGPROBS)


def are_sampled(tokens: Tensor, _: Tensor, args: Args) -> bool:
    """Say whether another's tokens, sampled with other noise, are what these distributions give.

    None lies below the last that a filter keeps, and their mean logit is the distributions' within `SIGMAS`: that tells
    a distribution of a wrong row or filter, and no more.
    """
    x = args["logits"].double()
    odds = probs(args["logits"].float(), *(args[name] for name in FILTERS)).double()
    mean = (odds * x).sum(-1)
    variance = (odds * (x - mean[:, None]).square()).sum(-1)
    found = x.gather(1, tokens.long()[:, None])[:, 0]
    least = x.masked_fill(odds == 0, torch.inf).amin(-1)
    return bool((found >= least).all() and (found - mean).sum().abs() <= SIGMAS * variance.sum().sqrt())


@dataclass(frozen=True)
class Verified:
    """Rows that verify `drafts` drafts each, as `shared-noise` does; beside them, the same samples and nothing else.

    Row r's first r drafts are what will be sampled, and the next one is not.
    """

    dtype: torch.dtype
    filters: Filters = OFF
    rows: int = 8
    drafts: int = 8
    vocab: int = VOCAB

    def __call__(self) -> Ready:
        """Allocate logits, and drafts of which as many are accepted as said."""
        device = case.DEVICE
        accepted = torch.arange(self.rows, device=device) % (self.drafts + 1)
        n_bytes = self.rows * (self.drafts + 1) * self.vocab * self.dtype.itemsize
        made = [self._calls(seed, accepted) for seed in range(case.buffers_for(n_bytes))]
        verified, alone, first = [one[0] for one in made], [one[1] for one in made], made[0][2]

        def wrong() -> str:
            tokens = alone[0]()
            return judged(SAMPLE, first, tokens, first) or misjudged(verified[0](), tokens, accepted)

        return Ready(verified, n_bytes, wrong, {"its samples": lambda: alone}, lambda got: torch.equal(got, alone[0]()))

    def _calls(self, seed: int, accepted: Tensor) -> tuple[Call, Call, Args]:
        """Return the verification of a set of logits, its samples, and the arguments of these."""
        verifier, n, device = SharedNoise(), self.rows * (self.drafts + 1), accepted.device
        logits = normal(torch.empty(n, self.vocab, dtype=self.dtype, device=device), seed)
        blank = self._inputs(torch.zeros(self.rows, self.drafts, dtype=torch.int64, device=device))
        at = per_logit_row(blank, n, impl=fastest(logits))
        filters = {name: getattr(at, name) for name in FILTERS}
        args = {"logits": logits, **filters, **verifier.key(at)._asdict()}
        alone = case.own_call(SAMPLE, args)
        right = alone().view(self.rows, -1)[:, :-1]
        column = torch.arange(self.drafts, device=device)
        drafted = torch.where(column < accepted[:, None], right, (right + 1) % self.vocab)
        return partial(verifier.verify, logits, self._inputs(drafted.contiguous()), None), alone, args

    def _inputs(self, candidates: Tensor) -> VerifyInputs:
        """Return the rows as a verifier sees them."""
        n, device = self.rows, candidates.device
        row = torch.arange(n, device=device)
        filters = (x.to(device) for x in columns(*(self.filters,) * n))
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
            **dict(zip(FILTERS, filters, strict=True)),
        )


def misjudged(verified: VerifyOutput, tokens: Tensor, accepted: Tensor) -> str:
    """Return what is wrong with a verdict in which `accepted` [R] candidates are accepted, `tokens` [T] being right."""
    own = tokens.view(len(accepted), -1)
    shown = torch.arange(own.shape[1], device=own.device) <= accepted[:, None]
    want = {"tokens": torch.where(shown, own, 0), "emitted": accepted + 1, "accepted": accepted}
    wrong = [name for name, x in want.items() if not torch.equal(getattr(verified, name), x)]
    return ", ".join(f"{name} are not what was sampled" for name in wrong)
