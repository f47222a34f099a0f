from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsespec.core.errors import UnknownName
from sparsespec.core.params import SamplingParams

FEW = SamplingParams(0.0, max_tokens=3)

params = st.builds(
    SamplingParams,
    temperature=st.just(0.0) | st.floats(1e-5, 10),
    top_p=st.floats(0, 1, exclude_min=True),
    top_k=st.integers(-1, 1 << 40),
    min_p=st.floats(0, 1),
    max_tokens=st.integers(1, 1 << 40),
    stop=st.lists(st.text(min_size=1), max_size=3).map(tuple),
    stop_token_ids=st.lists(st.integers(0, 1 << 40), max_size=3).map(tuple),
    seed=st.none() | st.integers(0, (1 << 64) - 1),
    ignore_eos=st.booleans(),
    logprobs=st.none() | st.integers(0, 20),
    n=st.integers(1, 8),
    speculate=st.booleans(),
)


@given(params)
def test_params_come_back_from_json_exactly(wish: SamplingParams) -> None:
    assert SamplingParams.from_json(wish.to_json()) == wish
    assert hash(SamplingParams.from_dict(wish.to_dict())) == hash(wish)


def test_loose_spellings_become_one_form() -> None:
    wish = SamplingParams(temperature=0, top_k=-1, stop="end", stop_token_ids=[2, 3])  # type: ignore[arg-type]
    assert (wish.top_k, wish.stop, wish.stop_token_ids) == (0, ("end",), (2, 3))
    assert isinstance(wish.temperature, float)
    assert wish.is_greedy
    assert SamplingParams(stop=None) == SamplingParams()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [lambda values: SamplingParams(**values), SamplingParams.from_dict, lambda values: replace(FEW, **values)],
    ids=["constructor", "from_dict", "replace"],
)
def test_a_misspelt_parameter_names_the_near_miss(make: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(UnknownName, match="did you mean 'temperature'"):
        make({"temprature": 1})


def test_params_are_copied_pickled_and_shown_as_the_dataclass_that_they_are() -> None:
    assert pickle.loads(pickle.dumps(FEW)) == copy.deepcopy(FEW) == FEW
    assert replace(FEW, n=2) == SamplingParams(0.0, max_tokens=3, n=2)
    assert list(inspect.signature(SamplingParams).parameters) == [field.name for field in fields(SamplingParams)]


def test_every_field_is_documented() -> None:
    for field in fields(SamplingParams):
        assert f"{field.name}: " in (SamplingParams.__doc__ or "")
