"""Pages of both tiers always add up, nothing is lost on the way, and requests that wait come back: a state machine.

Mutants of the books ship beside it, and the machine must catch each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from sparsespec.core.plan import Move, Placed
from sparsespec.kv.host import HostTier
from sparsespec.kv.paged import Paged
from tests.laws.held import counted
from tests.laws.tier_books import TierBooks
from tests.testing.caught import variant

TestTierBooks = pytest.mark.slow(TierBooks.TestCase)
TestTierBooks.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


class CopiesOwnNothing(HostTier):
    """Frees the page of a copy when no seat holds it."""

    def _moves(self, move: Move) -> Move:
        self._book.release([move.page])
        return move

    def moved(self, moves: Sequence[Move], *, failed: bool) -> None:
        pass


class CopiesKeepTheirPages(HostTier):
    """Never lets go of what a copy held."""

    def moved(self, moves: Sequence[Move], *, failed: bool) -> None:
        for move in moves:
            self._book.retain([move.page])
        super().moved(moves, failed=failed)


class PreemptedAreStillOut(HostTier):
    """Goes on waiting for requests that were preempted."""

    def _release_all(self, seat: int) -> None:
        out = dict(self._out)
        super()._release_all(seat)
        self._out = out

    def forget(self, seat: int) -> None:
        super().forget(seat)
        self._out.pop(seat, None)


class ForgottenAreStillOut(HostTier):
    """Goes on waiting for requests that have left."""

    def forget(self, seat: int) -> None:
        out = dict(self._out)
        super().forget(seat)
        self._out = out


MUTANTS = [
    CopiesOwnNothing,
    CopiesKeepTheirPages,
    # moves a block for the request that leaves, and not for those that share it
    variant("SharedBlocksMoveForOne", HostTier, _sharers=lambda self, seat, block: {seat}),
    # releases pages of the device and no host pages
    variant("HostPagesStayOnForget", HostTier, _release=Paged._release),
    # lets requests run that have left
    variant("OutIsStillHere", HostTier, away=lambda self: ()),
    # lets requests run that are on the way back, before the copies have ended
    variant("ArrivesAtOnce", HostTier, _arrive=lambda self: self._back.clear()),
    # takes what a failed copy left for the truth
    variant(
        "FailuresAreFine", HostTier, moved=lambda self, moves, *, failed: HostTier.moved(self, moves, failed=False)
    ),
    # spills and forgets to restore
    variant("NobodyComesBack", HostTier, restore=lambda self, view: Placed()),
    PreemptedAreStillOut,
    ForgottenAreStillOut,
]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_caught(mutant: type[HostTier]) -> None:
    class Broken(TierBooks):
        Tier = mutant

    with pytest.raises((AssertionError, KeyError, ExceptionGroup)):
        run_state_machine_as_test(Broken, settings=counted(200, 50))


@pytest.mark.slow
def test_the_machine_reaches_what_matters() -> None:
    class Counting(TierBooks):
        seen: ClassVar[Counter[str]] = Counter()

    run_state_machine_as_test(Counting, settings=counted(300, 50))
    wanted = (
        "spilled",
        "restored",
        "shared and spilled",
        "shared and restored",
        "failed",
        "host full",
        "preempted",
        "left while leaving",
        "left while out",
        "left while coming back",
    )
    assert min(Counting.seen[what] for what in wanted) >= 5, Counting.seen
