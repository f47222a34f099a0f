"""The exact distribution: over whole rounds, one level and two, what is emitted has exactly the target's distribution.

The verifiers' own code runs over a noise space that is enumerated to the end (`exact.py`). The mutants below are the
errors this has to see; each runs to its last round and is falsified by the law, never by a crash.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from sparsespec.core.noise import DRAW, RESIDUAL, pack_tag
from sparsespec.sampling.rejection import Rejection
from sparsespec.sampling.shared_noise import SharedNoise
from tests.laws.exact import LawBroken, Models, Probs, Rounds, check_probs
from tests.quick import quick_last
from tests.testing.caught import variant
from tests.testing.test_check_verifier import AcceptsTheLikely

V, MASS = 4, 6

LEVELS = {
    "drafts": {"draft": 2, "guess": 0},
    "two-levels": {"draft": 2, "guess": 1},
    "guesses": {"draft": 0, "guess": 2},
}


@st.composite
def probs(draw: Any) -> Probs:
    """Draw integer weights that add up to MASS, zeros included."""
    cuts = [0, *sorted(draw(st.lists(st.integers(0, MASS), min_size=V - 1, max_size=V - 1))), MASS]
    return tuple(b - a for a, b in pairwise(cuts))


def some_probs() -> st.SearchStrategy[tuple[Probs, ...]]:
    return st.lists(probs(), min_size=3, max_size=5).map(tuple)


def models() -> st.SearchStrategy[Models]:
    guesses = st.lists(st.integers(0, V - 1), min_size=1, max_size=4).map(tuple)
    return st.builds(Models, some_probs(), some_probs(), guesses, st.just(MASS))


def over_models(max_examples: int, *, shrink: bool = True) -> Callable[[Any], Any]:
    phases = [Phase.explicit, Phase.generate, *([Phase.shrink] if shrink else [])]
    return settings(
        max_examples=max_examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def rich(seed: int) -> Models:
    """Return models without sure tokens, which Hypothesis is slow to draw."""
    generator = random.Random(seed)

    def some() -> tuple[Probs, ...]:
        cuts = [sorted(generator.choices(range(MASS + 1), k=V - 1)) for _ in range(5)]
        return tuple(tuple(b - a for a, b in pairwise([0, *c, MASS])) for c in cuts)

    return Models(some(), some(), tuple(range(V)), MASS)


@pytest.mark.parametrize("levels", quick_last(list(LEVELS)))
@pytest.mark.parametrize("verifier", [Rejection, SharedNoise])
def test_emitted_tokens_have_the_targets_law(verifier: type, levels: str) -> None:
    size, given_, accepted = [0], [0], [0]

    @over_models(20)
    @given(models())
    @example(rich(0))
    @example(rich(1))
    def law(models: Models) -> None:
        done = check_probs(Rounds(models, verifier, **LEVELS[levels]))
        size[0] = max(size[0], len(done))
        given_[0] += sum(world.given for world in done)
        accepted[0] += sum(world.accepted for world in done)

    law()
    assert size[0] >= 40, "no example had enough leaves to mean anything"
    assert 0.1 < accepted[0] / given_[0] < 0.9, "a law run in which all drafts share a fate proves little"


@pytest.mark.slow
def test_longer_chains_of_guesses_and_drafts_keep_the_law() -> None:
    assert len(check_probs(Rounds(rich(0), Rejection, draft=3, guess=2, limit=4))) > 1000


@over_models(12)
@given(models())
def test_stopping_before_a_draw_keeps_the_law(models: Models) -> None:
    check_probs(Rounds(models, Rejection, stop=lambda p: max(p) <= MASS // 2))


@pytest.mark.parametrize("levels", quick_last(list(LEVELS)))
def test_shared_noise_emits_what_plain_drawing_emits(levels: str) -> None:
    @over_models(8)
    @given(models())
    def equal(models: Models) -> None:
        check_paths(Rounds(models, SharedNoise, **LEVELS[levels]))

    equal()


def check_paths(rounds: Rounds) -> None:
    """Raise `LawBroken` unless plain drawing, in the same world, emits the same tokens."""
    for world in check_probs(rounds):
        emitted, world.tokens = world.tokens, []
        plain = Rounds(rounds.models, SharedNoise, limit=rounds.limit, draft=0)
        choices = world.read
        plain([world])
        if world.read != choices or world.tokens != emitted:
            raise LawBroken(f"emitted {emitted}, but plain drawing emits {world.tokens}")


class ResidualWithDraftNoise(Rejection):
    """Draws the residual with the noise that the draft was drawn with."""

    def key(self, rows: Any, r: Any, j: int, purpose: int) -> Any:
        key = super().key(rows, r, j, purpose)
        return key._replace(tag=pack_tag(rows.n_committed[r], 1, DRAW)) if purpose == RESIDUAL else key


class NoiseOfDiscardedDrafts(Rejection):
    """Leaves the round out of the key."""

    def key(self, rows: Any, r: Any, j: int, purpose: int) -> Any:
        tag = pack_tag(torch.zeros_like(rows.n_committed[r]), rows.level[r], purpose)
        return super().key(rows, r, j, purpose)._replace(tag=tag)


class BonusFromThePositionBefore(Rejection):
    """Draws the token behind all candidates from the distribution one position too early."""

    def logit_row(self, rows: Any, r: Any, j: int) -> Any:
        return rows.first[r] + (j - (j == rows.count[r]).long()).clamp(min=0)


class BonusWithTheNextNoise(SharedNoise):
    """Draws the token behind all candidates with the noise of the position behind it."""

    def key(self, at: Any) -> Any:
        key = super().key(at)
        return key._replace(position=key.position + (at.alive & ~at.judges))


def throw_away(p: Probs, token: int) -> bool:
    """Discard a drawn draft that its distribution thought unlikely."""
    return p[token] <= MASS // 3


def sure_of_guess(p: torch.Tensor, guess: int, accepted: bool) -> torch.Tensor:
    """Divide by the guess's own distribution where the sparse level accepted it."""
    return torch.nn.functional.one_hot(torch.tensor(guess), V) * MASS if accepted else p


def without_guess(p: torch.Tensor, guess: int, accepted: bool) -> torch.Tensor:
    """Divide by the distribution that the replacement of a rejected guess was drawn from."""
    return p if accepted or guess < 0 else p.index_fill(0, torch.tensor([guess]), 0)


MUTANTS = {
    "accept iff p >= q": {"make": AcceptsTheLikely},
    "resample from p": {"make": variant("ResamplesFromP", Rejection, residual=lambda self, p, q: p)},
    "a drawn draft thrown away": {"make": Rejection, "discard": throw_away},
    "residual with the draft's noise": {"make": ResidualWithDraftNoise},
    "a discarded draft's noise used again": {"make": NoiseOfDiscardedDrafts},
    "bonus from the position before": {"make": BonusFromThePositionBefore},
    "bonus with the next noise": {"make": BonusWithTheNextNoise, "draft": 1, "limit": 4},
    "two levels, divides by the guess": {"make": Rejection, "guess": 1, "remember": sure_of_guess},
    "two levels, divides by the residual": {
        "make": Rejection,
        "guess": 1,
        "remember": without_guess,
    },
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_law_falsifies(mutant: str) -> None:
    finished = []

    @over_models(60, shrink=False)
    @given(models())
    @example(rich(0))
    def law(models: Models) -> None:
        rounds = Rounds(models, **MUTANTS[mutant])
        try:
            check_probs(rounds)
        finally:
            finished.append(all(len(world.tokens) == rounds.limit for world in rounds.worlds))

    with pytest.raises(LawBroken):
        law()
    assert all(finished), "a mutant must decode to the end before it is caught"
