"""What the host says of a step: how far rounds go, who runs, in which phase, with at most how many query tokens.

A plan is integers only and holds no positions: the device knows where each row starts (see `core/batch.py`). The row
builders, for one row of the view or for many, are the only place where the sizes of rows are computed, so every
scheduler gets them right, and `check_plan` refuses a plan that could change more than speed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from sparsespec.core.errors import ContractBroken
from sparsespec.core.view import Bools, Index, Ints, View

MAX_DRAFT_QUERIES = 8
"""The largest DRAFT row, in queries; the newest known token and up to seven guesses."""


class Phase(IntEnum):
    """What a row does in a step; plain decoding is a VERIFY without drafts."""

    PREFILL = 0  #: fills a chunk of the prompt; reads everything and draws nothing
    DRAFT = 1  #: reads the selection and draws drafts
    VERIFY = 2  #: reads everything, judges drafts and commits tokens


class Row(NamedTuple):
    """One request's share of one forward; `n_query` is a capacity, `k` the length of the round (tokens)."""

    seat: int
    phase: Phase
    n_query: int
    k: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The rows of one step, each seat at most once, in any order."""

    rows: tuple[Row, ...] = ()


class Lengths(NamedTuple):
    """What a round may do: `draft` tokens under sparse attention, `guess` guesses in each forward.

    The device ends the round at the first draft whose top-1 probability is below `stop_below`; that draft is kept.
    """

    draft: int
    guess: int
    stop_below: float = 0.0


@dataclass(frozen=True, slots=True)
class Move:
    """A page to copy between tiers, executed by `kv/mover.py`."""

    page: int
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Placed:
    """A plan for which there are pages.

    Attributes:
        rows: The rows that run, oldest first; the others starve.
        table: (seat, block, page) entries that the device's page tables gain.
        fresh: Pages allocated in this step, whose content is garbage.
        preempted: Seats that lost all their pages; their KV must be filled again.
        moves: Copies between tiers.
    """

    rows: tuple[Row, ...] = ()
    table: tuple[tuple[int, int, int], ...] = ()
    fresh: tuple[int, ...] = ()
    preempted: tuple[int, ...] = ()
    moves: tuple[Move, ...] = ()


def prefill_row(view: View, i: int, chunk: int) -> Row:
    """Return the row that fills the next `chunk` (or fewer) prompt positions of view row `i`."""
    return Row(int(view.seat[i]), Phase.PREFILL, min(chunk, int(view.to_prefill[i])), 0)


def draft_row(view: View, i: int) -> Row:
    """Return the DRAFT row of view row `i`, which must satisfy `can_draft`."""
    return Row(int(view.seat[i]), Phase.DRAFT, int(_draft_queries(view, i)), int(view.k[i]))


def verify_row(view: View, i: int) -> Row:
    """Return the VERIFY row of view row `i`: the newest committed token and all drafts, or all guesses where k = 0."""
    return Row(int(view.seat[i]), Phase.VERIFY, int(_verify_queries(view, i)), int(view.k[i]))


def draft_rows(view: View, index: Index) -> list[Row]:
    """Return the DRAFT rows of the view rows `index`, each of which must satisfy `can_draft`."""
    return _rows(view, index, Phase.DRAFT, _draft_queries(view, index))


def verify_rows(view: View, index: Index) -> list[Row]:
    """Return the VERIFY rows of the view rows `index`."""
    return _rows(view, index, Phase.VERIFY, _verify_queries(view, index))


def can_draft(view: View, i: int) -> bool:
    """Say whether view row `i` may draft: its KV is filled, its round has room, and it owes no VERIFY."""
    return bool(_can_draft(view, i))


def drafters(view: View) -> Bools:
    """Say of each row of the view whether it `can_draft`."""
    return _can_draft(view, slice(None))


def check_plan(plan: StepPlan, view: View) -> None:
    """Raise `ContractBroken` unless every row of `plan` is one that the builders above could have made."""
    everybody = slice(None)
    drafting, verifying = _draft_queries(view, everybody).tolist(), _verify_queries(view, everybody).tolist()
    k, to_prefill, may_draft = view.k.tolist(), view.to_prefill.tolist(), drafters(view).tolist()
    unplanned = {seat: i for i, seat in enumerate(view.seat.tolist())}
    prefill, draft, verify = Phase
    for row in plan.rows:
        i = unplanned.pop(row.seat, None)
        if i is None:
            raise ContractBroken(f"the scheduler planned seat {row.seat} twice, or it is not in the view: {row}")
        if row.phase is prefill:
            legal = 1 <= row.n_query <= to_prefill[i]
        elif row.phase is draft:
            legal = may_draft[i] and row.n_query == drafting[i] and row.k == k[i]
        else:
            legal = row.phase is verify and not to_prefill[i] and row.n_query == verifying[i] and row.k == k[i]
        if not legal:
            raise ContractBroken(f"the scheduler planned {row}, which does not fit the view's {view.row(i)}")


# Each formula serves one row of the view, or many: `i` is whatever indexes its columns.


def _can_draft(view: View, i: Any) -> Any:
    return (view.to_prefill[i] == 0) & ~view.must_verify[i] & (view.d_lo[i] < view.k[i])


def _draft_queries(view: View, i: Any) -> Any:
    room = view.k[i] - view.d_lo[i] - 1
    return 1 + np.minimum(np.minimum(view.guess[i], MAX_DRAFT_QUERIES - 1), room)


def _verify_queries(view: View, i: Any) -> Any:
    k = view.k[i]
    return 1 + np.where(k > 0, np.minimum(k, view.d_hi[i]), view.guess[i])


def _rows(view: View, index: Index, phase: Phase, n_query: Ints) -> list[Row]:
    columns: Iterable[Any] = zip(
        view.seat[index].tolist(), repeat(phase), n_query.tolist(), view.k[index].tolist(), strict=False
    )
    return list(map(Row._make, columns))
