"""Contract 2: every composition emits, token for token, what the oracle emits.

Greedy for every verifier, sampled for `shared-noise`; with batch neighbours, late arrivals, aborts, preemption,
chunked prefill and shared prefixes. While a case runs its cache is compared with a clean prefill and its page books
are checked.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings

from sparsespec.testing.cases import Case
from sparsespec.testing.strategies import cases
from tests.laws.harness import Seen, run

EXAMPLES = 320


def _run_many(examples: int) -> tuple[Seen, Seen, Counter[tuple[str, ...]]]:
    """Run drawn cases; return what all of them showed, what those with a sparse selector showed, and who was drawn."""
    seen, sparse = Seen(), Seen()
    compositions: Counter[tuple[str, ...]] = Counter()

    @settings(max_examples=examples)
    @given(cases(longest=90))
    def check(case: Case) -> None:
        one = run(case, kv_every=5)
        compositions[(*(part.name for part in case.spec.parts.values()), case.spec.loop)] += 1
        seen.add(one)
        if case.spec.selector.name not in ("none", "full"):
            sparse.add(one)

    check()
    return seen, sparse, compositions


def _assert_power(sparse: Seen) -> None:
    """An equality in which every draft was accepted, or every draft read everything, proves nothing."""
    assert sparse.metrics.num_rejected_tokens > sparse.metrics.num_draft_tokens / 10
    assert sparse.metrics.num_accepted_tokens > sparse.metrics.num_draft_tokens / 20
    assert sparse.metrics.draft_kv_share < 0.5


def test_a_few_compositions_emit_what_dense_emits() -> None:
    _, sparse, _ = _run_many(25)
    _assert_power(sparse)


@pytest.mark.slow
def test_every_composition_emits_what_dense_emits() -> None:
    seen, sparse, compositions = _run_many(EXAMPLES)
    print(f"{seen}\n{len(compositions)} compositions in {EXAMPLES} examples")
    _assert_power(sparse)
    assert seen.metrics.num_accepted_guesses > 20
    assert seen.preemptions > 50
    assert seen.shared > 50
    assert seen.kv_checks > 1000
    assert len(compositions) > EXAMPLES / 2
