"""What `settle` means, in plain torch.

All rows of a batch take part; those that decode change, and for the others every formula gives what is there already.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, VerifyInputs, VerifyOutput
from sparsespec.core.plan import Phase


def settle(
    batch: Batch, judged: VerifyInputs, verified: VerifyOutput, peak: Tensor, confidence: Tensor, kv_read: Tensor
) -> tuple[Tensor, Tensor]:
    """See `api.settle`."""
    drafted = batch.state.n_drafted[batch.seat]
    _write_tokens(batch, judged, verified)
    _advance(batch, verified.emitted, confidence.to(torch.float64))
    return _report(batch, judged, verified, peak, confidence, kv_read), drafted


def _write_tokens(batch: Batch, judged: VerifyInputs, verified: VerifyOutput) -> None:
    """Write what each row emitted behind its first query; nothing else in the token array changes."""
    tokens, seat = batch.state.tokens, batch.seat[:, None]
    step = torch.arange(verified.tokens.shape[1], device=tokens.device)
    columns = (judged.position[:, None] + step).clamp(max=tokens.shape[1] - 1)
    written = step < verified.emitted[:, None]
    tokens[seat, columns] = torch.where(written, verified.tokens, tokens[seat, columns])


def _advance(batch: Batch, emitted: Tensor, confidence: Tensor) -> None:
    state, seat = batch.state, batch.seat
    drafting, filling, verifying = (batch.phase == which for which in (Phase.DRAFT, Phase.PREFILL, Phase.VERIFY))
    d, ended, computed = state.n_drafted[seat], state.ended[seat], state.n_computed[seat]
    c = state.n_committed[seat] + torch.where(verifying, emitted, 0)
    state.n_committed[seat] = c
    state.n_drafted[seat] = torch.where(drafting, d + emitted, torch.where(verifying, 0, d))
    state.n_computed[seat] = torch.where(verifying, c - 1, torch.where(filling, computed + batch.n_query, computed))
    low = (emitted > 0) & (confidence < state.stop_below[seat])
    state.ended[seat] = torch.where(drafting, ended | low, ended & ~verifying)


def _report(
    batch: Batch, judged: VerifyInputs, verified: VerifyOutput, peak: Tensor, confidence: Tensor, kv_read: Tensor
) -> Tensor:
    state, seat, live = batch.state, batch.seat, batch.live
    column = torch.arange(verified.tokens.shape[1], device=seat.device)
    at = batch.offset[:, None] + column
    own = (column < batch.n_query[:, None]) & (at < len(peak))
    broken = own & ~peak.isfinite()[at.clamp(max=len(peak) - 1)]
    whole = (
        live,
        verified.emitted,
        judged.count,
        verified.accepted,
        state.n_drafted[seat],
        state.ended[seat],
        ~broken.any(1),
    )
    drafting, runs = batch.phase == Phase.DRAFT, live > 0
    real = (
        torch.where(drafting & runs, confidence, torch.nan),
        torch.where(runs, kv_read, 0),
        torch.where(runs, batch.start + live, 0),
    )
    bits = torch.stack([x.to(torch.float64) for x in real], 1).view(torch.int64)
    return torch.cat((torch.stack([x.to(torch.int64) for x in whole], 1), bits, verified.tokens), 1)
