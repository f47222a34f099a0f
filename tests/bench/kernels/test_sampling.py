"""The cases of sampling, on a CPU and small: their checks are green, and see what is off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bench import flashinfer_peer, kernel_cases_sample
from bench.kernel_cases import Ready
from bench.kernel_cases_sample import Best, Chain, Draw, Filters, Law, Sure, are_draws, astray, keys
from bench.kernel_table import QWEN3_8B
from sparsespec.core.batch import VerifyOutput
from sparsespec.core.noise import gumbel
from sparsespec.kernels.sample.api import sample

NUCLEUS = Filters(0.65, 20, 0.95)
KINDS = [Filters(), NUCLEUS]
SMALL: dict[str, int] = {"rows": 40, "vocab": 203}


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cases_sample, "DEVICE", "cpu")
    monkeypatch.setattr(kernel_cases_sample, "buffers_for", lambda n_bytes: 2)
    monkeypatch.setattr(flashinfer_peer, "MODULE", "no_such_module")


def swapped(monkeypatch: pytest.MonkeyPatch, op: str, result: Any) -> None:
    """Let `op` return `result(of what it returns)` where a case calls it as an implementation."""
    right = getattr(kernel_cases_sample, op)

    def call(*args: Any, impl: str = "", **how: Any) -> Any:
        got = right(*args, **how)
        return result(got) if impl else got

    monkeypatch.setattr(kernel_cases_sample, op, call)


@pytest.mark.parametrize("filters", KINDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_draw_is_green_and_another_token_is_seen(
    dtype: torch.dtype, filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Draw(dtype, filters, **SMALL)
    ready = case(QWEN3_8B)
    assert (ready.check(), len(ready.calls)) == ("", 2)
    assert ready.bytes == 40 * 203 * dtype.itemsize
    swapped(monkeypatch, "sample", lambda tokens: (tokens + 1) % 203)
    assert case(QWEN3_8B).check().endswith("below the reference's")


def test_the_other_of_two_tokens_with_equal_scores_is_as_good() -> None:
    columns, key = Filters().columns(3), keys(3)
    logits = torch.full((3, 50), -100.0)
    logits[:, [7, 30]] = 20 - gumbel(*key, 50, torch.float32)[:, [7, 30]]
    for got, wrong in ((7, False), (30, False), (8, True)):
        assert bool(astray(torch.full((3,), got), logits, columns, key)) == wrong
    logits[:, 7] += 1e-4
    assert astray(torch.full((3,), 30), logits, columns, key) != ""


def test_a_top_probability_is_green_and_one_that_is_off_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Sure(torch.bfloat16, **SMALL)
    assert case(QWEN3_8B).check() == ""
    swapped(monkeypatch, "top_probability", lambda odds: 1.001 * odds)
    assert case(QWEN3_8B).check().startswith("it errs by")


@pytest.mark.parametrize("filters", KINDS, ids=str)
def test_a_law_is_green_and_another_is_seen(filters: Filters, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Law(torch.bfloat16, filters, **SMALL)
    assert case(QWEN3_8B).check() == ""
    spoilt = {
        "it errs by": lambda odds: 1.001 * odds,
        "other tokens": lambda odds: odds.masked_fill(odds == odds.amax(), 0),
    }
    for sentence, spoil in spoilt.items():
        with monkeypatch.context() as patch:
            swapped(patch, "law", spoil)
            assert case(QWEN3_8B).check().startswith(sentence)


def test_log_probabilities_are_green_and_others_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Best(torch.bfloat16, 5, **SMALL)
    assert case(QWEN3_8B).check() == ""
    spoilt = {"ids": "tokens differ", "values": "it errs by", "chosen_value": "it errs by"}
    for field, sentence in spoilt.items():
        with monkeypatch.context() as patch:
            swapped(patch, "logprobs", lambda got, field=field: got._replace(**{field: getattr(got, field) + 1}))
            assert case(QWEN3_8B).check().startswith(sentence)


def verify(filters: Filters) -> Ready:
    return Chain(torch.bfloat16, filters, rows=5, drafts=3, vocab=203)(QWEN3_8B)


@pytest.mark.parametrize("filters", KINDS, ids=str)
def test_a_chain_is_green_accepts_what_it_was_given_and_has_its_draws_beside_it(filters: Filters) -> None:
    ready = verify(filters)
    assert ready.check() == ""
    verified: VerifyOutput = ready.calls[0]()
    assert verified.accepted.tolist() == [0, 1, 2, 3, 0]
    (draws,) = ready.peers.values()
    tokens: Tensor = draws()[0]()
    assert tokens.shape == (20,)
    assert (ready.agrees(tokens), ready.agrees(tokens + 1)) == (True, False)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x._replace(tokens=x.tokens + 1),
        lambda x: x._replace(emitted=x.accepted),
        lambda x: x._replace(accepted=x.emitted),
    ],
)
def test_a_chain_that_misjudges_is_seen(spoil: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernel_cases_sample.SharedNoise.verify
    monkeypatch.setattr(kernel_cases_sample.SharedNoise, "verify", lambda *args: spoil(right(*args)))
    assert verify(NUCLEUS).check().endswith("not what was drawn")


@pytest.mark.parametrize("filters", KINDS, ids=str)
def test_another_s_draws_are_told_from_draws_of_another_law(filters: Filters) -> None:
    columns, key = filters.columns(40), keys(40)
    logits = 3 * torch.randn(40, 203, generator=torch.Generator().manual_seed(0))
    other = key._replace(seed=key.seed + 999)
    assert are_draws(sample(logits, *columns, *other), logits, columns)
    assert not are_draws(sample(logits.flip(0), *columns, *other), logits, columns)
    assert not are_draws(logits.argmin(-1), logits, columns)
