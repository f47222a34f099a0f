"""From names to an engine and back: specs that compose again."""

from __future__ import annotations

import pytest

from sparsespec.core.registry import make
from sparsespec.core.spec import PRESETS, EngineSpec
from sparsespec.engine.compose import compose as parts_of
from sparsespec.engine.engine import Engine
from sparsespec.models.tiny import tiny
from sparsespec.policies.lengths.fixed import Fixed
from sparsespec.policies.selectors.window import Window
from tests.engine.running import PILLAR, add, compose, finish, prompt_of, sampled, small
from tests.quick import quick_last


def test_what_is_to_be_exact_is_composed_before_there_is_a_model() -> None:
    """Which backend attends is known with the model only, so nobody is refused here for its sake."""
    for attention in ({}, {"attention": "triton"}):
        assert parts_of("dense", {"exact": True, **attention})[2].exact


@pytest.mark.parametrize("name", quick_last(list(PRESETS)))
def test_every_preset_composes_again_from_its_own_spec(name: str) -> None:
    first = compose(small(name))
    text = first.spec.to_json()
    again = compose(EngineSpec.from_json(text))
    assert again.spec == first.spec
    assert again.geometry == first.geometry
    assert again.spec.to_json() == text
    said = list[list[tuple[int, ...]]]()
    for engine in (first, again):
        add(engine, sampled(8), 2, length=30)
        done = finish(engine, sampled(8))
        said.append([done[key].token_ids for key in sorted(done)])
    assert said[0] == said[1]


def test_a_spec_holds_what_was_resolved_and_what_was_changed() -> None:
    spec = compose("sparsespec", loop="resident", selector=PILLAR, max_model_len=99).spec
    assert spec.loop == "resident"
    assert spec.selector.options["min_budget"] == 8
    assert spec.selector.options["smooth"] == 0.0
    assert spec.length.options == {"draft": 8, "guess": 0}
    assert spec.engine["max_model_len"] == 99
    assert spec.engine["num_gpu_blocks"] is None
    assert spec.engine["checked"] is True


def test_finished_parts_go_in_as_they_are() -> None:
    window = make("selector/window", min_budget=8, sinks=2)
    engine = compose(selector=window, length=Fixed(draft=3))
    assert engine._parts.selector is window
    assert isinstance(window, Window)
    assert str(engine.spec.length) == "fixed(draft=3,guess=0)"
    engine.add(prompt_of(30), sampled(8))
    (done,) = finish(engine, sampled(8)).values()
    assert done.metrics.num_draft_tokens > 0


def test_the_pool_has_room_for_all_seats_but_takes_no_more_than_its_share_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert compose(max_num_seqs=3, max_model_len=30).geometry.num_gpu_blocks == 1 + 3 * 8
    # a page of 4 tokens: keys and values of 2 layers, 2 heads, 8 dimensions, float64
    page = 4 * 2 * 2 * 2 * 8 * 8
    monkeypatch.setattr("sparsespec.engine.sizes.DEFAULT_KV_BYTES", 10 * page)
    assert compose(max_num_seqs=3, max_model_len=30).geometry.num_gpu_blocks == 1 + 10
    # one full context always fits, or the engine could not serve its own limit
    assert compose(max_num_seqs=3, max_model_len=100).geometry.num_gpu_blocks == 1 + 25


def test_sizes_follow_from_the_model_and_the_parts() -> None:
    model = tiny("llama", n_kv_heads=4, max_model_len=64, dtype="float32")
    engine = Engine.compose(
        model, selector="pillar(groups=heads,scored=[0,3])", proposer="ngram", length="fixed(draft=5,guess=2)"
    )
    sizes = engine.geometry
    assert (sizes.groups, sizes.scored, sizes.max_draft, sizes.max_guess) == (4, (0, 3), 5, 2)
    assert (sizes.max_model_len, sizes.dtype, sizes.device, sizes.n_seats) == (64, "float32", "cpu", 8)
