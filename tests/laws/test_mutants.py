"""Tests of the tests: every mutant finishes requests, and is caught by a law that was named for it."""

from __future__ import annotations

import pytest

from sparsespec.testing.cases import case_of
from tests.laws.harness import LawBroken, Seen, run
from tests.laws.mutants import MUTANTS, Mutant

MOST_SEEDS = 1000
KV_EVERY = 4
"""Steps between looks at the cache: looking makes the lazy device catch up, which hides what needs it to lag."""


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_mutant_is_caught_by_its_law(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.inject(monkeypatch)
    caught, seen = _hunt(mutant)
    print(f"{mutant.name}: {caught.law} after {seen.finished} requests")
    assert caught.law in mutant.laws


def _hunt(mutant: Mutant) -> tuple[LawBroken, Seen]:
    """Run cases until the mutant is caught, having finished a request before: one that finishes none proves little."""
    seen = Seen()
    for seed in range(MOST_SEEDS):
        case = case_of(seed)
        if not mutant.bites(case):
            continue
        try:
            run(case, kv_every=KV_EVERY, seen=seen)
        except LawBroken as caught:
            if seen.finished:
                return caught, seen
    raise AssertionError(f"{mutant.name} was not caught in {MOST_SEEDS} cases, after {seen.finished} requests")
