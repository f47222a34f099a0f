"""The op `lay_out`: a packed step becomes rows, and rows become query tokens.

Two calls, because guesses are made between them: what is packed and what the seats hold say where each row starts and
what it can use without guesses; only then is known how many queries live, and what the step's tokens are.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sparsespec.core.batch import Batch, State
from sparsespec.core.errors import ContractBroken
from sparsespec.kernels.implementations import implementation
from sparsespec.kernels.lay_out import reference

IMPLS = {"reference": reference}
LAZY = ("triton",)
"""Implementations that need an optional package, imported when asked for."""
N_COLUMNS = 7
"""Numbers of a packed row: seat, phase, n_query, k, offset, scored, and the bits of stop_below."""


class LaidRows(NamedTuple):
    """Where rows start, and what they can use."""

    start: Tensor  # [B] int64, position of the first query
    live: Tensor  # [B] int64, queries that count, guesses left out
    room: Tensor  # [B] int64, guesses that a row can take: those behind drafts, or behind committed tokens where k = 0
    scored: Tensor  # [B] bool, the selector wants scores


class LaidTokens(NamedTuple):
    """The query tokens of a step, dead ones included; see `core.batch.Batch`."""

    tokens: Tensor  # [N] int64, 0 at dead queries
    positions: Tensor  # [N] int64, 0 at dead queries
    row_of: Tensor  # [N] int64, the last row behind all rows
    alive: Tensor  # [N] bool
    slots: Tensor  # [N] int64, page * block_size + offset; 0 for dead queries


def lay_out_rows(packed: Tensor, state: State, *, impl: str) -> LaidRows:
    """Return where the rows of a packed step start and what they can use; their `stop_below` goes into `state`.

    Args:
        packed: [N_COLUMNS, B] int64; no seat twice.
        state: What the seats hold.
        impl: "reference", or "triton" on a GPU.

    Raises:
        BadOption: "triton" does not take the layout of an argument.
        ContractBroken: The shape does not fit.
        MissingPackage: `impl` needs a package that is not installed.
    """
    if packed.ndim != 2 or packed.shape[0] != N_COLUMNS:
        raise ContractBroken(f"a packed step must be [{N_COLUMNS}, B], got {list(packed.shape)}")
    return LaidRows(*implementation("lay_out", impl, IMPLS, LAZY).lay_out_rows(packed, state))


def lay_out_tokens(batch: Batch, n_tokens: int, block_size: int, *, impl: str) -> LaidTokens:
    """Return the query tokens of a batch whose rows are known; those behind the last row are dead.

    Args:
        batch: Its `seat, offset, n_query, start, live` and `state` are read; rows lie one behind the other.
        n_tokens: N, query tokens of the step, padding included.
        block_size: Tokens of a page.
        impl: "reference", or "triton" on a GPU.

    Raises:
        BadOption: "triton" does not take the layout of an argument.
        MissingPackage: `impl` needs a package that is not installed.
    """
    return LaidTokens(*implementation("lay_out", impl, IMPLS, LAZY).lay_out_tokens(batch, n_tokens, block_size))
