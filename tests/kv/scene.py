"""A tier manager with requests on its seats, whose copies end when a test says so; watched by a second set of books."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsespec.core.plan import Move, Phase, Placed, Row, StepPlan, prefill_row
from sparsespec.core.view import View
from sparsespec.kv.host import HostTier
from sparsespec.testing.checks.drawn_views import BLANK, ViewRow, view_of
from sparsespec.testing.checks.stage import small_geometry
from sparsespec.testing.checks.watched_tiers import WatchedTiers

PAGE = 4


class Scene:
    """Requests on seats 0, 1, …, oldest first; one that holds n pages has 4 n + 1 tokens.

    Args:
        pages: What each holds to begin with.
        room: Pages of the pool, page 0 not counted.
        limits: Tokens that each may hold.
        options: Those of `HostTier`; by default the newest give way, and none before it must.
    """

    def __init__(self, *pages: int, room: int = 16, limits: tuple[int, ...] = (), **options: Any) -> None:
        self.part = HostTier(**{"victim": "newest", "low": 0.0, "high": 0.0, **options})
        self.part.bind(small_geometry(num_gpu_blocks=room + 1, block_size=PAGE, n_seats=8))
        self.tiers: Any = WatchedTiers(self.part, room + 1, PAGE)
        self.n = {seat: PAGE * held + 1 for seat, held in enumerate(pages)}
        self.copies: list[Move] = []
        # its pages are claimed one by one, as long as no seat holds any
        for seat in self.n:
            assert self.part.admit(seat, 1, limits[seat] if limits else 64)
        view = view_of(*(self.row(seat)._replace(to_prefill=self.n[seat] - 1) for seat in self.n))
        rows = [prefill_row(view, seat, n - 1) for seat, n in self.n.items() if n > 1]
        assert len(self.tiers.place(StepPlan(tuple(rows)), view).rows) == len(rows)

    @property
    def away(self) -> set[int]:
        """Seats that cannot run."""
        return set(self.part.away())

    @property
    def free(self) -> int:
        """Pages of the device that are free."""
        return self.part.free_pages()

    def row(self, seat: int) -> ViewRow:
        return BLANK._replace(seat=seat, arrival=seat, n_lo=self.n[seat], n_hi=self.n[seat])

    def view(self) -> View:
        """Return the view of all requests that are here."""
        return view_of(*(self.row(seat) for seat in sorted(self.n) if seat not in self.away))

    def step(self, **wants: int) -> Placed:
        """Place rows that need so many pages more, as in `step(s0=3)`; those that are placed get the tokens."""
        tokens = {int(name[1:]): PAGE * (self.tiers.pages(int(name[1:])) + n) + 1 for name, n in wants.items()}
        rows = [Row(seat, Phase.VERIFY, n - self.n[seat], n - self.n[seat] - 1) for seat, n in tokens.items()]
        placed = self.tiers.place(StepPlan(tuple(rows)), self.view())
        for row in placed.rows:
            self.n[row.seat] = tokens[row.seat]
        return self._begun(placed)

    def grow(self, **wants: int) -> None:
        """Place rows again and again, while copies end, until all of them are placed."""
        for _ in range(20):
            if len(self.step(**wants).rows) == len(wants):
                return
            self.land()
        raise AssertionError(f"{wants} found no pages")

    def shrink(self, seat: int, pages: int) -> None:
        """Let a seat give back its last pages."""
        self.n[seat] -= PAGE * pages
        self.tiers.commit(np.array([seat]), np.array([self.n[seat] - 1]))

    def share(self, seat: int, owner: int, pages: int) -> None:
        self.tiers.share(seat, owner, pages)
        self.n[seat] = PAGE * pages + 1

    def restore(self) -> Placed:
        return self._begun(self.tiers.restore(self.view()))

    def land(self, n: int | None = None, *, failed: bool = False) -> None:
        """Let the oldest `n` copies end, all by default."""
        n = len(self.copies) if n is None else n
        ended, self.copies = self.copies[:n], self.copies[n:]
        if ended:
            self.tiers.moved(ended, failed=failed)

    def forget(self, seat: int) -> None:
        self.tiers.forget(seat)
        del self.n[seat]

    def end(self) -> None:
        """Let all requests go, and see that nothing is left."""
        for seat in list(self.n):
            self.forget(seat)
        self.land()
        assert self.free == self.tiers.n_pages - 1
        assert (self.part.host_pages(), self.part.moving_pages(), self.away) == (0, 0, set())

    def _begun(self, placed: Placed) -> Placed:
        self.copies += placed.moves
        for seat in placed.preempted:
            assert self.tiers.pages(seat) == 0
        return placed
