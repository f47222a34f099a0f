"""Decodes requests and keeps the logits that every output token was drawn from, as the run itself computed them.

The verifier `Tap` draws as `shared-noise` does, and copies the full model's logits to a place of their own on the way:
one more copy in the round, also where rounds are CUDA graphs. So nothing has to be computed again, in shapes that only
resemble those of a run, to find out what the run saw.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.engine_run import clear
from bench.engine_subjects import Subject
from sparsespec.core.batch import VerifyInputs, VerifyOutput, float_type
from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption, SparseSpecError
from sparsespec.core.params import SamplingParams
from sparsespec.engine.outputs import Completion
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.sample.api import sample
from sparsespec.llm import LLM
from sparsespec.models.transformer import Transformer
from sparsespec.sampling.shared_noise import SharedNoise
from sparsespec.sampling.spread import spread


@dataclass(frozen=True)
class Work:
    """Prompts and how each is decoded. Request i has seed i, by which its logits find their place."""

    prompts: tuple[tuple[int, ...], ...]
    params: tuple[SamplingParams, ...]
    tokens: int

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each prompt."""
        return tuple(map(len, self.prompts))


class Tap(SharedNoise):
    """Draws as `shared-noise`, and keeps logits; the last of a position are those that its token was drawn from.

    Args:
        lengths: Tokens of each prompt; request i has seed i.
        tokens: New tokens of each request.
    """

    def __init__(self, lengths: Sequence[int], tokens: int) -> None:
        self.lengths, self.tokens = tuple(lengths), tokens

    def bind(self, geometry: Geometry) -> None:
        """Allocate a row of logits for every token of every request, and one for what nobody wants."""
        kind, n_rows = float_type(geometry.dtype), len(self.lengths) * self.tokens + 1
        size = n_rows * geometry.vocab * kind.itemsize
        if geometry.device != "cpu" and size > torch.cuda.mem_get_info(geometry.device)[0]:
            raise BadOption(f"the logits of a run take {size / 2**30:.1f} GiB; lower --requests or --tokens")
        self.first_ = torch.tensor(self.lengths, device=geometry.device)
        self.logits_ = torch.zeros(n_rows, geometry.vocab, dtype=kind, device=geometry.device)

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        """See `core.protocols.Verifier.verify`."""
        at = spread(rows, len(logits))
        request = at.seed.clamp(0, len(self.lengths) - 1)
        step = at.position - self.first_[request]
        wanted = at.alive & (rows.level[at.row] == 0) & (step >= 0) & (step < self.tokens)
        place = torch.where(wanted, request * self.tokens + step, len(self.logits_) - 1)
        self.logits_.index_copy_(0, place, logits)
        return super().verify(logits, rows, q)


@dataclass(frozen=True)
class Run:
    """What one composition emitted, and what it drew from."""

    completions: tuple[Completion, ...]
    logits: Tensor  # [requests, tokens, V]
    seconds: float

    def drawn(self, work: Work, request: int, step: int) -> int:
        """Return the token that the run's own op draws from the run's own logits."""
        row, p = self.logits[request, step][None], work.params[request]

        def column(value: float, kind: torch.dtype) -> Tensor:
            return torch.tensor([value], dtype=kind, device=row.device)

        probs = (column(p.temperature, torch.float64), column(p.top_k, torch.int64))
        filters = (column(p.top_p, torch.float64), column(p.min_p, torch.float64))
        key = (column(x, torch.int64) for x in (request, 0, work.lengths[request] + step, 0))
        return int(sample(row, *probs, *filters, *key, impl=fastest(row)))


def decode(model: Transformer, subject: Subject, work: Work, batch: int) -> Run:
    """Decode `work` in an engine of its own, `batch` requests at once and the others as seats become free."""
    clear(model)
    start = time.perf_counter()
    tap = Tap(work.lengths, work.tokens)
    context = max(work.lengths) + work.tokens
    sizes = {"max_num_seqs": batch, "max_model_len": context, "num_gpu_blocks": 1 + batch * -(-context // 16)}
    if "verifier" in subject.changes:
        raise BadOption(
            f"the numeric contract is about verifier 'shared-noise', which is given here, got {subject.label!r}"
        )
    with LLM(model, subject.preset, **(sizes | subject.changes), verifier=tap) as llm:
        outputs = llm.generate(list(work.prompts), list(work.params))
    for output in outputs:
        if output.error:
            raise SparseSpecError(output.error)
    logits = tap.logits_[:-1].view(len(work.prompts), work.tokens, -1)
    return Run(tuple(output.outputs[0] for output in outputs), logits, time.perf_counter() - start)
