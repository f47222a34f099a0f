"""The device's words: state per seat, a step's batch, what a verifier judges, what a settled step leaves behind.

All are bundles of tensors that live where the model lives. Host code builds none of them: a launched function does,
from a packed host buffer and the state. Letters: B rows, N query tokens, T logit rows, V vocabulary, M max_model_len.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

PAD_TOKENS = 16
"""Columns of the token array behind max_model_len, so that guesses near the end have somewhere to be written."""


@dataclass(slots=True)
class State:
    """What the device keeps per seat between steps; every field is mutated in place, in stream order."""

    tokens: Tensor  #: [seats, M + PAD_TOKENS] int64, first committed ones, then drafts, then guesses
    n_committed: Tensor  #: [seats] int64, committed tokens (c)
    n_drafted: Tensor  #: [seats] int64, drafted tokens of this round (d)
    n_computed: Tensor  #: [seats] int64, positions with true KV
    ended: Tensor  #: [seats] bool, the device ended this round at its present n_drafted
    stop_below: Tensor  #: [seats] float64, top-1 probability below which a round ends
    table: Tensor  #: [seats, pages_per_seat] int64, page of each block of positions
    seed: Tensor  #: [seats] int64, the 64-bit seed
    sample_index: Tensor  #: [seats] int64, index among the samples of one prompt
    temperature: Tensor  #: [seats] float64
    top_k: Tensor  #: [seats] int64, 0 is off
    top_p: Tensor  #: [seats] float64
    min_p: Tensor  #: [seats] float64
    draft_logits: Tensor | None  #: [seats, max_draft, V], what drafts were sampled from; only where a verifier needs it


@dataclass(slots=True)
class Batch:
    """One step's rows on the device."""

    seat: Tensor  #: [B] int64
    phase: Tensor  #: [B] int64, core.plan.Phase
    n_query: Tensor  #: [B] int64, capacity
    k: Tensor  #: [B] int64, length of the round
    offset: Tensor  #: [B] int64, first query token of the row
    scored: Tensor  #: [B] bool, the selector wants scores of this row
    start: Tensor  #: [B] int64, position of the first query
    live: Tensor  #: [B] int64, queries that count, 0 … n_query
    tokens: Tensor  #: [N] int64, 0 at dead queries
    positions: Tensor  #: [N] int64, 0 at dead queries
    row_of: Tensor  #: [N] int64
    alive: Tensor  #: [N] bool
    slots: Tensor  #: [N] int64, place in the KV pool; page 0 for dead queries
    state: State  #: what the seats hold
    step: int  #: number of the step
    widest: int  #: no row has more query tokens than this

    @property
    def n_rows(self) -> int:
        """B."""
        return self.seat.shape[0]


class Chosen(NamedTuple):
    """Which positions the DRAFT rows of one layer read, beside their tail; indexed by seat."""

    positions: Tensor  #: [groups, seats, k_max] int, the first counts[seat] of a list count, ascending
    counts: Tensor  #: [seats] int64
    tail_from: Tensor  #: [seats] int64, the tail is [tail_from, now]; the same in all layers


class LayerKeys(NamedTuple):
    """A look at one layer's keys, for selectors that choose at each draft step (`step_query`)."""

    k_pages: Tensor  #: [pages, P, Hkv, D]
    batch: Batch  #: the step

    def of(self, row: int, length: int) -> Tensor:
        """Return the first `length` keys of a row, [length, Hkv, D]."""
        block_size = self.k_pages.shape[1]
        pages = self.batch.state.table[self.batch.seat[row], : -(-length // block_size)]
        return self.k_pages[pages].flatten(0, 1)[:length]


@dataclass(frozen=True, slots=True)
class AttentionRows:
    """The rows of one attention call, the same for all layers of a step.

    Attributes:
        seat: Seat of each row, [B] int64; indexes `table` and the selection.
        offset: First query token of each row, [B] int64.
        start: Position of that token, [B] int64.
        live: Queries that count, [B] int64; the others give zeros.
        sparse: Whether the row reads its selection and tail instead of everything, [B] bool.
        scored: Whether scores of the row are wanted, [B] bool; only where `sparse` is False.
        table: Page of each block, [seats, blocks] int64.
        ends: (first, last): how many leading and trailing live queries are scored.
        groups: Lists of positions per layer, a divisor of Hkv.
        widest: No row has more live queries than this; None if nobody knows.
    """

    seat: Tensor
    offset: Tensor
    start: Tensor
    live: Tensor
    sparse: Tensor
    scored: Tensor
    table: Tensor
    ends: tuple[int, int]
    groups: int
    widest: int | None = None


@dataclass(frozen=True, slots=True)
class VerifyInputs:
    """Rows for `Verifier.verify`: row r judges `count[r]` candidates with logit rows first[r] … first[r] + count[r].

    Candidate j of row r is for position `position[r] + j`; logit row `first[r] + j` holds the logits of that position.
    """

    first: Tensor  #: [R] int64, into the T logit rows
    count: Tensor  #: [R] int64, candidates m; -1 for a dead row, which emits nothing
    candidates: Tensor  #: [R, m_max] int64; entries at and behind count are ignored
    sampled: Tensor  #: [R] bool, candidates were sampled from q; else they are guesses (q is one-hot)
    level: Tensor  #: [R] int64, 0 full model, 1 sparse draft
    position: Tensor  #: [R] int64, position of the first token the row can emit
    n_committed: Tensor  #: [R] int64, committed tokens at the start of the round
    seed: Tensor  #: [R] int64
    sample_index: Tensor  #: [R] int64
    temperature: Tensor  #: [R] float64; 0 is argmax
    top_k: Tensor  #: [R] int64; 0 is off
    top_p: Tensor  #: [R] float64
    min_p: Tensor  #: [R] float64


class VerifyOutput(NamedTuple):
    """What `verify` emitted: `tokens[r, :emitted[r]]`, of which `accepted[r]` are candidates."""

    tokens: Tensor  #: [R, m_max + 1] int64
    emitted: Tensor  #: [R] int64, 0 for a dead row, else 1 … m + 1
    accepted: Tensor  #: [R] int64


class Outcome(NamedTuple):
    """A settled step, as `selector.observe` sees it; `n_committed` and `n_drafted` of the state are the new ones."""

    batch: Batch  #: the step
    emitted: Tensor  #: [B] int64, tokens each row emitted
    drafted: Tensor  #: [B] int64, drafts each row held before the step


def float_type(name: str) -> torch.dtype:
    """Return the torch dtype named `name`."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype
