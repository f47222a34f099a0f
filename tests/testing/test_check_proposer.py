"""Proposers that break one promise each, and the sentence that says which."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from sparsespec.core.batch import State
from sparsespec.policies.proposers.ngram import Ngram
from sparsespec.policies.proposers.none import NoProposer
from sparsespec.testing import check_proposer
from tests.testing.caught import caught, variant


class Overwriting(Ngram):
    def propose(self, state: State, seat: Tensor, known: Tensor, room: Tensor) -> Tensor:
        count = super().propose(state, seat, known, room)
        state.tokens[seat, known - 1] += 1
        return count


class Sprawling(Ngram):
    """Writes its whole width, whatever the count."""

    def propose(self, state: State, seat: Tensor, known: Tensor, room: Tensor) -> Tensor:
        count = super().propose(state, seat, known, room)
        for j in range(4):
            state.tokens[seat, known + j] = 3
        return count


class Dicing(Ngram):
    """Guesses every other time, whoever asks: each text is shown to two of them in turn."""

    times = itertools.count()

    def propose(self, state: State, seat: Tensor, known: Tensor, room: Tensor) -> Tensor:
        return super().propose(state, seat, known, room * (next(self.times) % 2))


class Outside(Ngram):
    provides: frozenset[str] = frozenset()  # what it does wrong, it does by looking

    def propose(self, state: State, seat: Tensor, known: Tensor, room: Tensor) -> Tensor:
        count = super().propose(state, seat, known, room)
        has = count > 0
        state.tokens[seat[has], known[has]] = 99
        return count


class Filling(Ngram):
    def propose(self, state: State, seat: Tensor, known: Tensor, room: Tensor) -> Tensor:
        state.n_computed[seat] += 1
        return super().propose(state, seat, known, room)


class Peeking(Ngram):
    """Stops early where nobody has room, which it cannot know without looking."""

    def propose(self, state: State, seat: Tensor, known: Tensor, room: Tensor) -> Tensor:
        if not room.any():
            return torch.zeros_like(room)
        return super().propose(state, seat, known, room)


BROKEN: dict[type, str] = {
    # makes one guess more than there is room for
    variant("Greedy", Ngram, propose=lambda self, *asked: Ngram.propose(self, *asked) + 1): "where there was room for",
    Overwriting: "not among its guesses",
    Sprawling: "not among its guesses",
    variant(
        "Elsewhere", Ngram, propose=lambda self, state, seat, *rest: Ngram.propose(self, state, (seat + 1) % 4, *rest)
    ): "not among its guesses",
    Dicing: "when it is asked again",
    Outside: "not in the vocabulary",
    Filling: "changed state.n_computed",
    variant("Lying", Ngram, guesses=False): "says that it never does",
    variant("Shapeless", NoProposer, propose=lambda self, *asked: torch.zeros(1, 1)): "one whole number per row",
    variant(
        "Learning", NoProposer, observe=lambda self, outcome: outcome.batch.state.tokens[0, 0].add_(1)
    ): "observe changed state.tokens",
    Peeking: "cannot be captured",
    variant("NoWords", NoProposer, needs=frozenset({"scores", "telepathy"})): "must be a frozenset",
}


@pytest.mark.parametrize("part", BROKEN, ids=lambda part: part.__name__)
def test_a_broken_promise_is_caught(part: type) -> None:
    caught(check_proposer, part(), BROKEN[part])
