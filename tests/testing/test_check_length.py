"""Length policies that break one promise each, and the sentence that says which."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from sparsespec.core.plan import Lengths
from sparsespec.core.result import RowResults
from sparsespec.core.view import Ints, View
from sparsespec.policies.lengths.fixed import Fixed
from sparsespec.testing import check_length
from tests.testing.caught import caught, variant


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


def proposing(name: str, propose: Callable[[View, Ints], Any]) -> type:
    """Return a `Fixed` that proposes what `propose` says of the view and the rows that are asked for."""
    return variant(name, Fixed, propose=lambda self, view, index: propose(view, index))


class Dicing(Fixed):
    """Counts how often it was asked, by all of its class."""

    times = itertools.count()

    def propose(self, view: View, index: Ints) -> Lengths:
        return Lengths(next(self.times) % (self.max_draft + 1), 0)


class ByCompany(Last):
    """Gives the rows that are asked together the length of the shortest."""

    def propose(self, view: View, index: Ints) -> Lengths:
        return Lengths(super().propose(view, index).draft.min(), 0)  # pyright: ignore[reportAttributeAccessIssue]


class ForgetsAll(Last):
    def reset(self, seats: Sequence[int]) -> None:
        self._last[:] = 4


class ForgetsNobody(Last):
    def reset(self, seats: Sequence[int]) -> None:
        pass


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
    proposing("TooFar", lambda view, index: Lengths(9, 0)): "promised draft <= 8",
    proposing("Negative", lambda view, index: Lengths(4, -1)): "promised draft <= 8, guess <= 0",
    proposing("Certain", lambda view, index: Lengths(4, 0, stop_below=1.5)): "no probability",
    proposing("NotANumber", lambda view, index: Lengths(4, 0, stop_below=float("nan"))): "no probability",
    proposing("Pair", lambda view, index: (4, 0)): "must return Lengths",
    # for long contexts alone
    proposing("TooFarAtTimes", lambda view, i: Lengths(np.where(view.n_hi[i] > 40, 9, 8), 0)): "promised draft <= 8",
    ByCompany: "to the same rows one by one",
    # confuses a row's place among those asked with its seat
    proposing("ByPlace", lambda view, i: Lengths(np.arange(len(i)) % 2, 0)): "to the same rows one by one",
    proposing(
        "OneTooMany", lambda view, i: Lengths(np.full(len(view) + 1, 4), 0)
    ): "one number for all of them, or one",
    proposing("Fractions", lambda view, i: Lengths(np.full(len(i), 4.0), 0)): "promised draft <= 8",
    Dicing: "must not roll dice",
    ForgetsAll: "it may forget seat 0 only",
    ForgetsNobody: "still remembers",
    variant("Unbounded", Fixed, max_draft=None): "must be a whole number",
    Mute: "lacks bind, reset, observe",
    Hiding: "does not store its option 'draft'",
}


@pytest.mark.parametrize("part", BROKEN, ids=lambda part: part.__name__)
def test_a_broken_promise_is_caught(part: type) -> None:
    caught(check_length, part(), BROKEN[part])


class Columns(Last):
    """Sound: answers with an array for each column."""

    def propose(self, view: View, index: Ints) -> Lengths:
        draft = super().propose(view, index).draft
        return Lengths(draft, np.zeros(len(index), dtype=np.int64), np.full(len(index), 0.5))


@pytest.mark.parametrize("part", [Last, Columns])
def test_a_sound_policy_passes(part: type) -> None:
    check_length(part())
