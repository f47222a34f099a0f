"""Line 7 of the round, on the device: accept, roll back, write tokens, and start the copy to the host.

Runs in the step's stream in every loop, so the next step may be launched before the host has heard this one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, Chained, ChainRows, Outcome
from sparsespec.core.plan import Phase
from sparsespec.engine.flight import N_INTS, Flight
from sparsespec.engine.host import land
from sparsespec.kernels.draw.api import logprobs, top_probability
from sparsespec.kernels.implementations import fastest


def settle(
    batch: Batch, rows: Tensor, judged: ChainRows | None, chained: Chained | None, logits: Tensor | None
) -> tuple[Outcome, Tensor]:
    """Move every row's state forward; returns the outcome and the confidence of decoding rows [R]."""
    state = batch.state
    drafted = state.d[batch.seat]
    filling = batch.phase == Phase.PREFILL
    state.filled[batch.seat] += torch.where(filling, batch.n_query, 0)
    emitted = torch.zeros_like(batch.seat)
    if judged is None or chained is None or logits is None:
        return Outcome(batch, emitted, drafted), emitted[:0].to(torch.float64)
    emitted[rows] = chained.emitted
    _write_tokens(batch, rows, judged, chained)
    if chained.laws is not None and state.laws is not None:
        _keep_laws(batch, rows, judged, chained, drafted[rows])
    newest = judged.first + (chained.emitted - 1).clamp(min=0)
    confidence = top_probability(logits[newest], impl=fastest(logits)).to(torch.float64)
    _advance(batch, rows, chained.emitted, confidence)
    return Outcome(batch, emitted, drafted), confidence


def _write_tokens(batch: Batch, rows: Tensor, judged: ChainRows, chained: Chained) -> None:
    """Write what each row emitted behind its first query; nothing else in the token array changes."""
    tokens, seat = batch.state.tokens, batch.seat[rows][:, None]
    step = torch.arange(chained.tokens.shape[1], device=tokens.device)
    columns = (judged.position[:, None] + step).clamp(max=tokens.shape[1] - 1)
    written = step < chained.emitted[:, None]
    tokens[seat, columns] = torch.where(written, chained.tokens, tokens[seat, columns])


def _keep_laws(batch: Batch, rows: Tensor, judged: ChainRows, chained: Chained, drafted: Tensor) -> None:
    """Remember the law that each new draft was drawn from."""
    laws, all_laws = batch.state.laws, chained.laws
    assert laws is not None and all_laws is not None
    drafting = batch.phase[rows] == Phase.DRAFT
    for j in range(chained.tokens.shape[1]):
        fresh = (drafting & (j < chained.emitted)).nonzero().squeeze(1)
        seat = batch.seat[rows][fresh]
        laws[seat, drafted[fresh] + j] = all_laws[judged.first[fresh] + j].to(laws.dtype)


def _advance(batch: Batch, rows: Tensor, emitted: Tensor, confidence: Tensor) -> None:
    state, seat = batch.state, batch.seat[rows]
    drafting = batch.phase[rows] == Phase.DRAFT
    state.d[seat] = torch.where(drafting, state.d[seat] + emitted, 0)
    c = state.c[seat] + torch.where(drafting, 0, emitted)
    state.c[seat] = c
    state.filled[seat] = torch.where(drafting, state.filled[seat], c - 1)
    low = (emitted > 0) & (confidence < state.stop_below[seat])
    state.ended[seat] = drafting & (state.ended[seat] | low)


def report(
    flight: Flight,
    batch: Batch,
    rows: Tensor,
    judged: ChainRows,
    chained: Chained,
    logits: Tensor,
    finite: Tensor,
    confidence: Tensor,
    kv_read: Tensor,
) -> None:
    """Copy the results of decoding rows into the flight's host buffers."""
    state, seat, live = batch.state, batch.seat[rows], batch.live[rows]
    n_query = batch.n_query[rows]
    owner = torch.repeat_interleave(n_query, output_size=len(logits))
    good = torch.zeros_like(live).index_add_(0, owner, finite.to(torch.int64))
    columns = (
        live,
        chained.emitted,
        judged.count,
        chained.accepted,
        state.d[seat],
        state.ended[seat],
        good == n_query,
    )
    ints = torch.cat((torch.stack([x.to(torch.int64) for x in columns], 1), chained.tokens), 1)
    land(ints, flight.ints)
    drafting = batch.phase[rows] == Phase.DRAFT
    kv_full = batch.start[rows] + live
    floats = (
        torch.where(drafting & (live > 0), confidence, torch.nan),
        torch.where(live > 0, kv_read, 0),
        torch.where(live > 0, kv_full, 0),
    )
    land(torch.stack([x.to(torch.float64) for x in floats], 1), flight.floats)
    assert flight.ints.shape[1] == N_INTS + chained.tokens.shape[1]
    if flight.logprob_ids.size:
        _report_logprobs(flight, batch, rows, judged, chained, logits)


def _report_logprobs(
    flight: Flight, batch: Batch, rows: Tensor, judged: ChainRows, chained: Chained, logits: Tensor
) -> None:
    column = torch.arange(chained.tokens.shape[1], device=logits.device)
    # tokens behind what a row emitted go to a place behind the last, which is cut off
    place = torch.where(column < chained.emitted[:, None], judged.first[:, None] + column, len(logits))
    chosen = torch.zeros(len(logits) + 1, dtype=torch.int64, device=logits.device)
    chosen = chosen.scatter_(0, place.flatten(), chained.tokens.flatten())[:-1]
    n = flight.logprob_ids.shape[1] - 1
    ids, values, chosen_values = logprobs(logits, chosen, n, impl="reference")
    land(torch.cat((chosen[:, None], ids), 1), flight.logprob_ids)
    land(torch.cat((chosen_values[:, None], values), 1).to(torch.float64), flight.logprob_values)
