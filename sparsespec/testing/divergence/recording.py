"""Decodes requests and keeps the logits that every output token was sampled from, as the run itself computed them.

The verifier `LogitRecorder` samples as `shared-noise` does, and copies the full model's logits to a place of their own
on the way: one more copy in the round, also where rounds are CUDA graphs. So nothing has to be computed again, in
shapes that only resemble those of a run, to find out what the run saw.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsespec.benchmarks.entries import Entry
from sparsespec.core.batch import VerifyInputs, VerifyOutput, float_type
from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption, SparseSpecError
from sparsespec.core.params import SamplingParams
from sparsespec.engine.outputs import Completion
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.sample.api import sample
from sparsespec.kernels.verify_inputs.api import per_logit_row
from sparsespec.llm import LLM
from sparsespec.models.transformer import Transformer
from sparsespec.sampling.shared_noise import SharedNoise


@dataclass(frozen=True)
class Workload:
    """Prompts and how each is decoded, to `tokens` new tokens. Request i has seed i, by which its logits are filed."""

    prompts: tuple[tuple[int, ...], ...]
    params: tuple[SamplingParams, ...]
    tokens: int

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each prompt."""
        return tuple(map(len, self.prompts))


class LogitRecorder(SharedNoise):
    """Samples as `shared-noise`, and keeps logits; the last of a position are those that its token was sampled from.

    Args:
        lengths: Tokens of each prompt; request i has seed i.
        tokens: New tokens of each request.
    """

    def __init__(self, lengths: Sequence[int], tokens: int) -> None:
        self.lengths, self.tokens = tuple(lengths), tokens

    def bind(self, geometry: Geometry) -> None:
        """Allocate a row of logits for every token of every request, and one for all other logits."""
        kind, n_rows = float_type(geometry.dtype), len(self.lengths) * self.tokens + 1
        size = n_rows * geometry.vocab * kind.itemsize
        if geometry.device != "cpu" and size > torch.cuda.mem_get_info(geometry.device)[0]:
            raise BadOption(f"the logits of a run take {size / 2**30:.1f} GiB; lower --requests or --tokens")
        self._first = torch.tensor(self.lengths, device=geometry.device)
        self._logits = torch.zeros(n_rows, geometry.vocab, dtype=kind, device=geometry.device)

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        """See `core.protocols.Verifier.verify`."""
        at = per_logit_row(rows, len(logits), impl=fastest(rows.first))
        request = at.seed.clamp(0, len(self.lengths) - 1)
        step = at.position - self._first[request]
        wanted = at.alive & (rows.level[at.row] == 0) & (step >= 0) & (step < self.tokens)
        place = torch.where(wanted, request * self.tokens + step, len(self._logits) - 1)
        self._logits.index_copy_(0, place, logits)
        return super().verify(logits, rows, q)

    def recorded(self) -> Tensor:
        """Return the logits of every output token, [requests, tokens, V]."""
        return self._logits[:-1].view(len(self.lengths), self.tokens, -1)


@dataclass(frozen=True)
class Run:
    """What one composition emitted, and the logits [requests, tokens, V] that it sampled from."""

    completions: tuple[Completion, ...]
    logits: Tensor
    seconds: float

    def sampled(self, workload: Workload, request: int, step: int) -> int:
        """Return the token that the run's own op samples from the run's own logits."""
        row, p = self.logits[request, step][None], workload.params[request]

        def column(value: float, kind: torch.dtype) -> Tensor:
            return torch.tensor([value], dtype=kind, device=row.device)

        temperature, top_p, min_p = (column(x, torch.float64) for x in (p.temperature, p.top_p, p.min_p))
        key = (column(x, torch.int64) for x in (request, 0, workload.lengths[request] + step, 0))
        top_k = column(p.top_k, torch.int64)
        return int(sample(row, temperature, top_k, top_p, min_p, *key, impl=fastest(row)))


def decode(model: Transformer, entry: Entry, workload: Workload, batch: int) -> Run:
    """Decode in an engine of its own, `batch` requests at once and the others as seats become free.

    Raises:
        BadOption: if the entry brings a verifier.
        SparseSpecError: if a request failed.
    """
    if "verifier" in entry.changes:
        raise BadOption(
            f"the numeric contract is about verifier 'shared-noise', which is given here, got {entry.label!r}"
        )
    # torch keeps the memory of the engine before for later, which looks taken to this one
    gc.collect()
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    start = time.perf_counter()
    recorder = LogitRecorder(workload.lengths, workload.tokens)
    context = max(workload.lengths) + workload.tokens
    sizes: dict[str, Any] = {"max_num_seqs": batch, "max_model_len": context}
    sizes["num_gpu_blocks"] = 1 + batch * -(-context // 16)
    with LLM(model, entry.preset, **(sizes | entry.changes), verifier=recorder) as llm:
        outputs = llm.generate(list(workload.prompts), list(workload.params))
    for output in outputs:
        if output.error:
            raise SparseSpecError(output.error)
    completions = tuple(output.outputs[0] for output in outputs)
    return Run(completions, recorder.recorded(), time.perf_counter() - start)
