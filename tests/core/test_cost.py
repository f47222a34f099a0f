"""A cost model adds up what was measured, survives JSON, and says in a sentence what it cannot read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsespec.core import cost
from sparsespec.core.cost import CostModel
from sparsespec.core.errors import BadOption, SparseSpecError, UnknownName
from tests.core.costs import PLAIN, plain

sizes = st.floats(0, 1e9)


def test_a_forward_is_the_sum_of_its_parts() -> None:
    # layers 15, head 1.5, attention 3 + 4 / 2 + 8 * 3 / 4 + 12 / 4
    assert PLAIN.forward(15, 6, 4, 8, 12) == pytest.approx(15 + 1.5 + 3 + 2 + 6 + 3)
    assert PLAIN.forward(5, 0, 0, 0) == pytest.approx(10 + 3)
    assert PLAIN.forward(0, 0, 0, 0) == 0.0


def test_a_step_is_as_long_as_the_slowest_of_what_runs_beside() -> None:
    forward = PLAIN.forward(5, 1, 4, 0)
    assert forward == 16.0
    assert PLAIN.step(5, 1, 4, 0) == 16.0
    assert PLAIN.step(5, 1, 0, 0) == 15.0, "the host is slower than a forward of 14 seconds"
    assert PLAIN.step(5, 1, 4, 0, to_device_bytes=100) == 51.0
    assert PLAIN.step(5, 1, 4, 0, to_host_bytes=100) == 16.0, "there is nothing to copy to"


def test_without_lag_the_host_and_the_device_wait_for_each_other() -> None:
    assert PLAIN.step(5, 1, 4, 0, lag=0) == 31.0


@given(st.lists(st.tuples(sizes, sizes), min_size=7, max_size=7))
def test_more_of_anything_never_takes_less(pairs: list[tuple[float, float]]) -> None:
    low, high = ([choose(pair) for pair in pairs] for choose in (min, max))

    def step(n: list[float]) -> float:
        return PLAIN.step(*n[:4], prefill_pairs=n[4], to_device_bytes=n[5], to_host_bytes=n[6])

    assert step(low) <= step(high) * (1 + 1e-12)


@pytest.mark.parametrize("wrong", [-1, float("nan")])
@pytest.mark.parametrize("place", range(4))
def test_a_step_of_less_than_nothing_is_refused(place: int, wrong: float) -> None:
    with pytest.raises(BadOption, match="0 or more tokens, logits, bytes and pairs"):
        PLAIN.step(*[wrong if i == place else 1 for i in range(4)])
    with pytest.raises(BadOption, match="copies 0 or more bytes"):
        PLAIN.step(1, 1, 1, 1, to_device_bytes=wrong)


@pytest.mark.parametrize("model", [PLAIN, plain(to_device=None, errors={}, versions={})])
def test_it_comes_back_from_json(model: CostModel) -> None:
    assert CostModel.from_json(model.to_json()) == model
    assert CostModel.from_dict(json.loads(json.dumps(model.to_dict()))) == model
    assert len(model.to_json().splitlines()) == 2 + len(model.to_dict())


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cost, "FOLDER", tmp_path / "costs")
    return tmp_path / "costs"


def test_a_shipped_model_is_loaded_by_name(shelf: Path) -> None:
    assert cost.names() == []
    shelf.mkdir()
    for name in ("b-model", "a-model"):
        (shelf / f"{name}.json").write_text(plain(name=name).to_json(), "utf-8")
    assert cost.names() == ["a-model", "b-model"]
    assert CostModel.load("a-model").name == "a-model"
    with pytest.raises(UnknownName, match="unknown cost model 'a-mode'; did you mean 'a-model'"):
        CostModel.load("a-mode")


def test_a_file_is_loaded_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(PLAIN.to_json(), "utf-8")
    assert CostModel.load(path) == CostModel.load(str(path)) == PLAIN
    with pytest.raises(BadOption, match="cannot be read"):
        CostModel.load(tmp_path / "absent.json")


def test_every_shipped_model_can_be_read() -> None:
    for name in cost.names():
        model = CostModel.load(name)
        assert model.step(64, 64, 1e9, 1e8) > 0
        assert model.roofline.dense(64, 4096) > 0
        assert CostModel.from_json(model.to_json()) == model


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a field it has not": ({"spead": 1}, "unknown field of a cost model 'spead'"),
    "no text": ({"name": 3}, "name of a cost model must be text"),
    "no number": ({"host_seconds": "x"}, "host_seconds of a cost model must be a number"),
    "a negative number": ({"weight_bytes": -1}, "must be a number, 0 or more"),
    "true": ({"weight_bytes": True}, "must be a number, 0 or more"),
    "no pairs": ({"layers": [1, 2]}, "layers of a cost model must be a list of pairs"),
    "falling sizes": ({"head": [[2, 1], [1, 1]]}, "rising sizes"),
    "no object": ({"attention": 3}, "attention of a cost model must be an object"),
    "half an object": ({"to_device": {"seconds": 1}}, "must have seconds, seconds_per_byte"),
    "no errors": ({"errors": {"layers": {}}}, "layers of errors of a cost model must have largest, median, n"),
    "no geometry": ({"geometry": []}, "geometry of a cost model must be an object"),
}


@pytest.mark.parametrize(("changes", "words"), WRONG.values(), ids=WRONG)
def test_what_is_no_cost_model_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SparseSpecError, match=words) as caught:
        CostModel.from_dict(PLAIN.to_dict() | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "nothing"])
def test_text_that_is_no_object_is_one_sentence(text: str) -> None:
    with pytest.raises(BadOption, match="a cost model must be a JSON object"):
        CostModel.from_json(text)


def test_a_field_that_is_absent_is_named() -> None:
    values = PLAIN.to_dict()
    del values["head"]
    with pytest.raises(BadOption, match="a cost model needs 'head'"):
        CostModel.from_dict(values)
