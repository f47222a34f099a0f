"""What an engine takes of memory: it adds up, and what cannot fit is refused before it is allocated."""

from __future__ import annotations

import gc
from typing import Any
from weakref import ref

import pytest
import torch

from sparsespec.attention.reference import ReferenceAttention
from sparsespec.core.errors import BadOption, EngineClosed
from sparsespec.core.spec import PRESETS
from sparsespec.engine import ledger
from sparsespec.engine.ledger import Ledger
from sparsespec.models.tiny import tiny
from tests.engine.running import SPARSE as LISTS
from tests.engine.running import compose, greedy, prompt_of, run, small

SPARSE: dict[str, Any] = LISTS


@pytest.mark.parametrize("name", PRESETS)
def test_weights_and_kv_are_what_they_say_and_nobody_counts_twice(name: str) -> None:
    engine = compose(small(name))
    held = dict(engine.ledger.entries)
    assert held["weights"] == engine._model.n_bytes
    assert held["KV"] == engine._pool.n_bytes
    assert held["attention"] < held["weights"], "the pool and the model's tables were counted already"
    assert engine.ledger.total == sum(held.values())
    assert (held["selector"] > 0) == (name not in ("dense", "ngram")), "who chooses keeps lists"


def test_the_second_text_leaves_no_more_behind_than_the_first() -> None:
    engine = compose(**SPARSE)
    totals: list[int] = []
    for _ in range(2):
        engine.add(prompt_of(), greedy())
        run(engine)
        totals.append(engine.ledger.total)
    assert totals[0] == totals[1]


def test_more_seats_take_more() -> None:
    few, many = (dict(compose(**SPARSE, max_num_seqs=n, num_gpu_blocks=65).ledger.entries) for n in (2, 8))
    assert few["seats"] < many["seats"]
    assert few["selector"] < many["selector"]
    assert few["KV"] == many["KV"]


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float32", 4), ("float64", 8)])
def test_rejection_keeps_the_logits_of_each_draft_in_the_model_s_type(dtype: str, size: int) -> None:
    model = tiny(dtype=dtype)
    held = {
        verifier: dict(compose(model=model, **SPARSE, verifier=verifier, max_num_seqs=5).ledger.entries)
        for verifier in ("rejection", "shared-noise")
    }
    assert held["rejection"]["draft logits"] == 5 * 4 * model.config.vocab * size
    assert held["shared-noise"]["draft logits"] == 0
    assert held["rejection"]["seats"] == held["shared-noise"]["seats"]


def test_the_lines_add_up() -> None:
    x = torch.zeros(2**18)
    told = str(Ledger.of({"a": x, "views of a": [x[1:], x.view(2, -1)], "b": {"deep": (torch.zeros(2**19),)}}))
    assert told.split() == ["a", "1.0", "MiB", "b", "2.0", "MiB", "all", "3.0", "MiB"]


def test_what_cannot_fit_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "free_bytes", lambda _: 100 * 2**30)
    with pytest.raises(BadOption, match=r"take .* GiB and the KV pool .* has 100 GiB free; lower num_gpu_blocks"):
        compose(max_num_seqs=10**8)
    with pytest.raises(BadOption, match="lower num_gpu_blocks"):
        compose(num_gpu_blocks=10**9)
    monkeypatch.setattr(ledger, "free_bytes", lambda _: None)
    assert compose().ledger.total > 0


def test_a_closed_engine_has_no_ledger() -> None:
    engine = compose()
    engine.close()
    with pytest.raises(EngineClosed):
        _ = engine.ledger


def test_a_gpu_that_is_full_says_who_holds_what(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(self: Any, *_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ReferenceAttention, "bind", bind)
    with pytest.raises(BadOption, match=r"ran out of memory .* had weights .* GiB, KV .* GiB.*; lower num_gpu_blocks"):
        compose(**SPARSE)


def test_a_closed_engine_keeps_nothing_alive() -> None:
    engine = compose(**SPARSE)
    engine.add(prompt_of(), greedy())
    run(engine)
    held = [
        ref(x) for x in (engine._pool.k, engine._executor, engine._executor._state.tokens, engine._executor._runner)
    ]
    gc.disable()
    try:
        engine.close()
        assert [each() for each in held] == [None] * 4
    finally:
        gc.enable()
