"""Every implementation against a loop over pages; the Triton one interpreted where there is no GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsespec.core.errors import BadOption, MissingPackage, UnknownName
from sparsespec.kernels.copy_pages import api
from tests.kernels.launched import DEVICE, WHERE, launched, mutant, room

pytestmark = WHERE

ours = room("copy_pages")
IMPLS = (*api.IMPLS, *api.LAZY)


def pool(pages: int, shape: tuple[int, int, int, int], dtype: torch.dtype, seed: int) -> Tensor:
    """Return a pool [L, pages, P, Hkv, D] of numbers of all kinds, NaN with a sign and payload among them."""
    layers, *page = shape
    generator = torch.Generator().manual_seed(seed)
    n_bytes = layers * pages * torch.tensor(page).prod().item() * dtype.itemsize
    raw = torch.randint(0, 256, (int(n_bytes),), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).view(layers, pages, *page).to(DEVICE)


def pairs_of(dice: torch.Generator, n: int, sources: int, targets: int) -> Tensor:
    places = torch.randperm(targets, generator=dice)[:n]
    pages = torch.randint(0, sources, (n,), generator=dice)
    return torch.stack((pages, places), 1)


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8).cpu()


def wrong(module: Any, seed: int, shape: tuple[int, int, int, int], dtype: torch.dtype, count: int) -> bool:
    """Say whether the copies, or anything beside them, are not what a loop gives."""
    dice = torch.Generator().manual_seed(seed)
    source, target = pool(7, shape, dtype, seed), pool(5, shape, dtype, seed + 1)
    pairs = pairs_of(dice, 4, 7, 5)
    want, kept = target.clone(), source.clone()
    for page, place in pairs[:count].tolist():
        want[:, place] = source[:, page]
    module(source, target, pairs.to(DEVICE), torch.tensor(count).to(DEVICE))
    return not torch.equal(bits(target), bits(want)) or not torch.equal(bits(source), bits(kept))


@pytest.mark.parametrize("impl", IMPLS)
@settings(max_examples=20)
@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(*(st.integers(1, n) for n in (3, 4, 2, 5))),
    dtype=st.sampled_from((torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8)),
    count=st.integers(0, 4),
)
def test_moves_exactly_the_bits_of_the_pages_that_count(
    impl: str, seed: int, shape: tuple[int, int, int, int], dtype: torch.dtype, count: int
) -> None:
    def copy(*tensors: Tensor) -> None:
        if impl == "triton":
            with launched(ours, "_copy_pages", api):
                api.copy_pages(*tensors, impl=impl)
        else:
            api.copy_pages(*tensors, impl=impl, checked=True)

    assert not wrong(copy, seed, shape, dtype, count)


@pytest.mark.parametrize("impl", IMPLS)
def test_copies_within_a_pool_and_between_views(impl: str) -> None:
    both = pool(12, (2, 4, 2, 8), torch.float32, 0)
    before = both.clone()
    pairs = torch.tensor([[1, 5], [1, 6], [3, 7]], device=DEVICE)
    api.copy_pages(both, both, pairs, torch.tensor([3], device=DEVICE), impl=impl, checked=True)
    api.copy_pages(both[:, :4], both[:, 8:], pairs[:, :1] * 0 + torch.tensor([[2, 3]], device=DEVICE)[:, [0, 1]],
                   torch.tensor(1, device=DEVICE), impl=impl)  # fmt: skip
    for page, place in ((1, 5), (1, 6), (3, 7), (2, 11)):
        before[:, place] = before[:, page]
    assert torch.equal(bits(both), bits(before))


@pytest.mark.parametrize("impl", IMPLS)
def test_no_pair_is_no_copy(impl: str) -> None:
    source, target = pool(2, (1, 2, 1, 2), torch.float32, 0), pool(2, (1, 2, 1, 2), torch.float32, 1)
    kept = bits(target)
    none = torch.zeros((0, 2), dtype=torch.int64, device=DEVICE)
    api.copy_pages(source, target, none, torch.tensor(0, device=DEVICE), impl=impl)
    assert torch.equal(bits(target), kept)


MUTANTS = {
    "page swapped with place": (
        "tl.load(pairs + 2 * pair + 1) * target_page",
        "tl.load(pairs + 2 * pair) % 5 * target_page",
    ),
    "first layer for all": ("layer * source_layer +", "0 * source_layer +"),
    "one pair too many": ("if pair < tl.load(count)", "if pair <= tl.load(count)"),
    "first block only": ("range(0, size, BLOCK)", "range(0, BLOCK, BLOCK)"),
    "last number left": ("mask=i < size)", "mask=i < size - 1)"),
}


@pytest.mark.parametrize("name", [None, *MUTANTS])
def test_mutants_run_and_are_caught(name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = mutant(ours, tmp_path, MUTANTS[name]) if name else ours
    monkeypatch.setattr(module, "BLOCK", 32)
    found = [wrong(module.copy_pages, seed, (2, 4, 2, 8), torch.float32, 3) for seed in range(3)]
    assert any(found) if name else not any(found)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("pairs", "count", "message"),
    [
        ([[9, 1]], 1, r"pairs\[:, 0\] must be in 0 … 2, got 9"),
        ([[1, -1]], 1, r"pairs\[:, 1\] must be in 0 … 3, got -1"),
        ([[0, 1]], 2, "count must be in 0 … 1, got 2"),
        ([[0, 1], [2, 1]], 2, "must not name a page twice"),
    ],
)
def test_where_checked_a_bad_pair_is_named(impl: str, pairs: list[list[int]], count: int, message: str) -> None:
    source, target = pool(3, (1, 2, 1, 2), torch.float32, 0), pool(4, (1, 2, 1, 2), torch.float32, 1)
    kept = bits(target)
    with pytest.raises(BadOption, match=message):
        api.copy_pages(
            source, target, torch.tensor(pairs).to(DEVICE), torch.tensor(count).to(DEVICE), impl=impl, checked=True
        )
    assert torch.equal(bits(target), kept)


def test_where_checked_a_page_read_and_written_is_named() -> None:
    one = pool(3, (1, 2, 1, 2), torch.float32, 0)
    pairs, count = torch.tensor([[0, 1], [1, 2]]).to(DEVICE), torch.tensor(2).to(DEVICE)
    with pytest.raises(BadOption, match="must not read a page of the same pool that they write"):
        api.copy_pages(one, one, pairs, count, impl="reference", checked=True)


BAD: dict[str, tuple[str, Any, str]] = {
    "shape of source": ("source", lambda x: x[0], "source must be"),
    "shape of target": ("target", lambda x: x[:, :, :1], r"target must be \[1, pages, 2, 1, 2\]"),
    "type of target": ("target", lambda x: x.half(), "target must be torch.float32"),
    "device of target": ("target", lambda x: x.to("meta"), "target must be torch.float32 on"),
    "layout of target": ("target", lambda x: x.transpose(2, 4).contiguous().transpose(2, 4), "contiguous pages"),
    "shape of pairs": ("pairs", lambda x: x[:, :1], r"pairs must be \[n, 2\]"),
    "type of pairs": ("pairs", lambda x: x.int(), "pairs must be int64"),
    "strides of pairs": ("pairs", lambda x: x.repeat_interleave(2, 1)[:, ::2], "pairs must be contiguous"),
    "number of counts": ("count", lambda x: x.expand(2), "count must be a single number"),
    "type of count": ("count", lambda x: x.int(), "count must be int64"),
    "type of both": ("source", lambda x: x.to(torch.complex128), "target must be torch.complex128"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    argument, change, message = BAD[name]
    given = {
        "source": pool(3, (1, 2, 1, 2), torch.float32, 0),
        "target": pool(3, (1, 2, 1, 2), torch.float32, 0),
        "pairs": torch.zeros((1, 2), dtype=torch.int64, device=DEVICE),
        "count": torch.tensor(1, device=DEVICE),
    }
    given[argument] = change(given[argument])
    with pytest.raises(BadOption, match=message):
        api.copy_pages(*given.values(), impl="triton")


def test_unknown_and_missing_implementations_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    one = pool(2, (1, 1, 1, 2), torch.float32, 0)
    pairs, count = torch.zeros((1, 2), dtype=torch.int64, device=DEVICE), torch.tensor(1, device=DEVICE)
    with pytest.raises(UnknownName, match="did you mean 'triton'"):
        api.copy_pages(one, one.clone(), pairs, count, impl="tritom")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "sparsespec.kernels.copy_pages.triton")
    monkeypatch.delattr("sparsespec.kernels.copy_pages.triton")
    with pytest.raises(MissingPackage, match=r"pip install 'sparsespec\[triton\]'"):
        api.copy_pages(one, one.clone(), pairs, count, impl="triton")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_real_pages(dtype: torch.dtype) -> None:
    for seed in range(3):
        assert not wrong(ours.copy_pages, seed, (36, 16, 8, 128), dtype, 4)


@pytest.mark.gpu
def test_a_captured_launch_follows_its_inputs() -> None:
    shape = (3, 16, 2, 64)
    source, target = pool(7, shape, torch.bfloat16, 0), pool(5, shape, torch.bfloat16, 1)
    pairs, count = (
        torch.zeros((4, 2), dtype=torch.int64, device=DEVICE),
        torch.zeros((), dtype=torch.int64, device=DEVICE),
    )
    api.copy_pages(source, target, pairs, count, impl="triton")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        api.copy_pages(source, target, pairs, count, impl="triton")
    for seed in range(4):
        pairs.copy_(pairs_of(torch.Generator().manual_seed(seed), 4, 7, 5))
        count.fill_(seed)
        want = target.clone()
        api.copy_pages(source, want, pairs, count, impl="reference")
        graph.replay()
        assert torch.equal(bits(target), bits(want))
