"""The Triton `linear`: what the reference gives, and the same bits for a row whoever goes with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsespec.core.errors import BadOption, MissingPackage, UnknownName
from sparsespec.kernels.linear import api
from tests.kernels.launched import DEVICE, WHERE, mutant, poisoned
from tests.kernels.linear_calls import SETTINGS, alone_as_among, check, draw, exact_in_steps, ours, tiling

pytestmark = WHERE
QWEN = {"qkv": (6144, 4096), "o": (4096, 4096), "gate-up": (24576, 4096), "down": (4096, 12288), "head": (151936, 4096)}
"""Rows and columns of Qwen3-8B's weights."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    m=st.sampled_from((1, 3, 64, 65, 130)),
    n=st.sampled_from((1, 24, 70, 129)),
    k=st.sampled_from((1, 8, 64, 200, 256)),
    bias=st.booleans(),
    apart=st.sampled_from((0, 1, 8)),
)
def test_errs_no_more_than_the_reference(
    dtype: torch.dtype, seed: int, m: int, n: int, k: int, bias: bool, apart: int
) -> None:
    assert check(draw(seed, m, n, k, dtype, bias=bias, apart=apart))


@pytest.mark.parametrize("tiles", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_all_tiles_give_the_same_bits(tiles: Any, dtype: torch.dtype) -> None:
    with poisoned():
        for m, n, k in ((1, 40, 300), (70, 130, 257)):
            p = exact_in_steps(m, m, n, k, dtype)
            assert torch.equal(ours.product(*p, tiles), ours.product(*p, SETTINGS[0]))
            assert check(p, tiles=tiles)


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


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    x, weight, bias = draw(0, 70, 24, 200, torch.float32, bias=True)
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


@pytest.mark.parametrize("shape", [(0, 8, 4), (3, 0, 4), (3, 8, 0), (0, 0, 0)], ids=str)
def test_nothing_to_multiply(shape: tuple[int, int, int]) -> None:
    x, weight, bias = draw(0, *shape, torch.float32, bias=True)
    got = api.linear(x, weight, bias, impl="triton")
    assert torch.equal(got, (torch.zeros(shape[0], shape[1], device=DEVICE) + bias))


def test_tiles_fit_a_multiprocessor() -> None:
    for n in (1, 576, 49152, *(n for n, _ in QWEN.values())):
        for m in (1, 16, 64, 65, 128, 129, 256, 1000, 4096):
            for itemsize in (2, 4):
                tiles = tiling.tiles_for(m, n, itemsize)
                stage = (tiles.height + tiles.width) * tiling.BLOCK_K[itemsize] * itemsize
                assert tiles.stages * stage <= 200 * 1024
                # numbers of a thread's part of the tile
                assert tiles.height * tiles.width // (32 * tiles.warps) <= 128


WRONG = {
    "no bias": ("total += tl.load(bias + columns", "total += 0 * tl.load(bias + columns"),
    "rows of x taken for contiguous": ("rows.to(tl.int64)[:, None] * x_row", "rows.to(tl.int64)[:, None] * k"),
    "rows of the weight taken for those of x": ("[:, None] * weight_row", "[:, None] * x_row"),
    "last step left": ("tl.range(0, k, BLOCK_K)", "tl.range(0, k - BLOCK_K, BLOCK_K)"),
    "only the last step": ("total += tl.dot", "total = tl.dot"),
    "a column of tiles left": ("within // height * BLOCK_N", "0 * within"),
    "what lies behind the width": ("(rows[:, None] < m) & (i[None, :] < k)", "(rows[:, None] < m)"),
}  # fmt: skip


@pytest.mark.parametrize("name", [None, *WRONG])
def test_mutants_run_and_are_caught(name: str | None, tmp_path: Path) -> None:
    module = mutant(ours, tmp_path, WRONG[name]) if name else ours
    right = True
    with poisoned():
        for tiles in (SETTINGS[0], SETTINGS[1], SETTINGS[4]):
            right &= check(draw(1, 20, 140, 201, torch.float32, bias=True, apart=3), module, tiles)
    assert right == (name is None)


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


BAD: dict[str, tuple[int, Any, str]] = {
    "type of x": (0, lambda x: x.double(), "weight must be torch.float64"),
    "type of weight": (1, lambda x: x.half(), "weight must be torch.float32 on .* as x is, got torch.float16"),
    "device of weight": (1, lambda x: x.to("meta"), "weight must be torch.float32 on"),
    "width of weight": (1, lambda x: x[:, :4], r"x of width 4 for weight \[5, 4\], got 8"),
    "shape of bias": (2, lambda x: x[:4], r"bias of shape \[5\], got \[4\]"),
    "type of bias": (2, lambda x: x.half(), "bias must be torch.float32"),
    "columns of x": (0, lambda x: x.t().contiguous().t(), "x must be 2-D with contiguous rows"),
    "axes of x": (0, lambda x: x[None], "x must be 2-D"),
    "columns of weight": (1, lambda x: x.t().contiguous().t(), "weight must be 2-D with contiguous rows"),
    "strides of bias": (2, lambda x: x.repeat_interleave(2)[::2], "bias must be contiguous"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    i, change, message = BAD[name]
    p = draw(0, 3, 5, 8, torch.float32, bias=True)
    p[i] = change(p[i])
    with pytest.raises(BadOption, match=message):
        api.linear(*p, impl="triton")


def test_unknown_missing_and_unfit_implementations_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, _ = draw(0, 3, 5, 8, torch.float32)
    with pytest.raises(BadOption, match="takes x of float32"):
        api.linear(x.double(), weight.double(), impl="triton")
    with pytest.raises(UnknownName, match="did you mean 'triton'"):
        api.linear(x, weight, impl="tritom")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "sparsespec.kernels.linear.triton")
    monkeypatch.delattr("sparsespec.kernels.linear.triton")
    with pytest.raises(MissingPackage, match=r"pip install 'sparsespec\[triton\]'"):
        api.linear(x, weight, impl="triton")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", QWEN)
def test_real_sizes(name: str, dtype: torch.dtype) -> None:
    n, k = QWEN[name]
    for m in (1, 64, 128, 256) if name == "head" else (1, 64, 128, 256, 600, 2048):
        if dtype is not torch.float32 or m <= 256:
            assert check(draw(m, m, n, k, dtype, bias=name == "qkv"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "k"), [*list(QWEN.values())[:4], (960, 576), (576, 1536)])
def test_a_real_row_gets_the_same_bits_in_any_company(n: int, k: int, dtype: torch.dtype) -> None:
    x, weight, bias = draw(0, 4096, n, k, dtype, bias=True)
    whole = api.linear(x, weight, bias, impl="triton")
    for m in (1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200, 256, 257, 512, 700, 1024, 1025, 2048, 3000):
        for first in (0, 5, 4096 - m):
            part = api.linear(x[first : first + m], weight, bias, impl="triton")
            assert torch.equal(part, whole[first : first + m]), f"{m} rows from row {first}"


@pytest.mark.gpu
def test_real_rows_get_the_same_bits_in_every_number() -> None:
    x, weight, bias = draw(1, 4096, 4096, 4096, torch.bfloat16, bias=True)
    whole = api.linear(x, weight, bias, impl="triton")
    for m in range(1, 4097):
        assert torch.equal(api.linear(x[:m], weight, bias, impl="triton"), whole[:m]), f"{m} rows"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_real_tiles_give_the_same_bits(dtype: torch.dtype) -> None:
    for n, k in ((4096, 4096), (4096, 12288), (24576, 4096)):
        p = draw(2, 300, n, k, dtype)
        whole = ours.product(*p, SETTINGS[0])
        for tiles in (*SETTINGS[1:], *(tiling.tiles_for(m, n, 2) for m in (1, 100, 300, 2048))):
            assert torch.equal(ours.product(*p, tiles), whole), str(tiles)


@pytest.mark.gpu
def test_real_addresses_that_the_copy_engine_does_not_take_give_the_same_bits() -> None:
    for m in (7, 200, 2048):
        x, weight, _ = draw(3, m, 4096, 4096, torch.bfloat16)
        want = api.linear(x, weight, impl="triton")
        for apart in (1, 3, 8):
            far = torch.cat((x, x[:, :apart]), 1)[:, :4096]
            assert torch.equal(api.linear(far, weight, impl="triton"), want)


@pytest.mark.gpu
@pytest.mark.parametrize("m", [64, 300])
def test_a_captured_launch_follows_its_inputs(m: int) -> None:
    held = draw(0, m, 4096, 4096, torch.bfloat16, bias=True)
    api.linear(*held, impl="triton")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = api.linear(*held, impl="triton")
    for seed in (1, 2):
        for old, new in zip(held, draw(seed, m, 4096, 4096, torch.bfloat16, bias=True), strict=True):
            old.copy_(new)
        graph.replay()
        assert torch.equal(got, api.linear(*held, impl="triton"))
