from __future__ import annotations

import copy
import json
import keyword
import pickle
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsespec.core.errors import BadOption
from sparsespec.core.loops import LOOPS
from sparsespec.core.spec import PRESETS, SHELVES, EngineSpec, PartSpec, preset

words = st.text(string.ascii_lowercase, min_size=1, max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["true", "None", "shared-noise", "it's", "inf", "class"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
options = st.dictionaries(
    words.filter(lambda word: not keyword.iskeyword(word)),
    values,
    max_size=3,
)
NAMES = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True)


@st.composite
def part_specs(draw: st.DrawFn, shelf: str | None = None) -> PartSpec:
    where = shelf or draw(st.sampled_from(SHELVES))
    return PartSpec(where, draw(NAMES), draw(options))


engine_specs = st.builds(
    EngineSpec,
    **{shelf: part_specs(shelf) for shelf in SHELVES},
    loop=st.sampled_from(sorted(LOOPS)),
    engine=options,
)


@settings(max_examples=150)
@given(part_specs())
def test_a_part_comes_back_from_each_of_its_forms(part: PartSpec) -> None:
    assert PartSpec.of(str(part), part.shelf) == part
    assert PartSpec.of(f"{part.shelf}/{part}") == part
    assert PartSpec.from_dict(json.loads(json.dumps(part.to_dict()))) == part
    assert pickle.loads(pickle.dumps(part)) == part
    assert hash(copy.deepcopy(part)) == hash(part)


@settings(max_examples=30)  # seven parts an example
@given(engine_specs)
def test_an_engine_spec_comes_back_from_json_exactly(spec: EngineSpec) -> None:
    again = EngineSpec.from_json(spec.to_json())
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.to_dict() == spec.to_dict() == json.loads(spec.to_json())
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_the_compact_form_reads_as_written_by_hand() -> None:
    part = PartSpec.of("pillar( budget=0.05, groups = heads, scored=(1, -1), warm=true )", "selector")
    assert part.to_dict()["options"] == {
        "budget": 0.05,
        "groups": "heads",
        "scored": [1, -1],
        "warm": True,
    }
    assert str(part) == "pillar(budget=0.05,groups=heads,scored=[1,-1],warm=True)"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pillar(",
        "pillar(0.05)",
        "pillar(budget=)",
        "pillar(budget=1/0)",
        "pillar(budget=f())",
        "pillar(a=1,a=2)",
        "pillar(**x)",
        "pillar(a=1)(b=2)",
        "pillar(a={**b})",
        "pillar(a=b'x')",
        "pillar(a=1e999)",
        "a/b/c",
        "pillar(a=\0)",
    ],
)
def test_a_string_that_is_no_part_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(BadOption) as caught:
        PartSpec.of(text, "selector")
    assert "\n" not in str(caught.value)


def test_a_spec_cannot_be_changed_behind_its_hash() -> None:
    given_options = {"scored": [1, 1]}
    part = PartSpec("selector", "pillar", given_options)
    given_options["scored"].append(2)
    assert part.options["scored"] == (1, 1)
    with pytest.raises(TypeError):
        part.options["budget"] = 1  # type: ignore[index]


def test_replace_takes_strings_dicts_and_specs_and_carries_no_options_over() -> None:
    spec = EngineSpec.of(selector="pillar(budget=0.1)")
    for pillar in ("pillar", {"name": "pillar"}, PartSpec("selector", "pillar")):
        assert spec.replace(selector=pillar).selector.options == {}
    changed = spec.replace(length={"name": "fixed", "options": {"draft": 8}}, loop="delayed")
    assert (str(changed.length), changed.loop) == ("fixed(draft=8)", "delayed")
    assert changed.selector == spec.selector
    assert changed.replace(engine={"block_size": 4}).engine == {"block_size": 4}


def test_presets_are_named_by_their_keys_and_cite_their_source() -> None:
    assert set(PRESETS) >= {"dense", "ngram", "magicdec", "triforce", "vegas", "sparsespec", "best"}
    for name, entry in PRESETS.items():
        assert entry.name == name
        assert entry.source
        assert EngineSpec.from_json(entry.spec.to_json()) == entry.spec
    assert preset("dense").spec == EngineSpec()
