"""Length policies that break one promise each, and the sentence that says which."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from sparsespec.core.plan import Lengths
from sparsespec.core.result import RowResult
from sparsespec.core.view import RowView
from sparsespec.policies.lengths.fixed import Fixed
from sparsespec.testing import check_length
from tests.testing.caught import caught


class Last(Fixed):
    """Sound: drafts as many as the seat's last round accepted, at most 8."""

    def bind(self, geometry: Any) -> None:
        self._last: dict[int, int] = {}

    def reset(self, seats: Sequence[int]) -> None:
        for seat in seats:
            self._last.pop(seat, None)

    def propose(self, row: RowView) -> Lengths:
        return Lengths(min(8, self._last.get(row.seat, 4)), 0)

    def observe(self, result: RowResult) -> None:
        self._last[result.seat] = result.n_accepted


class TooFar(Fixed):
    def propose(self, row: RowView) -> Lengths:
        return Lengths(9, 0)


class Negative(Fixed):
    def propose(self, row: RowView) -> Lengths:
        return Lengths(4, -1)


class Certain(Fixed):
    def propose(self, row: RowView) -> Lengths:
        return Lengths(4, 0, stop_below=1.5)


class NotANumber(Fixed):
    def propose(self, row: RowView) -> Lengths:
        return Lengths(4, 0, stop_below=float("nan"))


class Pair(Fixed):
    def propose(self, row: RowView) -> Any:
        return 4, 0


class Dicing(Fixed):
    """Counts how often anybody asked."""

    times = itertools.count()

    def propose(self, row: RowView) -> Lengths:
        return Lengths(next(self.times) % (self.max_draft + 1), 0)


class ForgetsAll(Last):
    def reset(self, seats: Sequence[int]) -> None:
        self._last = {}


class ForgetsNobody(Last):
    def reset(self, seats: Sequence[int]) -> None:
        pass


class Unbounded(Fixed):
    max_draft: Any = None


class Mute:
    needs = gives = frozenset[str]()
    max_draft = max_guess = 0

    def propose(self, row: RowView) -> Lengths:
        return Lengths(0, 0)


class Hiding(Fixed):
    def __init__(self, draft: int = 8) -> None:
        self.steps, self.guess = draft, 0

    @property
    def max_draft(self) -> int:
        return self.steps


BROKEN: dict[type, str] = {
    TooFar: "promised draft <= 8",
    Negative: "promised draft <= 8, guess <= 0",
    Certain: "no probability",
    NotANumber: "no probability",
    Pair: "must return Lengths",
    Dicing: "must not roll dice",
    ForgetsAll: "it may forget seat 0 only",
    ForgetsNobody: "still remembers",
    Unbounded: "must be a whole number",
    Mute: "lacks bind, reset, observe",
    Hiding: "does not store its option 'draft'",
}


@pytest.mark.parametrize("part", BROKEN, ids=lambda part: part.__name__)
def test_a_broken_promise_is_caught(part: type) -> None:
    caught(check_length, part(), BROKEN[part])


def test_their_sound_base_passes() -> None:
    check_length(Last())
