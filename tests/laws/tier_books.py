"""The books of both tiers as a state machine: requests come, grow, share, spill, return and go, in any order.

A dictionary says what lies in every page and every host page, and copies are carried out when they end: so it shows not
only that nothing leaks and no page has two owners, but that each request that runs finds what it wrote. At the end of
each run all requests are driven to the end, which takes a bounded number of steps, and nothing is left.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sparsespec.core.plan import Move, Phase, Placed, Row, StepPlan
from sparsespec.core.view import View
from sparsespec.kv.host import HostTier
from sparsespec.testing.checks.stage import small_geometry
from sparsespec.testing.checks.watched_tiers import OnHost, WatchedTiers
from tests.laws.held import view_of_held

PAGE, SEATS = 4, 5
ROOM = 12
"""Pages of the device; no request may hold more."""
LIMIT = PAGE * ROOM
SPOILT = (-1, -1)
"""What a failed copy leaves where it should have written."""

Label = tuple[int, int]
"""The arrival of the request that wrote a block, and which of its blocks it is."""


class TierBooks(RuleBasedStateMachine):
    """Drives a tier manager, watched, and keeps what every page holds."""

    Tier: type[HostTier] = HostTier
    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.tiers: Any = None
        self.held: dict[int, int] = {}  # committed tokens per seat
        self.arrival: dict[int, int] = {}
        self.texts: dict[int, list[Label]] = {}  # what each block of a seat should hold
        self.device: dict[int, Label] = {}
        self.host: dict[int, Label] = {}
        self.copies: deque[Move] = deque()
        self.next = 0

    @initialize(
        victim=st.sampled_from(["newest", "shortest", "longest_remaining"]),
        size=st.sampled_from([0.2, 0.5, 2.0]),
        low=st.sampled_from([0.0, 0.1, 0.3]),
        wider=st.sampled_from([0.0, 0.0, 0.2]),
        chunk=st.sampled_from([1, 3, 64]),
        prompt=st.integers(LIMIT // 8, LIMIT // 4),
        samples=st.sampled_from([0, 1, 2, 2]),
    )
    def bind(self, samples: int, prompt: int, low: float, wider: float, **options: Any) -> None:
        inner = self.Tier(low=low, high=low + wider, **options)
        inner.bind(small_geometry(n_seats=SEATS, block_size=PAGE, num_gpu_blocks=ROOM + 1))
        self.tiers = WatchedTiers(inner, ROOM + 1, PAGE)
        for _ in range(2):
            self.come(prompt, more=prompt)
        self._decode([5] * SEATS)
        for _ in range(samples):
            self._come_as_a_sample(1, (prompt - 2) // PAGE)

    @precondition(lambda self: len(self.held) < SEATS)
    @rule(n=st.integers(1, LIMIT // 2) | st.just(LIMIT // 3), more=st.integers(0, LIMIT // 2))
    def come(self, n: int, more: int) -> None:
        seat = min(set(range(SEATS)) - self.held.keys())
        if self.tiers.admit(seat, n, n + more):
            self.held[seat], self.arrival[seat], self.texts[seat] = n, self.next, []
            self.next += 1

    @precondition(lambda self: len(self.held) < SEATS and self._owners())
    @rule(data=st.data())
    def come_as_a_sample(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(self._owners()))
        self._come_as_a_sample(owner, data.draw(st.integers(1, len(self.texts[owner]))))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        here = [seat for seat in self.held if seat not in self.tiers.away()]
        order = data.draw(st.permutations(sorted(here)))
        plan = order[: data.draw(st.integers(0, len(order)))]
        self._step({seat: data.draw(st.integers(1, 5)) for seat in plan})

    @precondition(lambda self: self.held)
    @rule(
        accepted=st.lists(st.integers(3, 5), min_size=3 * SEATS, max_size=3 * SEATS),
        landing=st.lists(st.sampled_from(["none", "one", "all", "all", "all fail"]), min_size=3, max_size=3),
    )
    def decode(self, accepted: list[int], landing: list[str]) -> None:
        for i, how in enumerate(landing):
            self._decode(accepted[i * SEATS : (i + 1) * SEATS])
            n = {"none": 0, "one": min(1, len(self.copies))}.get(how, len(self.copies))
            self._land(n, how == "all fail")

    @precondition(lambda self: self.copies)
    @rule(data=st.data(), failed=st.sampled_from([False, False, False, True]))
    def land(self, data: st.DataObject, failed: bool) -> None:
        self._land(data.draw(st.integers(1, len(self.copies))), failed)

    @precondition(lambda self: self.held and not self.copies)
    @rule(data=st.data(), drafted=st.integers(0, 4))
    def commit(self, data: st.DataObject, drafted: int) -> None:
        self._commit([data.draw(st.sampled_from(sorted(self.held)))], drafted)

    @precondition(lambda self: len(self.held) == SEATS)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self._forget(data.draw(st.sampled_from(sorted(self.held))))

    @precondition(lambda self: len(self.held) > 1)
    @rule(where=st.sampled_from(["leaving", "out", "coming back"]))
    def leave_from_afar(self, where: str) -> None:
        for _ in range(4):
            for seat in self._away():
                if self._whereabouts(seat) == where:
                    self.seen[f"left while {where}"] += 1
                    self._forget(seat)
                    return
            self._land(len(self.copies), False)
            self._decode([4] * SEATS)

    @invariant()
    def books_balance(self) -> None:
        if self.tiers is None:
            return
        self.tiers.check()
        self.tiers._agree()
        self.seen["host full"] += self.tiers.host_free_pages() == 0
        self.seen["steps"] += 1

    def teardown(self) -> None:
        if self.tiers is None:
            return
        self._drive_to_the_end()
        self._land(len(self.copies), False)
        assert self.tiers.free_pages() == ROOM, "pages are held when all requests have left"
        assert self.tiers.host_pages() == self.tiers.moving_pages() == 0, "the host holds pages of no request"
        assert not self.tiers.away()

    def _drive_to_the_end(self) -> None:
        """Let each request run once and go; copies take turns with steps."""
        most = 8 * ROOM * (len(self.held) + 1)
        for _ in range(most):
            if not self.held:
                return
            here = {seat: 1 for seat in self.held if seat not in self.tiers.away()}
            placed = self._step(here)
            for row in placed.rows:
                if row.seat in self.held:
                    self._forget(row.seat)
            self._land(len(self.copies), False)
        raise AssertionError(f"{sorted(self.held)} did not run in {most} steps: {self.tiers.inner.__dict__}")

    def _decode(self, accepted: list[int]) -> None:
        """Place all requests that are here, and accept so many tokens of those that ran."""
        placed = self._step({seat: 5 for seat in self.held if seat not in self.tiers.away()})
        for row, n in zip(placed.rows, accepted, strict=False):
            self.held[row.seat] += n
            if self.held[row.seat] > LIMIT - 8:
                self._forget(row.seat)  # it has all tokens that it may have
        self._commit([row.seat for row in placed.rows if row.seat in self.held], 0)

    def _come_as_a_sample(self, owner: int, n: int) -> None:
        """Let a request come that shares the first `n` pages of `owner`, if it is admitted."""
        before = self.next
        self.come(n * PAGE + 1, more=8)
        if self.next > before:
            seat = max(self.held, key=lambda seat: self.arrival[seat])
            # a page both hold is one that neither writes or releases
            self.held[owner] = max(self.held[owner], n * PAGE + 1)
            self.tiers.share(seat, owner, n)
            self.texts[seat] = self.texts[owner][:n]

    def _step(self, queries: dict[int, int]) -> Placed:
        """Place rows of so many queries, and restore if none starved."""
        view = self._view()
        rows = tuple(Row(seat, Phase.VERIFY, n, n - 1) for seat, n in queries.items())
        placed = self.tiers.place(StepPlan(rows), view)
        self._preempted(placed)
        self._begin(placed.moves)
        for seat, block, page in placed.table:
            label = (self.arrival[seat], block)
            assert block == len(self.texts[seat])
            self.texts[seat].append(label)
            self.device[page] = label
        for row in placed.rows:
            self._reads(row.seat)
        if len(placed.rows) == len(rows):
            restored = self.tiers.restore(view)
            self._preempted(restored)
            self._begin(restored.moves)
        return placed

    def _reads(self, seat: int) -> None:
        """See that a seat that runs finds what it wrote."""
        table = self.tiers.tables.get(seat, [])
        found = [self.device.get(page) for page in table]
        assert found == self.texts[seat], f"seat {seat} finds {found} and wrote {self.texts[seat]}"

    def _begin(self, moves: tuple[Move, ...]) -> None:
        self.copies.extend(moves)
        for move in moves:
            holders = self.tiers._holders(OnHost(move.host_page) if move.out else move.page)
            what = "spilled" if move.out else "restored"
            self.seen[what] += 1
            self.seen[f"shared and {what}"] += len(holders) > 1

    def _land(self, n: int, failed: bool) -> None:
        """Let the oldest copies end: only now they read and write, as late as they may."""
        ended = [self.copies.popleft() for _ in range(n)]
        for move in ended:
            if move.out:
                self.host[move.host_page] = SPOILT if failed else self.device[move.page]
            else:
                self.device[move.page] = SPOILT if failed else self.host[move.host_page]
        if ended:
            self.tiers.moved(ended, failed=failed)
            self.seen["failed"] += failed

    def _preempted(self, placed: Placed) -> None:
        for seat in placed.preempted:
            self.texts[seat] = []
            self.seen["preempted"] += 1

    def _forget(self, seat: int) -> None:
        self.tiers.forget(seat)
        assert seat not in self.tiers.away()
        del self.held[seat], self.arrival[seat], self.texts[seat]

    def _whereabouts(self, seat: int) -> str:
        inner = self.tiers.inner
        if seat in inner._back:
            return "coming back"
        if seat not in inner._out:
            return "here"
        leaving = {move.host_page for move in self.copies if move.out}
        has_left = leaving.isdisjoint(page for (s, _), page in inner._host_table.items() if s == seat)
        return "out" if has_left else "leaving"

    def _commit(self, seats: list[int], drafted: int) -> None:
        positions = [self.held[seat] - 1 + drafted for seat in seats]
        self.tiers.commit(np.array(seats, np.int64), np.array(positions, np.int64))
        for seat in seats:
            del self.texts[seat][self.tiers.pages(seat) :]

    def _away(self) -> list[int]:
        return sorted(set(self.tiers.away())) if self.tiers else []

    def _owners(self) -> list[int]:
        """Return the seats that are here and have pages to share."""
        return [seat for seat in sorted(self.held) if seat not in self.tiers.away() and self.texts[seat]]

    def _view(self) -> View:
        away = self.tiers.away()
        seats = sorted((s for s in self.held if s not in away), key=lambda seat: self.arrival[seat])
        return view_of_held(self, seats)
