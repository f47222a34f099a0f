"""Pages of both tiers always add up, nothing is lost on the way, and requests that wait come back: a state machine.

Mutants of the books ship beside it, and the machine must catch each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import pytest
from hypothesis import Phase as Generation
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from sparsespec.core.plan import Move, Placed
from sparsespec.core.view import View
from sparsespec.kv.host import HostTier
from sparsespec.kv.paged import Paged
from tests.laws.tier_books import TierBooks

TestTierBooks = pytest.mark.slow(TierBooks.TestCase)
TestTierBooks.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


def _settings(n: int) -> settings:
    """Return settings for machines that are expected to fail, or only to be counted: there is nothing to shrink."""
    return settings(max_examples=n, stateful_step_count=50, deadline=None, database=None, phases=[Generation.generate])


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


class SharedBlocksMoveForOne(HostTier):
    """Moves a block for the request that leaves, and not for those that share it."""

    def _sharers(self, seat: int, block: int) -> set[int]:
        return {seat}


class HostPagesStayOnForget(HostTier):
    """Releases pages of the device and no host pages."""

    def _release(self, seat: int, keep: int) -> None:
        Paged._release(self, seat, keep)


class OutIsStillHere(HostTier):
    """Lets requests run that have left."""

    def away(self) -> Sequence[int]:
        return ()


class ArrivesAtOnce(HostTier):
    """Lets requests run that are on the way back, before the copies have ended."""

    def _arrive(self) -> None:
        self._back.clear()


class FailuresAreFine(HostTier):
    """Takes what a failed copy left for the truth."""

    def moved(self, moves: Sequence[Move], *, failed: bool) -> None:
        super().moved(moves, failed=False)


class NobodyComesBack(HostTier):
    """Spills and forgets to restore."""

    def restore(self, view: View) -> Placed:
        return Placed()


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
    SharedBlocksMoveForOne,
    HostPagesStayOnForget,
    OutIsStillHere,
    ArrivesAtOnce,
    FailuresAreFine,
    NobodyComesBack,
    PreemptedAreStillOut,
    ForgottenAreStillOut,
]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_caught(mutant: type[HostTier]) -> None:
    class Broken(TierBooks):
        Tier = mutant

    with pytest.raises((AssertionError, KeyError, ExceptionGroup)):
        run_state_machine_as_test(Broken, settings=_settings(200))


@pytest.mark.slow
def test_the_machine_reaches_what_matters() -> None:
    class Counting(TierBooks):
        seen: ClassVar[Counter[str]] = Counter()

    run_state_machine_as_test(Counting, settings=_settings(300))
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
