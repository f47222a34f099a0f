"""Length policies that break one promise each, and the sentence that says which."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sparsespec.core.plan import Lengths
from sparsespec.core.result import RowResults
from sparsespec.core.view import Ints, View
from sparsespec.policies.lengths.fixed import Fixed
from sparsespec.testing import check_length
from tests.testing.caught import caught


class Last(Fixed):
    """Sound: drafts as many as the seat's last round accepted, at most 8."""

    def bind(self, geometry: Any) -> None:
        self._last = np.full(geometry.n_seats, 4)

    def reset(self, seats: Sequence[int]) -> None:
        self._last[list(seats)] = 4

    def propose(self, view: View, index: Ints) -> Lengths:
        return Lengths(np.minimum(8, self._last[view.seat[index]]), 0)

    def observe(self, results: RowResults) -> None:
        self._last[results.seat] = results.n_accepted


class TooFar(Fixed):
    def propose(self, view: View, index: Ints) -> Lengths:
        return Lengths(9, 0)


class Negative(Fixed):
    def propose(self, view: View, index: Ints) -> Lengths:
        return Lengths(4, -1)


class Certain(Fixed):
    def propose(self, view: View, index: Ints) -> Lengths:
        return Lengths(4, 0, stop_below=1.5)


class NotANumber(Fixed):
    def propose(self, view: View, index: Ints) -> Lengths:
        return Lengths(4, 0, stop_below=float("nan"))


class Pair(Fixed):
    def propose(self, view: View, index: Ints) -> Any:
        return 4, 0


class Dicing(Fixed):
    """Counts how often it was asked, by all of its class."""

    times = itertools.count()

    def propose(self, view: View, index: Ints) -> Lengths:
        return Lengths(next(self.times) % (self.max_draft + 1), 0)


class TooFarAtTimes(Fixed):
    """Exceeds its promise for long contexts alone."""

    def propose(self, view: View, index: Ints) -> Lengths:
        return Lengths(np.where(view.n_hi[index] > 40, 9, 8), 0)


class ByCompany(Last):
    """Gives the rows that are asked together the length of the shortest."""

    def propose(self, view: View, index: Ints) -> Lengths:
        return Lengths(super().propose(view, index).draft.min(), 0)  # pyright: ignore[reportAttributeAccessIssue]


class ByPlace(Fixed):
    """Confuses a row's place among those asked with its seat."""

    def propose(self, view: View, index: Ints) -> Lengths:
        return Lengths(np.arange(len(index)) % 2, 0)


class OneTooMany(Fixed):
    def propose(self, view: View, index: Ints) -> Lengths:
        return Lengths(np.full(len(view) + 1, 4), 0)


class Fractions(Fixed):
    def propose(self, view: View, index: Ints) -> Lengths:
        return Lengths(np.full(len(index), 4.0), 0)  # pyright: ignore[reportArgumentType]


class ForgetsAll(Last):
    def reset(self, seats: Sequence[int]) -> None:
        self._last[:] = 4


class ForgetsNobody(Last):
    def reset(self, seats: Sequence[int]) -> None:
        pass


class Unbounded(Fixed):
    max_draft: Any = None


class Mute:
    needs = provides = frozenset[str]()
    max_draft = max_guess = 0

    def propose(self, view: View, index: Ints) -> Lengths:
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
    TooFarAtTimes: "promised draft <= 8",
    ByCompany: "to the same rows one by one",
    ByPlace: "to the same rows one by one",
    OneTooMany: "one number for all of them, or one for each",
    Fractions: "promised draft <= 8",
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


class Columns(Last):
    """Sound: answers with an array for each column."""

    def propose(self, view: View, index: Ints) -> Lengths:
        draft = super().propose(view, index).draft
        return Lengths(draft, np.zeros(len(index), dtype=np.int64), np.full(len(index), 0.5))


def test_a_column_is_a_number_or_an_array() -> None:
    check_length(Columns())
