"""Exact tokens: every composition emits, token for token, what the oracle emits.

Greedy for every verifier, sampled for `shared-noise`; with batch neighbours, late arrivals, aborts, preemption,
chunked prefill and shared prefixes. While a case runs its cache is compared with a clean prefill and its page books
are checked.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings

from sparsespec.testing.cases import Case, case_of
from sparsespec.testing.strategies import cases
from tests.laws.harness import Seen, run

EXAMPLES = 320
KV_EVERY = 8
"""Steps between looks at the cache; `test_kv_truth.py` looks after each."""


class Tally:
    """What cases showed: all of them, and those with a sparse selector; and which compositions they were."""

    def __init__(self) -> None:
        self.seen, self.sparse = Seen(), Seen()
        self.compositions: Counter[tuple[str, ...]] = Counter()

    def run(self, case: Case) -> None:
        one = run(case, kv_every=KV_EVERY)
        self.compositions[(*(part.name for part in case.spec.parts.values()), case.spec.loop)] += 1
        self.seen.add(one)
        if case.spec.selector.name not in ("none", "full"):
            self.sparse.add(one)


def _assert_power(sparse: Seen) -> None:
    """An equality in which every draft was accepted, or every draft read everything, proves nothing."""
    assert sparse.metrics.num_rejected_tokens > sparse.metrics.num_draft_tokens / 10
    assert sparse.metrics.num_accepted_tokens > sparse.metrics.num_draft_tokens / 20
    assert sparse.metrics.draft_kv_share < 0.5


def test_a_few_compositions_emit_what_dense_emits() -> None:
    tally = Tally()
    # by number: what Hypothesis draws hangs on the modules that are loaded, and few draws may all be easy ones
    for seed in range(20):
        tally.run(case_of(seed, n_requests=2, longest=90))
    _assert_power(tally.sparse)


@pytest.mark.slow
def test_every_composition_emits_what_dense_emits() -> None:
    tally = Tally()

    @settings(max_examples=EXAMPLES)
    @given(cases(longest=90))
    def check(case: Case) -> None:
        tally.run(case)

    check()
    seen = tally.seen
    print(f"{seen}\n{len(tally.compositions)} compositions in {EXAMPLES} examples")
    _assert_power(tally.sparse)
    assert seen.metrics.num_accepted_guesses > 20
    assert seen.preemptions > 50
    assert min(seen.spilled, seen.restored) > 50
    assert seen.shared > 50
    assert seen.kv_checks > 1000
    assert len(tally.compositions) > EXAMPLES / 2
