"""What the host says of a step: how far rounds go, which rows run, in which phase, with at most how many query tokens.

A plan is integers only and holds no positions: the device knows where each row starts (see `core/batch.py`). The row
builders, for one row of the view or for many, are the only place where the sizes of rows are computed, so every
scheduler gets them right, and `check_plan` refuses a plan that could change more than speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, cast, overload

import numpy as np

from sparsespec.core.errors import ContractBroken
from sparsespec.core.view import Bools, Floats, Index, Ints, View

MAX_DRAFT_QUERIES = 8
"""The largest DRAFT row, in queries; the newest known token and up to seven guesses."""


class Phase(IntEnum):
    """What a row does in a step; plain decoding is a VERIFY without drafts."""

    PREFILL = 0  #: fills a chunk of the prompt; reads everything and samples nothing
    DRAFT = 1  #: reads the selection and samples drafts
    VERIFY = 2  #: reads everything, judges drafts and commits tokens


PHASES = tuple(Phase)
"""The phases by number."""
PREFILL, DRAFT, VERIFY = (int(phase) for phase in Phase)
"""The phases as plain integers: numpy compares an array with these four times faster than with an `IntEnum`."""


class Row(NamedTuple):
    """One request's share of one forward; `n_query` is a capacity, `k` the length of the round (tokens)."""

    seat: int
    phase: Phase
    n_query: int
    k: int


class Rows(Sequence[Row]):
    """Rows that read like a tuple of `Row` and are kept as columns, because a step has hundreds of them.

    Attributes:
        table: [4, B], the columns of `Row` in their order; never written to.
    """

    __slots__ = ("table",)

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        if isinstance(rows, Rows):
            self.table: Ints = rows.table
            return
        listed = tuple(rows)
        columns: Any = tuple(zip(*listed, strict=True)) or ((),) * 4
        try:
            self.table = np.array(columns, dtype=np.int64)
        except (TypeError, ValueError):
            raise ContractBroken(f"a row is four whole numbers (seat, phase, n_query, k), got {listed}") from None

    @classmethod
    def of(cls, seat: Ints, phase: Phase, n_query: Ints, k: Ints) -> Rows:
        """Return rows of one phase."""
        return cls.wrap(np.stack((seat, np.full_like(seat, phase), n_query, k)))

    @classmethod
    def wrap(cls, table: Ints) -> Rows:
        """Return the rows of a table [4, B]."""
        rows = cls.__new__(cls)
        rows.table = table
        return rows

    @property
    def seat(self) -> Ints:
        """Seats [B]."""
        return self.table[0]

    @property
    def phase(self) -> Ints:
        """Phases [B], as numbers."""
        return self.table[1]

    @property
    def n_query(self) -> Ints:
        """Query tokens at most [B]."""
        return self.table[2]

    @property
    def k(self) -> Ints:
        """Lengths of the rounds [B], tokens."""
        return self.table[3]

    def take(self, index: Index) -> Rows:
        """Return the rows at `index`, in its order."""
        return Rows.wrap(self.table[:, index])

    def __len__(self) -> int:
        return self.table.shape[1]

    def __iter__(self) -> Iterator[Row]:
        return (Row(seat, PHASES[phase], n_query, k) for seat, phase, n_query, k in self.table.T.tolist())

    @overload
    def __getitem__(self, i: int) -> Row: ...
    @overload
    def __getitem__(self, i: slice) -> Rows: ...
    def __getitem__(self, i: int | slice) -> Row | Rows:
        if isinstance(i, slice):
            return Rows.wrap(self.table[:, i])
        return next(iter(Rows.wrap(self.table[:, [i]])))

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(cast(Sequence[Any], other)) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(tuple(self))


@dataclass(frozen=True, init=False, slots=True)
class StepPlan:
    """The rows of one step, each seat at most once, in any order; made of groups of rows."""

    rows: Rows

    def __init__(self, *groups: Iterable[Row]) -> None:
        tables: list[Any] = [Rows(group).table for group in groups]
        table = tables[0] if len(tables) == 1 else np.concatenate([np.empty((4, 0), np.int64), *tables], axis=1)
        object.__setattr__(self, "rows", Rows.wrap(table))


class Lengths(NamedTuple):
    """What rounds may do: `draft` tokens under sparse attention, `guess` guesses in each forward.

    Each is one number for all rows that were asked about, or an array with one for each. The device ends a round at the
    first draft whose top-1 probability is below `stop_below`; that draft is kept.
    """

    draft: Ints | int
    guess: Ints | int
    stop_below: Floats | float = 0.0


class Move(NamedTuple):
    """A page to copy between the device's pool and a page of the host's, executed by `kv/mover.py`."""

    page: int
    host_page: int
    out: bool  #: from the device to the host


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

    rows: Rows = field(default_factory=Rows)
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


def draft_rows(view: View, index: Index) -> Rows:
    """Return the DRAFT rows of the view rows `index`, each of which must satisfy `can_draft`."""
    return Rows.of(view.seat[index], Phase.DRAFT, _draft_queries(view, index), view.k[index])


def verify_rows(view: View, index: Index) -> Rows:
    """Return the VERIFY rows of the view rows `index`."""
    return Rows.of(view.seat[index], Phase.VERIFY, _verify_queries(view, index), view.k[index])


def can_draft(view: View, i: int) -> bool:
    """Say whether view row `i` may draft: its KV is filled, its round has room, and it owes no VERIFY."""
    return bool(_can_draft(view, i))


def drafters(view: View) -> Bools:
    """Say of each row of the view whether it `can_draft`."""
    return _can_draft(view, slice(None))


def check_plan(plan: StepPlan, view: View) -> None:
    """Raise `ContractBroken` unless every row of `plan` is one that the builders above could have made."""
    rows = plan.rows
    i = view.find(rows.seat)
    known = i >= 0
    if not known.all() or np.bincount(i, minlength=1).max() > 1:
        seats = rows.seat.tolist()
        row = next(row for row, there in zip(rows, known, strict=True) if not there or seats.count(row.seat) > 1)
        raise ContractBroken(f"the scheduler planned seat {row.seat} twice, or it is not in the view: {row}")
    to_prefill, n_query = view.to_prefill[i], rows.n_query
    fills = (n_query >= 1) & (n_query <= to_prefill)
    drafts = _can_draft(view, i) & (n_query == _draft_queries(view, i)) & (rows.k == view.k[i])
    verifies = (to_prefill == 0) & (n_query == _verify_queries(view, i)) & (rows.k == view.k[i])
    decodes = (rows.phase == DRAFT) & drafts | (rows.phase != DRAFT) & verifies
    legal = (rows.phase == PREFILL) & fills | (rows.phase != PREFILL) & decodes
    for j in (~legal).nonzero()[0].tolist():
        raise ContractBroken(
            f"the scheduler planned {rows[j]}, which does not fit the view's {view.describe(int(i[j]))}"
        )


# Each formula serves one row of the view, or many: `i` is whatever indexes its columns.


def _can_draft(view: View, i: Any) -> Any:
    return (view.to_prefill[i] == 0) & ~view.must_verify[i] & (view.d_lo[i] < view.k[i])


def _draft_queries(view: View, i: Any) -> Any:
    room = view.k[i] - view.d_lo[i] - 1
    return 1 + np.minimum(np.minimum(view.guess[i], MAX_DRAFT_QUERIES - 1), room)


def _verify_queries(view: View, i: Any) -> Any:
    k = view.k[i]
    return 1 + np.where(k > 0, np.minimum(k, view.d_hi[i]), view.guess[i])
