from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsespec.core.errors import ContractBroken, UnknownName
from sparsespec.core.noise import gumbel
from sparsespec.kernels.sample import reference
from sparsespec.kernels.sample.api import logprobs, probs, process, sample, top_probability

FILTERS = st.tuples(
    st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    st.sampled_from([0, 1, 2, 3, 50]),
    st.sampled_from([0.0, 1e-9, 0.25, 0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
# Quarters of few values make ties common.
ROW = st.lists(st.integers(-8, 8).map(lambda n: n / 4), min_size=1, max_size=9)


def columns(*filters: tuple) -> list[torch.Tensor]:
    temperature, top_k, top_p, min_p = zip(*filters, strict=True)
    real = [torch.tensor(part, dtype=torch.float64) for part in (temperature, top_p, min_p)]
    return [real[0], torch.tensor(top_k), real[1], real[2]]


def keys(n: int, position: int = 5) -> list[torch.Tensor]:
    zero = torch.zeros(n, dtype=torch.int64)
    return [torch.arange(n), zero, zero + position, zero]


def obvious(logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float) -> list[float]:
    """The processors in plain Python, one list at a time."""
    best = max(logits)
    if temperature == 0:
        return [0.0 if i == logits.index(best) else -math.inf for i in range(len(logits))]
    x = [(value - best) / temperature for value in logits]
    if 0 < top_k < len(x):
        kth = sorted(x, reverse=True)[top_k - 1]
        x = [value if value >= kth else -math.inf for value in x]
    if top_p < 1:
        order = sorted(range(len(x)), key=lambda i: (-x[i], i))
        need, mass, kept = top_p * sum(math.exp(value) for value in x), 0.0, set()
        for i in order:
            if kept and mass >= need:
                break
            kept.add(i)
            mass += math.exp(x[i])
        x = [value if i in kept else -math.inf for i, value in enumerate(x)]
    return [value if math.exp(value) >= min_p else -math.inf for value in x]


@settings(max_examples=200)
@given(ROW, FILTERS)
def test_processors_equal_the_obvious_ones(row: list[float], filters: tuple) -> None:
    got = process(torch.tensor([row], dtype=torch.float64), *columns(filters))
    expected = torch.tensor([obvious(row, *filters)], dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=100)
@given(ROW, FILTERS, st.integers(0, 1000))
def test_sample_is_the_argmax_of_processed_logits_and_noise(row: list[float], filters: tuple, at: int) -> None:
    logits = torch.tensor([row])
    token = sample(logits, *columns(filters), *keys(1, at))
    processed = process(logits, *columns(filters))
    noise = gumbel(*keys(1, at), len(row), torch.float32) if filters[0] else 0
    assert token.item() == int((processed + noise).argmax())


@pytest.mark.parametrize("vocab", [20_011, 40_000])
@pytest.mark.parametrize("spread", [0.5, 4.0, 40.0])
def test_tokens_that_are_passed_over_could_not_have_won(vocab: int, spread: float) -> None:
    logits = torch.randn(3, vocab, generator=torch.Generator().manual_seed(vocab)) * spread
    filters = columns((0.8, 0, 1.0, 0.0), (1.0, 0, 1.0, 0.0), (0.8, 0, 0.95, 0.0))
    for position in range(5):
        noise = gumbel(*keys(3, position), vocab, torch.float32)
        expected = (process(logits, *filters) + noise).argmax(-1)
        assert torch.equal(sample(logits, *filters, *keys(3, position)), expected)


@pytest.mark.parametrize("vocab", [6, 1001])
def test_a_long_nucleus_equals_a_full_sort(vocab: int) -> None:
    # The nucleus is looked for among the best 256 first, then among eight times as many.
    row = torch.randn(vocab, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.5
    for top_p in (0.01, 0.5, 0.9, 0.999):
        got = process(row[None], *columns((1.0, 0, top_p, 0.0)))[0].isfinite()
        assert got.tolist() == [math.isfinite(value) for value in obvious(row.tolist(), 1.0, 0, top_p, 0.0)]


def test_equal_tokens_are_kept_from_the_lowest_id_up() -> None:
    flat = torch.zeros(1, 8, dtype=torch.float64)
    assert process(flat, *columns((1.0, 0, 0.4, 0.0)))[0].isfinite().nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    assert process(flat, *columns((1.0, 3, 1.0, 0.0)))[0].isfinite().all()
    assert sample(flat, *columns((0.0, 0, 1.0, 0.0)), *keys(1)).item() == 0
    with mock.patch.object(reference, "block_bits", lambda key, block: torch.full((*block.shape, 4), 7)):
        assert sample(flat, *columns((1.0, 0, 1.0, 0.0)), *keys(1)).item() == 0
        assert sample(flat[:, :3], *columns((1.0, 0, 1.0, 0.0)), *keys(1)).item() == 0


@pytest.mark.parametrize("bits", [0, 2**32 - 1])
@pytest.mark.parametrize("survivor", [0, 5, 10])
def test_a_masked_token_is_never_emitted(bits: int, survivor: int) -> None:
    logits = torch.full((1, 11), 3.0)
    logits[0, survivor] = 3.5

    def worst(key: object, block: torch.Tensor) -> torch.Tensor:
        # The survivor gets the noise under test, all others the best there is.
        ids = block[..., None] * 4 + torch.arange(4)
        return torch.where(ids == survivor, bits, 0)

    with mock.patch.object(reference, "block_bits", worst):
        for filters in ((1.0, 1, 1.0, 0.0), (1.0, 0, 0.01, 0.0), (1.0, 0, 1.0, 0.9)):
            assert sample(logits, *columns(filters), *keys(1)).item() == survivor


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_row_does_not_see_its_neighbours(dtype: torch.dtype) -> None:
    logits = (torch.randn(24, 5_003, generator=torch.Generator().manual_seed(1)) * 3).to(dtype)
    kinds = [(0.0, 0, 1.0, 0.0), (0.7, 0, 1.0, 0.0), (1.0, 40, 0.9, 0.0), (1.3, 0, 0.95, 0.02)]
    filters, key = columns(*(kinds * 6)), keys(24)
    processed, tokens, odds = process(logits, *filters), sample(logits, *filters, *key), probs(logits, *filters)
    for rows in (torch.tensor([5]), torch.tensor([23, 2, 9]), torch.arange(24).flip(0)):
        mine = [part[rows] for part in filters]
        assert torch.equal(process(logits[rows], *mine), processed[rows])
        assert torch.equal(probs(logits[rows], *mine), odds[rows])
        assert torch.equal(sample(logits[rows], *mine, *(part[rows] for part in key)), tokens[rows])


def test_half_types_are_computed_in_float32() -> None:
    logits = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.bfloat16)
    processed = process(logits, *columns((0.7, 0, 1.0, 0.0)))
    assert processed.dtype == torch.float32
    assert torch.equal(processed, process(logits.float(), *columns((0.7, 0, 1.0, 0.0))))


def test_a_tiny_temperature_is_greedy_not_nan() -> None:
    logits = torch.tensor([[1.0, 9.0, 8.999]])
    for temperature in (1e-30, 1e-44, 1e-300):
        filters = columns((temperature, 0, 0.9, 0.1))
        assert sample(logits, *filters, *keys(1)).item() == 1
        assert not process(logits, *filters).isnan().any()


def test_logprobs_are_the_models_own_best_first() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0], [3.0, 0.0, 0.0, 0.0]])
    own = logits.double().log_softmax(-1)
    got = logprobs(logits, torch.tensor([2, 0]), 3)
    assert got.ids.tolist() == [[1, 3, 2], [0, 1, 2]]
    torch.testing.assert_close(got.values.double(), own.gather(1, got.ids))
    torch.testing.assert_close(got.chosen_value.double(), own[[0, 1], [2, 0]])
    assert got.values.dtype == torch.float32
    assert logprobs(logits, torch.tensor([2, 0]), 0).ids.shape == (2, 0)
    assert logprobs(logits[:0], torch.tensor([]).long(), 2).values.shape == (0, 2)
    torch.testing.assert_close(top_probability(logits).double(), own.exp().amax(-1))


def test_probabilities_of_long_flat_rows_sum_to_one() -> None:
    logits = 1e-5 * torch.randn(1, 151_936, generator=torch.Generator().manual_seed(3))
    own = logits.double().softmax(-1)
    odds = probs(logits, *columns((1.0, 0, 1.0, 0.0)))
    assert abs(odds.double().sum().item() - 1) < 1e-7
    torch.testing.assert_close(odds.double(), own, rtol=2e-7, atol=0)
    torch.testing.assert_close(top_probability(logits).double(), own.amax(-1), rtol=2e-7, atol=0)
    got = logprobs(logits, torch.tensor([7]), 0)
    torch.testing.assert_close(got.chosen_value.double(), own[:, 7].log(), rtol=2e-7, atol=0)


def test_no_rows_are_no_problem() -> None:
    none, filters = torch.zeros(0, 5), [column[:0] for column in columns((1.0, 0, 1.0, 0.0))]
    assert process(none, *filters).shape == (0, 5)
    assert sample(none, *filters, *keys(0)).shape == (0,)


def test_errors_say_what_would_have_worked() -> None:
    logits, filters = torch.zeros(2, 3), columns((1.0, 0, 1.0, 0.0), (0.0, 0, 1.0, 0.0))
    with pytest.raises(UnknownName, match="unknown implementation of sample 'refernce'; did you mean 'reference'"):
        sample(logits, *filters, *keys(2), impl="refernce")
    with pytest.raises(UnknownName, match="implementation of sample's process 'triton'; have: reference"):
        process(logits, *filters, impl="triton")
    with pytest.raises(ContractBroken, match=r"seed must be \[2\]"):
        sample(logits, *filters, *keys(1))
    with pytest.raises(ContractBroken, match="n in 0"):
        logprobs(logits, torch.zeros(2).long(), 4)
    for bad in (math.nan, math.inf):
        with pytest.raises(ContractBroken, match="without NaN"):
            sample(logits.index_fill(1, torch.tensor([1]), bad), *filters, *keys(2))
    with pytest.raises(ContractBroken, match="without NaN"):
        process(logits.fill_(-math.inf), *filters)
