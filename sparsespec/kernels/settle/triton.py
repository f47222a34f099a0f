"""Implements `settle` for a GPU, in one launch: each seat is read and written by the one program that has its row.

In the kernels `c` is `n_committed`, `d` is `n_drafted`, and `computed` is `n_computed` of a seat.
"""

# Triton's kernels are no Python that a type checker could follow.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsespec.core.batch import Batch, VerifyInputs, VerifyOutput
from sparsespec.core.plan import Phase
from sparsespec.kernels.checks import check_launch

ROWS = 16
"""Rows of a program."""
N_LEADING = 10
"""Columns of a report before the tokens."""

_PREFILL = tl.constexpr(int(Phase.PREFILL))
_DRAFT = tl.constexpr(int(Phase.DRAFT))
_VERIFY = tl.constexpr(int(Phase.VERIFY))
_NAN = tl.constexpr(0x7FF8000000000000)


@triton.jit
def _advance(
    seats, row, mask, phase, n_query, emitted, confidence, c_of, d_of, computed_of, ended_of, stop_of, drafteds
):
    """Move seats on; return their new drafts, and whether the device has ended their rounds."""
    seat = tl.load(seats + row, mask=mask, other=0)
    c = tl.load(c_of + seat, mask=mask, other=1)
    d = tl.load(d_of + seat, mask=mask, other=0)
    computed = tl.load(computed_of + seat, mask=mask, other=0)
    ended = tl.load(ended_of + seat, mask=mask, other=0) != 0
    drafting, filling, verifying = phase == _DRAFT, phase == _PREFILL, phase == _VERIFY
    tl.store(drafteds + row, d, mask=mask)
    c = c + tl.where(verifying, emitted, 0)
    d = tl.where(drafting, d + emitted, tl.where(verifying, 0, d))
    computed = tl.where(verifying, c - 1, tl.where(filling, computed + n_query, computed))
    low = (emitted > 0) & (confidence < tl.load(stop_of + seat, mask=mask, other=0.0))
    ended = tl.where(drafting, ended | low, ended & (verifying == 0))
    tl.store(c_of + seat, c, mask=mask)
    tl.store(d_of + seat, d, mask=mask)
    tl.store(computed_of + seat, computed, mask=mask)
    tl.store(ended_of + seat, ended, mask=mask)
    return d, ended


@triton.jit
def _write_floats(report, mask, drafting, runs, confidence, read, full):
    """Write the bits of the floats of a report."""
    bits = confidence.to(tl.int64, bitcast=True)
    tl.store(report, tl.where(drafting & runs & (confidence == confidence), bits, _NAN), mask=mask)
    tl.store(report + 1, tl.where(runs, read, 0.0).to(tl.float64).to(tl.int64, bitcast=True), mask=mask)
    tl.store(report + 2, tl.where(runs, full, 0).to(tl.float64).to(tl.int64, bitcast=True), mask=mask)


@triton.jit(do_not_specialize=["n_rows", "n_logits"])
def _settle(
    seats, phases, n_queries, offsets, starts, lives, counts, positions, emitteds, accepteds, confidences, reads,
    emitted_tokens, peaks, known, c_of, d_of, computed_of, ended_of, stop_of, report, drafteds,
    n_rows, n_logits, width, n_columns, ROWS: tl.constexpr, WIDTH: tl.constexpr, LEADING: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = row < n_rows
    phase = tl.load(phases + row, mask=mask, other=0)
    n_query = tl.load(n_queries + row, mask=mask, other=0)
    emitted = tl.load(emitteds + row, mask=mask, other=0)
    confidence = tl.load(confidences + row, mask=mask, other=0.0).to(tl.float64)
    d, ended = _advance(
        seats, row, mask, phase, n_query, emitted, confidence, c_of, d_of, computed_of, ended_of, stop_of, drafteds
    )
    column = tl.arange(0, WIDTH)
    inside = mask[:, None] & (column < width)[None, :]
    token = tl.load(emitted_tokens + row[:, None] * width + column[None, :], mask=inside, other=0)
    at = tl.load(positions + row, mask=mask, other=0)[:, None] + column[None, :]
    seat = tl.load(seats + row, mask=mask, other=0)
    new = inside & (column[None, :] < emitted[:, None]) & (at < n_columns)
    tl.store(known + seat[:, None] * n_columns + at, token, mask=new)
    at = tl.load(offsets + row, mask=mask, other=0)[:, None] + column[None, :]
    own = inside & (column[None, :] < n_query[:, None]) & (at < n_logits)
    peak = tl.load(peaks + at, mask=own, other=0.0).to(tl.float64)
    broken = tl.max((own & ((tl.abs(peak) < float("inf")) == 0)).to(tl.int32), 1)
    live = tl.load(lives + row, mask=mask, other=0)
    report += row * (LEADING + width)
    tl.store(report, live, mask=mask)
    tl.store(report + 1, emitted, mask=mask)
    tl.store(report + 2, tl.load(counts + row, mask=mask, other=0), mask=mask)
    tl.store(report + 3, tl.load(accepteds + row, mask=mask, other=0), mask=mask)
    tl.store(report + 4, d, mask=mask)
    tl.store(report + 5, ended.to(tl.int64), mask=mask)
    tl.store(report + 6, 1 - broken, mask=mask)
    read = tl.load(reads + row, mask=mask, other=0.0)
    full = tl.load(starts + row, mask=mask, other=0) + live
    _write_floats(report + 7, mask, phase == _DRAFT, live > 0, confidence, read, full)
    tl.store(report[:, None] + LEADING + column[None, :], token, mask=inside)


def settle(
    batch: Batch, judged: VerifyInputs, verified: VerifyOutput, peak: Tensor, confidence: Tensor, kv_read: Tensor
) -> tuple[Tensor, Tensor]:
    """See `kernels/settle/api.py`; everything contiguous."""
    rows = {name: getattr(batch, name) for name in ("seat", "phase", "n_query", "offset", "start", "live")}
    rows |= {"count": judged.count, "position": judged.position}
    rows |= {"emitted": verified.emitted, "accepted": verified.accepted, "confidence": confidence, "kv_read": kv_read}
    rows |= {"emitted tokens": verified.tokens, "peak": peak}
    seats = {
        name: getattr(batch.state, name)
        for name in ("tokens", "n_committed", "n_drafted", "n_computed", "ended", "stop_below")
    }
    check_launch("settle", {**rows, **seats}, compiled=isinstance(_settle, triton.JITFunction))
    n_rows, width = verified.tokens.shape
    report = torch.empty((n_rows, N_LEADING + width), dtype=torch.int64, device=peak.device)
    drafted = torch.empty(n_rows, dtype=torch.int64, device=peak.device)
    if n_rows:
        _settle[(triton.cdiv(n_rows, ROWS),)](
            *rows.values(), *seats.values(), report, drafted,
            n_rows, len(peak), width, batch.state.tokens.shape[1],
            ROWS=ROWS, WIDTH=triton.next_power_of_2(width), LEADING=N_LEADING,
        )  # fmt: skip
    return report, drafted
