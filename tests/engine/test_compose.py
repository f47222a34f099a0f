"""From names to an engine and back: specs that compose again, and every composition that is refused."""

from __future__ import annotations

from typing import Any

import pytest

from sparsespec.core.errors import BadOption, SparseSpecError, UnknownName
from sparsespec.core.registry import make
from sparsespec.core.spec import PRESETS, EngineSpec
from sparsespec.engine.compose import compose as parts_of
from sparsespec.engine.engine import Engine
from sparsespec.models.tiny import tiny
from sparsespec.policies.lengths.fixed import Fixed
from sparsespec.policies.selectors.window import Window
from sparsespec.testing.cases import model_of
from tests.engine.running import (
    KEY,
    PILLAR,
    assert_dense,
    compose,
    is_sentence,
    prompt_of,
    run,
    sampled,
    small,
)
from tests.quick import quick_last

Changes = dict[str, Any]

REFUSED: dict[str, tuple[Changes, type[SparseSpecError], str]] = {
    "no draft level": ({"length": "fixed(draft=4)"}, BadOption, "use selector='full'"),
    "guesses without a proposer": ({"length": "fixed(draft=0,guess=3)"}, BadOption, "use proposer='ngram'"),
    "drafts and guesses without a proposer": (
        {"selector": "full", "length": "fixed(draft=2,guess=3)"},
        BadOption,
        "length with guess=0",
    ),
    "groups": ({"selector": "pillar(groups=3)"}, BadOption, "must divide the 2 KV heads of the model, or be 'heads'"),
    "unknown part": ({"selector": "pilar"}, UnknownName, "did you mean 'pillar'"),
    "unknown part of a spec": ({"scheduler": {"name": "lockstp"}}, UnknownName, "did you mean 'lockstep'"),
    "unknown option of a part": ({"selector": "window(sink=4)"}, UnknownName, "did you mean 'sinks'"),
    "unknown loop": ({"loop": "residents"}, UnknownName, "did you mean 'resident'"),
    "unknown engine option": ({"blocksize": 4}, UnknownName, "did you mean 'block_size'"),
    "an option of vLLM": ({"enforce_eager": True}, UnknownName, "enforce_eager is called graphs here: graphs=False"),
    "unknown shelf": ({"selectors": "full"}, UnknownName, "did you mean 'selector'"),
    "a part of another shelf": ({"selector": "length/fixed"}, BadOption, "a part of shelf 'selector' is wanted"),
    "an instance of another shelf": ({"scheduler": Fixed()}, BadOption, "scheduler must be a name"),
    "a class": ({"length": Fixed}, BadOption, "a name, a spec, or a finished instance"),
    "no part": ({"selector": None}, BadOption, "selector must be a name"),
    "no loop": ({"loop": None}, UnknownName, "have: delayed, resident, sync"),
    "a number for a loop": ({"loop": 1}, UnknownName, "have: delayed, resident, sync"),
    "no seats": ({"max_num_seqs": 0}, BadOption, "max_num_seqs is a whole number of 1 or more, got 0"),
    "None seats": ({"max_num_seqs": None}, BadOption, "max_num_seqs is a whole number of 1 or more, got None"),
    "half a seat": ({"max_num_seqs": 1.5}, BadOption, "max_num_seqs is a whole number of 1 or more, got 1.5"),
    "True seats": ({"max_num_seqs": True}, BadOption, "max_num_seqs is a whole number of 1 or more, got True"),
    "no page size": ({"block_size": None}, BadOption, "block_size is a whole number of 1 or more, got None"),
    "negative pages": ({"block_size": -4}, BadOption, "block_size is a whole number of 1 or more, got -4"),
    "only page 0": ({"num_gpu_blocks": 1}, BadOption, "num_gpu_blocks is a whole number of 2 or more"),
    "no context": ({"max_model_len": 0}, BadOption, "max_model_len is a whole number of 2 or more, got 0"),
    "context without output": ({"max_model_len": 1}, BadOption, "max_model_len is a whole number of 2 or more, got 1"),
    "more context than the model": ({"max_model_len": 257}, BadOption, "at most the model's 256 tokens, got 257"),
    "a word for a seed": ({"seed": "x"}, BadOption, "seed is a whole number, got 'x'"),
    "a word for checked": ({"checked": "yes"}, BadOption, "checked is True or False, got 'yes'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_composition_that_cannot_work_is_refused_with_what_would(name: str) -> None:
    changes, kind, says = REFUSED[name]
    with pytest.raises(kind) as error:
        Engine.compose(model_of(KEY), "dense", **changes)
    assert says in str(error.value)
    assert is_sentence(str(error.value))


def test_what_is_to_be_exact_is_composed_before_there_is_a_model() -> None:
    """Which backend attends is known with the model only, so nobody is refused here for its sake."""
    for attention in ({}, {"attention": "triton"}):
        assert parts_of("dense", {"exact": True, **attention})[2].exact


def test_an_unknown_preset_names_the_near_miss() -> None:
    with pytest.raises(UnknownName, match="did you mean 'magicdec'"):
        Engine.compose(model_of(KEY), "magic-dec")


def test_an_unknown_engine_option_in_a_stored_spec_is_refused_too() -> None:
    with pytest.raises(UnknownName, match="did you mean 'block_size'"):
        Engine.compose(model_of(KEY), EngineSpec().replace(engine={"blocks_size": 4}))


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
        for shift in range(2):
            engine.add(prompt_of(30, shift), sampled(8))
        done = run(engine)
        said.append([done[key].token_ids for key in sorted(done)])
        for completion in done.values():
            assert_dense(completion, sampled(8))
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
    (done,) = run(engine).values()
    assert done.metrics.num_draft_tokens > 0
    assert_dense(done, sampled(8))


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
