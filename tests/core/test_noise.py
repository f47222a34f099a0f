from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsespec.core import seeds
from sparsespec.core.noise import (
    ACCEPT,
    DRAW,
    NOISE_HIGH,
    NOISE_LOW,
    RESIDUAL,
    Key,
    block_bits,
    from_bits,
    gumbel,
    pack_tag,
    philox,
)

WORDS = st.integers(0, 2**32 - 1)
EXTREME = torch.tensor([0, 1, 2**23, 2**24 - 1, 2**31, 2**32 - 2**8, 2**32 - 2**7, 2**32 - 2, 2**32 - 1])


@settings(max_examples=100)
@given(st.tuples(WORDS, WORDS), st.tuples(WORDS, WORDS, WORDS, WORDS))
def test_tensor_philox_equals_plain_philox(key: tuple, counter: tuple) -> None:
    def tensors(words: tuple) -> tuple:
        return tuple(torch.tensor([word]) for word in words)

    assert tuple(int(word) for word in philox(tensors(key), tensors(counter))) == seeds.philox(key, counter)


def noise_of(seed: int, sample_index: int, position: int, tag: int, tokens: torch.Tensor | int) -> torch.Tensor:
    key = [torch.tensor([part]) for part in (seed, sample_index, position, tag)]
    return gumbel(*key, tokens, torch.float32)


@pytest.mark.parametrize("seed", [0, 5, 2**40 + 3, 2**63 - 1, -1, -(2**63)])
def test_layout_of_key_and_counter(seed: int) -> None:
    key = (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)
    words = [seeds.philox(key, (token // 4, 11, 2, 9))[token % 4] for token in range(10)]
    expected = from_bits(torch.tensor(words), torch.float32)
    assert torch.equal(noise_of(seed, 2, 11, 9, 10)[0], expected)
    some = torch.tensor([[7, 0, 3, 3]])
    assert torch.equal(noise_of(seed, 2, 11, 9, some), expected[some])
    assert torch.equal(noise_of(seed, 2, 11, 9, some[0]), expected[some])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_bits_give_finite_noise_in_bounds(dtype: torch.dtype) -> None:
    noise = from_bits(EXTREME, dtype)
    assert noise.isfinite().all()
    assert (noise >= NOISE_LOW).all() and (noise <= NOISE_HIGH).all()
    assert noise[0] > 22.87 and noise[-1] < -2.81
    assert (noise.diff() <= 0).all(), "more bits, more u, more E, less noise"


def test_float32_noise_is_float64_noise_rounded() -> None:
    bits = block_bits(Key(*(torch.tensor(part) for part in (3, 0, 1, 0))), torch.arange(20_000)).flatten()
    single, double = from_bits(bits, torch.float32), from_bits(bits, torch.float64)
    # Near 1, u has no more bits in float32: there, and only there, noise is coarse (and never the best).
    fine = bits < 0.99 * 2**32
    torch.testing.assert_close(single[fine].double(), double[fine], rtol=0, atol=2e-6)
    torch.testing.assert_close(single[~fine].double(), double[~fine], rtol=0, atol=1e-3)


def test_noise_of_a_token_does_not_depend_on_how_many_are_computed() -> None:
    everything = noise_of(1, 0, 4, 0, 1003)[0]
    for n in (1, 2, 3, 5, 17, 500):
        assert torch.equal(noise_of(1, 0, 4, 0, n)[0], everything[:n])
    strided = torch.arange(1003).repeat_interleave(2)[::2]
    assert torch.equal(noise_of(1, 0, 4, 0, strided)[0], everything)


def test_every_field_of_the_key_matters() -> None:
    base = (1, 0, 4, 16)
    keys = [base, (2, 0, 4, 16), (1 + 2**32, 0, 4, 16), (1, 1, 4, 16), (1, 0, 5, 16), (1, 0, 4, 17)]
    rows = [tuple(noise_of(*key, 8)[0].tolist()) for key in keys]
    assert len(set(rows)) == len(keys)


def test_tags_never_collide_and_are_never_the_shared_tag() -> None:
    cs = torch.tensor([0, 1, 2, 15, 16, 17, 2**27, 2**28 - 1])
    tags = [pack_tag(cs, level, purpose) for level in (0, 1) for purpose in (DRAW, ACCEPT, RESIDUAL)]
    values = torch.cat(tags).tolist()
    assert len(set(values)) == len(values)
    assert all(0 < value < 2**32 and value != seeds.SEED_TAG for value in values)
    levels = torch.tensor([0, 1])
    assert pack_tag(cs[:2], levels, DRAW).tolist() == [pack_tag(c, n, DRAW) for c, n in ((0, 0), (1, 1))]
