"""What is asked about a law without drawing, held against the reference as `test_draw_triton` holds drawing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsespec.kernels.sample import api, reference
from tests.kernels.launched import DEVICE, WHERE, launched, mutant, poisoned
from tests.kernels.sample_calls import (
    KINDS,
    OFF,
    SHIPPED,
    SMALL,
    Filters,
    columns,
    probs,
    logits_of,
    resize,
    small_sizes,
)

pytestmark = WHERE

TINY = 1e-37
"""Probabilities below are as good as none."""


@pytest.fixture(autouse=True)
def _few_blocks() -> Iterator[None]:
    with small_sizes():
        yield


@pytest.mark.parametrize("vocab", [1, 45, 63])
def test_top_probability_is_the_reference_s(vocab: int) -> None:
    logits = logits_of("numbers", 3, vocab, 5)
    with launched(probs, "_invert", api):
        got = api.top_probability(logits.to(DEVICE), impl="triton")
    torch.testing.assert_close(got.cpu(), logits.softmax(-1).amax(-1), rtol=2e-6, atol=0)


@pytest.mark.parametrize("vocab", [1, 45, 63])
def test_confidence_is_the_reference_s(vocab: int) -> None:
    logits = logits_of("numbers", 9, vocab, 5)
    # a span without any law, and rows that nobody asks about
    logits[3, : vocab // 2] = -torch.inf
    asked = ([7, 0, 3, 900, -4, 5], [2, 4, 1, 0, 1, 0], [1, 5, 0, 1, 0, 1])
    first, emitted, wanted = (torch.tensor(x) for x in asked)
    with launched(probs, "_invert", api):
        got = api.confidence(*(x.to(DEVICE) for x in (logits, first, emitted, wanted)), impl="triton").cpu()
    want = reference.confidence(logits, first, emitted, wanted)
    torch.testing.assert_close(got, want, rtol=2e-6, atol=0, equal_nan=True)
    assert got.isnan().tolist() == [False, False, True, True, True, True]
    odds = probs.top_probability(logits.to(DEVICE)).cpu()
    assert torch.equal(got[:2], odds[[8, 3]])


def judged(logits: Tensor, n: int, module: Any = probs) -> bool:
    """Say whether log-probabilities are the reference's, as closely as they may be, and their tokens to the id."""
    chosen = torch.arange(len(logits)) * 7 % logits.shape[1]
    want = reference.logprobs(logits, chosen, n)
    with poisoned():
        got = [x.cpu() for x in module.logprobs(logits.to(DEVICE), chosen.to(DEVICE), n)]
    close = all(torch.allclose(x, y, rtol=2e-6, atol=1e-5) for x, y in zip(got[1:], want[1:], strict=True))
    return close and torch.equal(got[0], want[0])


@settings(max_examples=20 if DEVICE == "cpu" else 60)
@given(
    kind=st.sampled_from(("numbers", "ties", "flat", "peak")),
    vocab=st.sampled_from((1, 2, 7, 45, 63)),
    n=st.sampled_from((0, 1, 5, 63)),
    seed=st.integers(0, 1000),
)
def test_logprobs_are_the_reference_s(kind: str, vocab: int, n: int, seed: int) -> None:
    # with seeds that are odd some tokens have none: these come last, by id
    assert judged(logits_of(kind, 3, vocab, seed), min(n, vocab))


def test_logprobs_of_nearly_equal_logits_go_by_the_logit() -> None:
    logits = torch.full((2, 45), 3.0)
    logits[:, 30] = 3.0000002
    logits[1, 30], logits[1, 40] = -0.0, 0.0
    logits[1, :30], logits[1, 31:40], logits[1, 41:] = -5, -5, -5
    assert judged(logits, 4)
    with launched(probs, "_logprobs", api):
        got = api.logprobs(logits.to(DEVICE), torch.tensor([0, 0], device=DEVICE), 3, impl="triton")
    assert got.ids.tolist() == [[30, 0, 1], [30, 40, 0]]


TAKERS = {
    "the last of equal groups": (
        "tl.min(tl.where(left == most, group, _NO_TOKEN), 0)",
        "tl.max(tl.where(left == most, group, -1), 0)",
    ),
    "the last of equal tokens": (
        "tl.min(tl.where((rank == most) & (gone == 0), at, _NO_TOKEN), 0)",
        "tl.max(tl.where((rank == most) & (gone == 0), at, -1), 0)",
    ),
    "equal ones once only": ("((rank == most) & (at > token))", "(at < 0)"),
    "equal ones again": ("(most == last_rank) & (at <= last)", "(at < 0)"),
    "one span's weight": ("tl.sum(weight * tl.exp(best - peak), 0)", "tl.max(weight * tl.exp(best - peak), 0)"),
    "chosen by the row": ("tl.load(chosens + row)", "row"),
}


@pytest.mark.parametrize("name", TAKERS)
def test_mutants_of_logprobs_run_and_are_caught(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = mutant(probs, tmp_path, TAKERS[name])
    resize(monkeypatch, SMALL, module)
    assert not all(judged(logits_of(kind, 3, 45, 2), 20, module) for kind in ("numbers", "ties", "flat")), name


def lawful(logits: Tensor, filters: list[Tensor], module: Any = probs) -> bool:
    """Say whether probabilities are the reference's, as closely as they may be, and the same tokens have none."""
    want = reference.probs(logits.float(), *filters)
    with poisoned():
        got = module.probs(logits.to(DEVICE), *(x.to(DEVICE) for x in filters)).cpu()
    # a fast exponential of -x errs by some x ulp, and gives 0 for what is no normal number
    return torch.equal(got > TINY, want > TINY) and torch.allclose(got, want, rtol=2e-5, atol=TINY)


@settings(max_examples=20 if DEVICE == "cpu" else 60)
@given(
    dtype=st.sampled_from((torch.float32, torch.float16)),
    kind=st.sampled_from(("numbers", "ties", "flat", "peak")),
    filters=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    vocab=st.sampled_from((1, 2, 7, 45, 63)),
    seed=st.integers(0, 1000),
)
def test_laws_are_the_reference_s(dtype: torch.dtype, kind: str, filters: list[Filters], vocab: int, seed: int) -> None:
    assert lawful(logits_of(kind, len(filters), vocab, seed).to(dtype), columns(*filters))


def test_a_law_can_be_had_again_among_other_rows() -> None:
    filters = columns(*KINDS)
    logits = logits_of("numbers", len(KINDS), 45, 3)
    with launched(probs, "_law", api):
        together = api.probs(logits.to(DEVICE), *(x.to(DEVICE) for x in filters), impl="triton").cpu()
    for some in (torch.tensor([3]), torch.tensor([7, 1, 3])):
        again = api.probs(logits[some].to(DEVICE), *(x[some].to(DEVICE) for x in filters), impl="triton").cpu()
        assert torch.equal(again, together[some])


def test_rows_without_a_law_have_none_and_no_rows_are_no_problem() -> None:
    logits = torch.zeros(4, 40)
    logits[0, 7], logits[1, 8], logits[2] = torch.nan, torch.inf, -torch.inf
    filters = [x.to(DEVICE) for x in columns(OFF, (0.0, 0, 1.0, 0.0), (1.0, 3, 0.9, 0.1), OFF)]
    got = api.probs(logits.to(DEVICE), *filters, impl="triton").cpu()
    assert got.isnan().all(1).tolist() == [True, True, True, False]
    assert torch.equal(got[3], torch.full((40,), 1 / 40))
    assert api.probs(logits[:0].to(DEVICE), *(x[:0] for x in filters), impl="triton").shape == (0, 40)


LAWLESS = {
    "what is kept at the cut": ("((key == cut) & (at <= last))", "(at < 0)"),
    "other ties": ("(at <= last)", "(at > last)"),
    "masked ones": ("tl.where(kept, tl.exp", "tl.where(x == x, tl.exp"),
    "one span's mass": ("total = tl.sum(tl.load(masses", "total = tl.max(tl.load(masses"),
    "the highest of equal ones": ("least = tl.min(tl.load(leasts", "least = tl.max(tl.load(leasts"),
}


@pytest.mark.parametrize("name", LAWLESS)
def test_mutants_of_laws_run_and_are_caught(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = mutant(probs, tmp_path, LAWLESS[name])
    resize(monkeypatch, SMALL, module)
    filters = columns((0.7, 3, 1.0, 0.0), (1.0, 0, 0.6, 0.0), (0.0, 0, 1.0, 0.0), OFF)
    assert not all(lawful(logits_of(kind, 4, 45, 2), filters, module) for kind in ("numbers", "ties", "flat")), name


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("vocab", [50_257, 151_936])
def test_laws_of_real_sizes(vocab: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    resize(monkeypatch, SHIPPED)
    filters = columns(*KINDS, (0.6, 20, 0.95, 0.0), (1.0, 400, 1.0, 0.0), (1.0, 0, 0.95, 0.0), (1.0, 0, 1.0, 0.01))
    for seed, kind in enumerate(("numbers", "ties", "flat", "peak")):
        assert lawful(logits_of(kind, len(filters[0]), vocab, seed).to(dtype), filters)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("vocab", [50_257, 151_936])
def test_logprobs_of_real_sizes(vocab: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    resize(monkeypatch, SHIPPED)
    for seed, kind in enumerate(("numbers", "ties", "flat", "peak")):
        assert judged(logits_of(kind, 40, vocab, seed).to(dtype), 20)
