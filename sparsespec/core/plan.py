"""What the host says of a step: how far rounds go, who runs, in which phase, with at most how many query tokens.

A plan is integers only and holds no positions: the device knows where each row starts (see `core/batch.py`). The three
row builders are the only place where the sizes of rows are computed, so every scheduler gets them right, and
`check_plan` refuses a plan that could change more than speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from sparsespec.core.errors import ContractBroken
from sparsespec.core.view import View

MAX_DRAFT_QUERIES = 8
"""The largest DRAFT row, in queries; the newest known token and up to seven guesses."""


class Phase(IntEnum):
    """What a row does in a step; plain decoding is a VERIFY without drafts."""

    PREFILL = 0  #: fills a chunk of the prompt; reads everything and draws nothing
    DRAFT = 1  #: reads the selection and draws drafts
    VERIFY = 2  #: reads everything, judges drafts and commits tokens


@dataclass(frozen=True, slots=True)
class Row:
    """One request's share of one forward; `n_query` is a capacity, `k` the length of the round (tokens)."""

    seat: int
    phase: Phase
    n_query: int
    k: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The rows of one step, each seat at most once, in any order."""

    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Lengths:
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
    k = int(view.k[i])
    room = k - int(view.d_lo[i]) - 1
    guesses = min(int(view.guess[i]), MAX_DRAFT_QUERIES - 1, room)
    return Row(int(view.seat[i]), Phase.DRAFT, 1 + guesses, k)


def verify_row(view: View, i: int) -> Row:
    """Return the VERIFY row of view row `i`: the newest committed token and all drafts, or all guesses where k = 0."""
    k = int(view.k[i])
    n_query = 1 + (min(k, int(view.d_hi[i])) if k else int(view.guess[i]))
    return Row(int(view.seat[i]), Phase.VERIFY, n_query, k)


def can_draft(view: View, i: int) -> bool:
    """Say whether view row `i` may draft: its KV is filled, its round has room, and it owes no VERIFY."""
    return bool(not view.to_prefill[i] and not view.must_verify[i] and view.d_lo[i] < view.k[i])


def check_plan(plan: StepPlan, view: View) -> None:
    """Raise `ContractBroken` unless every row of `plan` is one that the builders above could have made."""
    index = {int(seat): i for i, seat in enumerate(view.seat)}
    seen: set[int] = set()
    for row in plan.rows:
        if row.seat in seen or row.seat not in index:
            raise ContractBroken(f"the scheduler planned seat {row.seat} twice, or it is not in the view: {row}")
        seen.add(row.seat)
        i = index[row.seat]
        if row.phase is Phase.PREFILL:
            legal = 1 <= row.n_query <= view.to_prefill[i]
        elif row.phase is Phase.DRAFT:
            legal = can_draft(view, i) and row == draft_row(view, i)
        else:
            legal = not view.to_prefill[i] and row == verify_row(view, i)
        if not legal:
            raise ContractBroken(f"the scheduler planned {row}, which does not fit the view's {view.row(i)}")
