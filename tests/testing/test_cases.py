"""What is drawn covers everything, is legal, repeats itself, and prints as one line."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsespec.core import registry
from sparsespec.core.loops import LOOPS
from sparsespec.core.spec import SHELVES, EngineSpec
from sparsespec.testing import Case, case_of, engine_of, register_adversaries
from sparsespec.testing.strategies import cases


@cache
def drawn() -> list[Case]:
    return [case_of(seed) for seed in range(400)]


def test_every_name_and_loop_is_drawn() -> None:
    register_adversaries()
    for shelf in SHELVES:
        found = Counter(getattr(case.spec, shelf).name for case in drawn())
        wanted = ["reference"] if shelf == "attention" else registry.names(shelf)
        assert all(found[name] >= 20 for name in wanted), (shelf, found)
    assert all(sum(case.spec.loop == loop for case in drawn()) >= 60 for loop in LOOPS)


def test_every_pair_of_parts_that_can_live_together_is_drawn() -> None:
    for one, other in (("selector", "scheduler"), ("selector", "verifier"), ("proposer", "length")):
        found = {(getattr(case.spec, one).name, getattr(case.spec, other).name) for case in drawn()}
        # guesses are refused where the length takes none
        alone = {(name, "zero") for name in registry.names("proposer") if name != "none"}
        assert found == set(product(registry.names(one), registry.names(other))) - alone


def test_few_compositions_are_drawn_twice() -> None:
    names = {(*(part.name for part in case.spec.parts.values()), case.spec.loop) for case in drawn()}
    assert len(names) >= 250


def test_sizes_reach_from_tight_to_ample() -> None:
    tight = ample = 0
    for case in drawn():
        size = case.spec.engine["block_size"]
        needs = [-(-(len(a.prompt) + a.params.max_tokens - 1) // size) for a in case.requests]
        assert case.spec.engine["num_gpu_blocks"] - 1 >= max(needs)
        tight += case.spec.engine["num_gpu_blocks"] - 1 == max(1, *needs)
        ample += case.spec.engine["num_gpu_blocks"] - 1 >= sum(needs)
    assert tight >= 100
    assert ample >= 80
    assert {case.spec.engine["block_size"] for case in drawn()} == {1, 2, 4, 16}
    assert {case.spec.engine["max_num_seqs"] for case in drawn()} == {1, 2, 3, 4}


def test_requests_are_of_all_kinds() -> None:
    asks = [ask for case in drawn() for ask in case.requests]
    assert {1, 2, 60} <= {len(ask.prompt) for ask in asks}
    assert {ask.params.n for ask in asks} == {1, 2, 3}
    for kind in (
        [ask.params.is_greedy for ask in asks],
        [ask.params.top_k > 0 for ask in asks],
        [ask.params.top_p < 1 for ask in asks],
        [ask.params.min_p > 0 for ask in asks],
        [bool(ask.params.stop_token_ids) for ask in asks],
        [ask.params.seed is None for ask in asks],
        [ask.at > 0 for ask in asks],
        [ask.abort is not None for ask in asks],
        [ask.params.logprobs is not None for ask in asks],
    ):
        assert 30 <= sum(kind) <= len(asks) - 30
    long = sum(len(ask.prompt) >= 30 for ask in asks)
    assert long >= len(asks) / 2


def test_only_shared_noise_is_sampled() -> None:
    for case in drawn():
        any_sampled = any(not ask.params.is_greedy for ask in case.requests)
        assert not any_sampled or case.spec.verifier.name == "shared-noise"


def test_verifiers_can_be_chosen() -> None:
    assert {case_of(seed, verifiers=("rejection",)).spec.verifier.name for seed in range(20)} == {"rejection"}


def test_a_case_repeats_itself_and_prints_as_the_call_that_makes_it() -> None:
    for case in drawn()[:30]:
        line = repr(case)
        assert "\n" not in line
        assert eval(line.partition(" [")[0], {"case_of": case_of}) == case
        assert str(case.spec) in line


def test_taking_a_request_away_leaves_the_others_as_they_were() -> None:
    many, few = case_of(5, n_requests=4), case_of(5, n_requests=2)
    assert set(few.requests) <= set(many.requests)
    assert few.spec.parts == many.spec.parts


def test_a_spec_round_trips_and_composes() -> None:
    for case in drawn()[:30]:
        assert EngineSpec.from_json(case.spec.to_json()) == case.spec
        engine = engine_of(case)
        assert engine.spec.parts.keys() == case.spec.parts.keys()
        engine.close()


@settings(max_examples=40)
@given(cases(most_requests=2, longest=20, max_tokens=6))
def test_the_strategy_keeps_its_bounds(case: Case) -> None:
    assert 1 <= len(case.requests) <= 2
    assert all(1 <= len(ask.prompt) <= 20 and ask.params.max_tokens <= 6 for ask in case.requests)


@pytest.mark.slow
def test_hypothesis_draws_many_compositions() -> None:
    seen: set[EngineSpec] = set()

    @settings(max_examples=300, database=None)
    @given(cases(), st.none())
    def draw(case: Case, _: None) -> None:
        seen.add(EngineSpec(**case.spec.parts, loop=case.spec.loop))

    draw()
    assert len(seen) >= 200
