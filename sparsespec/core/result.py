"""What the host hears of a row once its flight has landed: plain numbers and tokens, no tensors."""

from __future__ import annotations

from typing import NamedTuple

from sparsespec.core.plan import Phase


class RowResult(NamedTuple):
    """The heard outcome of one DRAFT or VERIFY row (a PREFILL row has no outcome).

    Attributes:
        seat: Seat of the request when the row was launched.
        phase: DRAFT or VERIFY.
        live: Query tokens that really ran, 0 … n_query.
        tokens: Tokens the row emitted: drafts of a DRAFT row, committed tokens of a VERIFY row.
        n_candidates: Tokens the row judged: guesses of a DRAFT row, drafts (or guesses where k = 0) of a VERIFY row.
        n_accepted: How many of them stood.
        k: Length of the round, lower than planned if the device ended it early.
        confidence: Top-1 probability at the newest draft of a DRAFT row, else NaN.
        kv_read: KV tokens the row read, mean over layers.
        kv_full: KV tokens a row without a selection would have read.
        logprobs: For each token of a VERIFY row ((token, logprob), …), the emitted one first; empty unless asked for.
    """

    seat: int
    phase: Phase
    live: int
    tokens: tuple[int, ...]
    n_candidates: int
    n_accepted: int
    k: int
    confidence: float
    kv_read: float
    kv_full: float
    logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()
