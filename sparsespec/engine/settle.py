"""Line 7 of the round, on the device: accept, roll back, write tokens, and gather what the host is to hear.

Runs in the step's stream in every loop, so the next step may be launched before the host has heard this one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, Chained, ChainRows, Outcome
from sparsespec.core.plan import Phase
from sparsespec.engine.flight import Flight
from sparsespec.engine.host import land
from sparsespec.kernels.draw.api import confidence, logprobs
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.settle.api import settle as settle_rows


def fill(batch: Batch) -> Outcome:
    """Move the state forward where no row draws."""
    state = batch.state
    filling = batch.phase == Phase.PREFILL
    state.filled[batch.seat] += torch.where(filling, batch.n_query, 0)
    return Outcome(batch, torch.zeros_like(batch.seat), state.d[batch.seat])


def settle(
    batch: Batch, judged: ChainRows, chained: Chained, logits: Tensor, peak: Tensor, kv_read: Tensor
) -> tuple[Outcome, Tensor]:
    """Move every row's state forward; return the outcome, and what the host hears of each row.

    Args:
        batch: The step.
        judged: Its rows as the verifier saw them.
        chained: What the verifier says.
        logits: [T, V].
        peak: [T], the best logit of each row of them as the model gave them.
        kv_read: [B], KV tokens each row read.
    """
    # verifiers may return views, which kernels do not take
    tokens, emitted, accepted = (x.contiguous() for x in chained[:3])
    chained = Chained(tokens, emitted, accepted)
    # only DRAFT rows are asked how sure they were
    sure = confidence(logits, judged.first, chained.emitted, judged.level, impl=fastest(logits))
    report, drafted = settle_rows(batch, judged, chained, peak, sure, kv_read, impl=fastest(batch.seat))
    if batch.state.draft_logits is not None:
        _keep_logits(batch, judged, chained, drafted, logits)
    return Outcome(batch, chained.emitted, drafted), report


def _keep_logits(batch: Batch, judged: ChainRows, chained: Chained, drafted: Tensor, logits: Tensor) -> None:
    """Remember what each new draft was drawn from; in the model's own type, from which its law is had again exactly."""
    kept = batch.state.draft_logits
    assert kept is not None and kept.dtype == logits.dtype
    drafting = batch.phase == Phase.DRAFT
    for j in range(chained.tokens.shape[1]):
        fresh = (drafting & (j < chained.emitted)).nonzero().squeeze(1)
        kept[batch.seat[fresh], drafted[fresh] + j] = logits[judged.first[fresh] + j]


def report_logprobs(flight: Flight, judged: ChainRows, chained: Chained, logits: Tensor) -> None:
    """Copy the log-probabilities of what was emitted into the flight's host buffers."""
    column = torch.arange(chained.tokens.shape[1], device=logits.device)
    # tokens behind what a row emitted go to a place behind the last, which is cut off
    place = torch.where(column < chained.emitted[:, None], judged.first[:, None] + column, len(logits))
    chosen = torch.zeros(len(logits) + 1, dtype=torch.int64, device=logits.device)
    chosen = chosen.scatter_(0, place.flatten(), chained.tokens.flatten())[:-1]
    n = flight.logprob_ids.shape[1] - 1
    ids, values, chosen_values = logprobs(logits, chosen, n, impl=fastest(logits))
    land(torch.cat((chosen[:, None], ids), 1), flight.logprob_ids)
    land(torch.cat((chosen_values[:, None], values), 1).to(torch.float64), flight.logprob_values)
