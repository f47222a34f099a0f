"""Implements `verify_inputs` and `per_logit_row` for a GPU, in one launch each.

A logit row finds the row it belongs to by comparing itself with all rows, a few dozen at once; rows may lie in any
order. In the kernels `c` is `n_committed`.
"""

# Triton's kernels are no Python that a type checker could follow.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsespec.core.batch import Batch, VerifyInputs
from sparsespec.core.plan import Phase
from sparsespec.kernels.checks import check_launch

ROWS = 16
"""Rows of a program that gathers."""
LOGIT_ROWS = 32
"""Logit rows of a program of `per_logit_row`."""
COMPARED = 128
"""Rows that a logit row is compared with at once."""

_WHOLE = ("n_committed", "seed", "sample_index", "top_k")
_REAL = ("temperature", "top_p", "min_p")
_PREFILL = tl.constexpr(int(Phase.PREFILL))
_VERIFY = tl.constexpr(int(Phase.VERIFY))


@triton.jit
def _copy(to, at, source, where, mask, kept):
    """Copy source[where] to to[at], 0 where not kept."""
    tl.store(to + at, tl.load(source + where, mask=mask & kept, other=0), mask=mask)


@triton.jit(do_not_specialize=["n_rows"])
def _verify_inputs(
    seats, phases, k_of, starts, lives, tokens, c_of, seed_of, sample_of, top_k_of, temperature_of, top_p_of, min_p_of,
    counts, candidates, sampleds, levels, positions, cs, seeds, samples, top_ks, temperatures, top_ps, min_ps,
    n_rows, n_candidates, n_columns, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = row < n_rows
    seat = tl.load(seats + row, mask=mask, other=0)
    phase = tl.load(phases + row, mask=mask, other=0)
    start = tl.load(starts + row, mask=mask, other=0)
    live = tl.load(lives + row, mask=mask, other=0)
    verifying = phase == _VERIFY
    tl.store(counts + row, tl.where(phase == _PREFILL, 0, live) - 1, mask=mask)
    tl.store(sampleds + row, verifying & (tl.load(k_of + row, mask=mask, other=0) > 0), mask=mask)
    tl.store(levels + row, tl.where(verifying, 0, 1), mask=mask)
    tl.store(positions + row, start + 1, mask=mask)
    _copy(cs, row, c_of, seat, mask, True)
    _copy(seeds, row, seed_of, seat, mask, True)
    _copy(samples, row, sample_of, seat, mask, True)
    _copy(top_ks, row, top_k_of, seat, mask, True)
    _copy(temperatures, row, temperature_of, seat, mask, True)
    _copy(top_ps, row, top_p_of, seat, mask, True)
    _copy(min_ps, row, min_p_of, seat, mask, True)
    j = tl.arange(0, WIDTH)
    column = tl.minimum(start[:, None] + 1 + j[None, :], n_columns - 1)
    inside = mask[:, None] & (j < n_candidates)[None, :]
    token = tl.load(tokens + seat[:, None] * n_columns + column, mask=inside, other=0)
    tl.store(candidates + row[:, None] * n_candidates + j[None, :], token, mask=inside)


@triton.jit(do_not_specialize=["n_rows", "n_logits"])
def _per_logit_row(
    firsts, counts, candidates, positions, seeds, samples, top_ks, temperatures, top_ps, min_ps,
    rows, alives, judges, candidate_at, position_at, seed_at, sample_at, top_k_at, temperature_at, top_p_at, min_p_at,
    n_rows, n_logits, n_candidates, LOGIT_ROWS: tl.constexpr, COMPARED: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * LOGIT_ROWS + tl.arange(0, LOGIT_ROWS)
    mask = at < n_logits
    owner = tl.full([LOGIT_ROWS], -1, tl.int32)
    for base in range(0, n_rows, COMPARED):
        other = base + tl.arange(0, COMPARED)
        first = tl.load(firsts + other, mask=other < n_rows, other=0)
        last = first + tl.load(counts + other, mask=other < n_rows, other=-1)
        owned = (first[None, :] <= at[:, None]) & (at[:, None] <= last[None, :])
        owner = tl.maximum(owner, tl.max(tl.where(owned, other[None, :], -1), 1))
    alive, row = (owner >= 0) & mask, tl.maximum(owner, 0)
    offset = at - tl.load(firsts + row)
    judged = alive & (offset < tl.load(counts + row))
    tl.store(rows + at, row, mask=mask)
    tl.store(alives + at, alive, mask=mask)
    tl.store(judges + at, judged, mask=mask)
    _copy(candidate_at, at, candidates, row.to(tl.int64) * n_candidates + offset, mask, judged)
    tl.store(position_at + at, tl.where(alive, tl.load(positions + row) + offset, 0), mask=mask)
    _copy(seed_at, at, seeds, row, mask, True)
    _copy(sample_at, at, samples, row, mask, True)
    _copy(top_k_at, at, top_ks, row, mask, True)
    _copy(temperature_at, at, temperatures, row, mask, alive)
    _copy(top_p_at, at, top_ps, row, mask, True)
    _copy(min_p_at, at, min_ps, row, mask, True)


def verify_inputs(batch: Batch, width: int) -> tuple[Tensor, ...]:
    """See `kernels/verify_inputs/api.py`; everything contiguous."""
    state, n_rows, device = batch.state, batch.n_rows, batch.seat.device
    rows = {name: getattr(batch, name) for name in ("seat", "phase", "k", "start", "live")}
    seats = {name: getattr(state, name) for name in ("tokens", *_WHOLE, *_REAL)}
    _check({**rows, **seats})
    count, level, position, *whole = torch.empty((3 + len(_WHOLE), n_rows), dtype=torch.int64, device=device)
    real = torch.empty((len(_REAL), n_rows), dtype=torch.float64, device=device).unbind()
    candidates = torch.empty((n_rows, width - 1), dtype=torch.int64, device=device)
    sampled = torch.empty(n_rows, dtype=torch.bool, device=device)
    if n_rows:
        _verify_inputs[(triton.cdiv(n_rows, ROWS),)](
            *rows.values(), *seats.values(), count, candidates, sampled, level, position, *whole, *real,
            n_rows, width - 1, state.tokens.shape[1], ROWS=ROWS, WIDTH=triton.next_power_of_2(max(width - 1, 1)),
        )  # fmt: skip
    (n_committed, seed, sample_index, top_k), (temperature, top_p, min_p) = whole, real
    return (
        *(batch.offset, count, candidates, sampled, level, position),
        *(n_committed, seed, sample_index, temperature, top_k, top_p, min_p),
    )


def per_logit_row(rows: VerifyInputs, n_logits: int) -> tuple[Tensor, ...]:
    """See `kernels/verify_inputs/api.py`; everything contiguous."""
    names = ("first", "count", "candidates", "position", *_WHOLE[1:], *_REAL)
    given = {name: getattr(rows, name) for name in names}
    _check(given)
    n_rows, n_candidates = rows.candidates.shape
    row, candidate, position, *whole = torch.empty((6, n_logits), dtype=torch.int64, device=rows.first.device)
    temperature, top_p, min_p = torch.empty((3, n_logits), dtype=torch.float64, device=rows.first.device)
    alive, judges = torch.empty((2, n_logits), dtype=torch.bool, device=rows.first.device)
    if n_logits:
        _per_logit_row[(triton.cdiv(n_logits, LOGIT_ROWS),)](
            *given.values(), row, alive, judges, candidate, position, *whole, temperature, top_p, min_p,
            n_rows, n_logits, n_candidates, LOGIT_ROWS=LOGIT_ROWS, COMPARED=COMPARED,
        )  # fmt: skip
    seed, sample_index, top_k = whole
    return row, alive, judges, candidate, position, seed, sample_index, temperature, top_k, top_p, min_p


def _check(parts: dict[str, Tensor]) -> None:
    check_launch("verify_inputs", parts, compiled=isinstance(_verify_inputs, triton.JITFunction))
