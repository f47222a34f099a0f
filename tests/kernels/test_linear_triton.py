"""The Triton `linear`: the same bits for a row whatever goes with it, by all tiles and at all addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsespec.kernels.linear import api
from sparsespec.testing.ops.rows import HEAD, QWEN3_8B
from tests.kernels.launched import DEVICE, WHERE, mutant, poisoned
from tests.kernels.linear_calls import SETTINGS, alone_as_among, exact_in_steps, ours, product_of, right, tiling

pytestmark = WHERE


@pytest.mark.parametrize("tiles", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_all_tiles_give_the_same_bits(tiles: Any, dtype: torch.dtype) -> None:
    with poisoned():
        for m, n, k in ((1, 40, 300), (70, 130, 257)):
            p = exact_in_steps(m, m, n, k, dtype)
            assert torch.equal(ours.product(*p, tiles), ours.product(*p, SETTINGS[0]))
            assert right(p, tiles)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    m=st.integers(1, 300),
    k=st.sampled_from((64, 200, 300, 513)),
    data=st.data(),
)
def test_a_row_gets_the_same_bits_in_any_company(seed: int, m: int, k: int, data: st.DataObject) -> None:
    p = exact_in_steps(seed, m, 24, k, torch.float32)
    first = data.draw(st.integers(0, m - 1))
    rows = [(first, first + 1), (first, data.draw(st.integers(first + 1, m)))]
    assert alone_as_among(p, rows)


def test_a_lone_sum_is_exact_where_its_numbers_are_whole() -> None:
    for k in (64, 200, 256):
        x, weight = (torch.randint(-3, 4, (1, k), device=DEVICE).float() for _ in range(2))
        assert torch.equal(api.linear(x, weight, impl="triton"), (x * weight).sum(1, keepdim=True))


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    x, weight, bias = product_of(0, 70, 24, 200, torch.float32, bias=True)
    want = api.linear(x, weight, bias, impl="triton")
    x[1] = torch.nan
    got = api.linear(x, weight, bias, impl="triton")
    assert got[1].isnan().all()
    assert torch.equal(got[2:], want[2:]) and torch.equal(got[0], want[0])


def test_addresses_that_the_copy_engine_does_not_take_give_the_same_bits() -> None:
    x, weight, bias = exact_in_steps(0, 5, 24, 200, torch.float16)
    want = api.linear(x, weight, bias, impl="triton")
    for apart, shift in ((3, 0), (8, 1), (0, 4)):
        room = torch.full((5, 200 + apart + shift), torch.nan, device=DEVICE, dtype=torch.float16)
        moved = room.view(-1)[shift:][: 5 * (200 + apart)].view(5, -1)[:, :200]
        moved.copy_(x)
        assert not ours._can_be_described(moved)
        assert torch.equal(api.linear(moved, weight, bias, impl="triton"), want)


def test_tiles_fit_a_multiprocessor() -> None:
    for n in (1, 576, 49152, *(n for n, _ in QWEN3_8B.values()), HEAD[0]):
        for m in (1, 16, 64, 65, 128, 129, 256, 1000, 4096):
            for itemsize in (2, 4):
                tiles = tiling.tiles_for(m, n, itemsize)
                stage = (tiles.height + tiles.width) * tiling.BLOCK_K[itemsize] * itemsize
                assert tiles.stages * stage <= 200 * 1024
                # numbers of a thread's part of the tile
                assert tiles.height * tiles.width // (32 * tiles.warps) <= 128


STEP = "row, column, at, m, n, k, x_row, weight_row, BLOCK_M"
ORDERS = {
    "backwards in tall tiles": (STEP, STEP.replace("at", "at if BLOCK_M < 128 else k - BLOCK_K - at", 1)),
    "from the middle in tall tiles": (STEP, STEP.replace("at", "at if BLOCK_M < 128 else (at + k // 2) % k", 1)),
}


@pytest.mark.parametrize("name", [None, *ORDERS])
def test_an_order_that_follows_the_tile_is_caught(name: str | None, tmp_path: Path) -> None:
    module = mutant(ours, tmp_path, ORDERS[name]) if name else ours
    same = True
    for seed in range(2):
        p = exact_in_steps(seed, 130, 24, 512, torch.float32)
        whole = module.product(*p, SETTINGS[4])
        for tiles in SETTINGS[:3]:
            for first, end in ((0, 1), (60, 124)):
                part = module.product(p[0][first:end], *p[1:], tiles)
                same &= torch.equal(part, whole[first:end])
    assert same == (name is None)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "k"), [*QWEN3_8B.values(), (960, 576), (576, 1536)])
def test_a_real_row_gets_the_same_bits_in_any_company(n: int, k: int, dtype: torch.dtype) -> None:
    x, weight, bias = product_of(0, 4096, n, k, dtype, bias=True)
    whole = api.linear(x, weight, bias, impl="triton")
    for m in (1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200, 256, 257, 512, 700, 1024, 1025, 2048, 3000):
        for first in (0, 5, 4096 - m):
            part = api.linear(x[first : first + m], weight, bias, impl="triton")
            assert torch.equal(part, whole[first : first + m]), f"{m} rows from row {first}"


@pytest.mark.gpu
def test_real_rows_get_the_same_bits_in_every_number() -> None:
    x, weight, bias = product_of(1, 4096, 4096, 4096, torch.bfloat16, bias=True)
    whole = api.linear(x, weight, bias, impl="triton")
    for m in range(1, 4097):
        assert torch.equal(api.linear(x[:m], weight, bias, impl="triton"), whole[:m]), f"{m} rows"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_real_tiles_give_the_same_bits(dtype: torch.dtype) -> None:
    for n, k in ((4096, 4096), (4096, 12288), (24576, 4096)):
        p = product_of(2, 300, n, k, dtype)
        whole = ours.product(*p, SETTINGS[0])
        for tiles in (*SETTINGS[1:], *(tiling.tiles_for(m, n, 2) for m in (1, 100, 300, 2048))):
            assert torch.equal(ours.product(*p, tiles), whole), str(tiles)


@pytest.mark.gpu
def test_real_addresses_that_the_copy_engine_does_not_take_give_the_same_bits() -> None:
    for m in (7, 200, 2048):
        x, weight, _ = product_of(3, m, 4096, 4096, torch.bfloat16)
        want = api.linear(x, weight, impl="triton")
        for apart in (1, 3, 8):
            far = torch.cat((x, x[:, :apart]), 1)[:, :4096]
            assert torch.equal(api.linear(far, weight, impl="triton"), want)
