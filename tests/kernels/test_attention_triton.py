"""Held against the reference in float64, over ragged rows of all kinds; interpreted here, compiled with `-m gpu`.

Bits are compared with `torch.equal`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsespec.core.batch import Chosen
from sparsespec.core.errors import BadOption, MissingPackage
from sparsespec.kernels.attention import api, reference
from sparsespec.kernels.implementations import implementation
from tests.kernels.attention_calls import (
    NAMES,
    SCALE,
    SMALL,
    Call,
    Shape,
    Wanted,
    draw,
    kernels,
    lay_out,
    same,
    who_owns_changes_bits,
    wrong,
)
from tests.kernels.launched import DEVICE, WHERE

ON_GPU = DEVICE == "cuda"
pytestmark = [
    WHERE,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy, inside the interpreter
]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the kernels launched, with the reference out of reach of the launches."""
    names: list[str] = []

    class Spy:
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(kernels, name)

        def __getitem__(self, grid: Any) -> Any:
            names.append(self.name)
            return self.kernel[grid]

    for name in ("attend", "reduce_scores"):
        monkeypatch.setattr(kernels, name, Spy(name))
    return names


def test_the_triton_kernels_do_the_work(launched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    call = draw(3, torch.float32, Shape())

    def blocked(*_: object, **__: object) -> None:
        raise AssertionError("the reference was called")

    monkeypatch.setattr(reference, "attention", blocked)
    api.attention(call.q, call.k, call.v, call.rows, scale=SCALE, chosen=call.chosen, impl="triton")
    assert launched == ["attend", "reduce_scores", "attend"]


@pytest.mark.skipif(ON_GPU, reason="the interpreter's sizes")
@settings(max_examples=25)
@given(
    seed=st.integers(0, 1 << 20),
    half=st.booleans(),
    page=st.sampled_from((1, 16, 64)),
    heads=st.sampled_from(((1, 1), (1, 9), (3, 3), (2, 2), (1, 16))),
    shared=st.booleans(),
    ends=st.sampled_from(((0, 0), (1, 1), (1, 0), (0, 8), (2, 3))),
)
def test_is_what_the_reference_gives(
    seed: int, half: bool, page: int, heads: tuple[int, int], shared: bool, ends: tuple[int, int]
) -> None:
    shape = Shape(n_kv_heads=heads[0], group=heads[1], page=page, groups=1 if shared else heads[0], ends=ends)
    assert not wrong(draw(seed, torch.float16 if half else torch.float32, shape))


def check_bits(call: Call) -> None:
    """Each row alone, its first queries, and on a GPU any of its queries give the bits they get in the whole call.

    In the interpreter a product is numpy's, whose bits depend on where in its tile a query stands (6 of 16 rows of a
    16 × 16 product do when moved); so queries are not moved there.
    """
    whole = call.run()
    for b in range(len(call.rows.seat)):
        span, live = call.span(b), int(call.rows.live[b])
        alone = call.run(call.only(b))
        assert same(alone, whole, span)
        assert whole[2] is None or torch.equal(alone[2][:, 0], whole[2][:, b])  # pyright: ignore[reportOptionalSubscript]
        for i in sorted({0, live // 2, live - 1}) if live else ():
            assert same(call.run(call.only(b, 0, i + 1)), whole, slice(span.start, span.start + i + 1))
            if ON_GPU:
                assert same(call.run(call.only(b, i, 1)), whole, slice(span.start + i, span.start + i + 1))
                assert same(call.run(call.only(b, i)), whole, slice(span.start + i, span.stop))


@pytest.mark.skipif(ON_GPU, reason="the interpreter's sizes")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_query_gets_the_same_bits_in_any_company(seed: int, dtype: torch.dtype) -> None:
    check_bits(draw(seed, dtype, Shape(group=(1, 4, 9, 3)[seed], groups=1 + seed % 2)))


def test_who_owns_the_splits_does_not_change_bits() -> None:
    for seed in range(2):
        assert not who_owns_changes_bits(draw(seed, torch.float32, Shape(), starts=(70, 100)))


def test_buffers_of_a_larger_step_serve_a_smaller_one() -> None:
    large = draw(5, torch.float32, Shape())
    work = kernels.plan(large.q, large.k, large.rows, tiling=SMALL)
    for b in range(len(large.rows.seat)):
        rows = large.only(b)
        assert work.holds(rows, len(large.q))
        work.fill(rows, len(large.q))
        got = kernels.run(large.q, large.k, large.v, rows, work, scale=SCALE, chosen=large.chosen)
        assert same(got, large.run(rows), slice(None))


def strided(x: Tensor) -> Tensor:
    """Return x with another number between any two of its last axis."""
    return x.repeat_interleave(2, -1)[..., ::2]


BAD: dict[str, tuple[str, Any, str]] = {
    "type of q": ("q", lambda x: x.double(), "k_pages must be torch.float64"),
    "shape of q": ("q", lambda x: x[0], r"q must be \[N, Hq, D\]"),
    "strides of q": ("q", strided, "q with contiguous heads"),
    "heads": ("q", lambda x: x[:, 1:], "q must have a multiple of the 2 KV heads"),
    "type of k_pages": ("k", lambda x: x.half(), "k_pages must be torch.float32"),
    "device of k_pages": ("k", lambda x: x.to("meta"), "k_pages must be .* got torch.float32 on meta"),
    "layout of k_pages": ("k", lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), "contiguous k_pages"),
    "shape of v_pages": ("v", lambda x: x[:-1], "v_pages must be"),
    "too many scored": ("ends", lambda _: (9, 9), "at most 16"),
    "groups": ("groups", lambda _: 5, "groups must divide"),
    "rows of different number": ("live", lambda x: x[:0], r"rows\.live must be"),
    "type of rows.sparse": ("sparse", lambda x: x.int(), r"rows\.sparse must be torch.bool"),
    "type of rows.table": ("table", lambda x: x.float(), r"rows\.table must be torch.int64 or torch.int32"),
    "device of rows.start": ("start", lambda x: x.to("meta"), r"rows\.start must be"),
    "strides of rows.seat": ("seat", strided, r"contiguous rows\.seat"),
    "shape of rows.table": ("table", lambda x: x[0], r"rows\.table must be \[seats, blocks\]"),
    "lists": ("positions", lambda x: x[:, 0], r"chosen\.positions must be \[1, .* k_max\]"),
    "strides of a list": ("positions", strided, r"chosen\.positions that are contiguous along a list"),
    "type of chosen.positions": ("positions", lambda x: x.float(), r"chosen\.positions must be torch.int64"),
    "shape of chosen.counts": ("counts", lambda x: x[:1], r"chosen\.counts must be"),
    "strides of chosen.tail_from": ("tail_from", strided, r"contiguous chosen\.tail_from"),
}


def test_more_scored_heads_than_fit_are_named() -> None:
    call = draw(1, torch.float32, Shape(group=33, n_kv_heads=1, ends=(0, 8)))
    with pytest.raises(BadOption, match="at most 7 queries of a row where 33 query heads share a KV head"):
        asked(call, "q", lambda x: x)


def asked(call: Call, name: str, change: Any, **options: Any) -> Any:
    """Call the op with one argument changed."""
    given = {x: getattr(call, x) for x in ("q", "k", "v")}
    rows, chosen = call.rows, call.chosen
    if name in given:
        given[name] = change(given[name])
    elif name in chosen._fields:
        chosen = chosen._replace(**{name: change(getattr(chosen, name))})
    else:
        rows = replace(rows, **{name: change(getattr(rows, name))})
    return api.attention(*given.values(), rows, scale=SCALE, chosen=chosen, **({"impl": "triton"} | options))


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    argument, change, message = BAD[name]
    with pytest.raises(BadOption, match=message):
        asked(draw(1, torch.float32, Shape()), argument, change)


def test_what_the_kernels_do_not_take_is_named() -> None:
    call = draw(1, torch.float32, Shape())
    for change, message in ((lambda x: x.double(), "float64"), (lambda x: x[..., :12].contiguous(), "head dims")):
        q, k, v = (change(x) for x in (call.q, call.k, call.v))
        with pytest.raises(BadOption, match=message):
            asked(replace(call, q=q, k=k, v=v), "q", lambda x: x)


OUT_OF_RANGE = {
    "page": ("table", lambda x: x + 10**6, r"rows\.table must be in 0 … .*, got 100"),
    "negative page": ("table", lambda x: x - 10**6, r"rows\.table must be in 0 …"),
    "seat": ("seat", lambda x: x + 99, r"rows\.seat must be in 0 …"),
    "token": ("offset", lambda x: x + 10**6, r"rows\.offset must be in 0 …"),
    "tokens of a row": ("live", lambda x: x + 99, r"rows\.live must be in 0 …"),
    "position": ("start", lambda x: x + 10**6, r"rows\.start must be in 0 …"),
    "count": ("counts", lambda x: x + 99, r"chosen\.counts must be in 0 … 24, got"),
    "tail": ("tail_from", lambda x: x + 10**6, r"chosen\.tail_from must be in 0 …"),
    "tail in the future": ("tail_from", lambda x: x + 30, r"rows\.start - chosen\.tail_from must be in 0 …"),
    "chosen position": ("positions", lambda x: x + 10**6, r"chosen\.positions must be in 0 …"),
    "chosen position in the tail": ("positions", lambda x: x * 0 + 70, r"chosen\.tail_from - chosen\.positions must"),
}


def of_two_rows() -> Call:
    return lay_out(
        (Wanted(20, 2, scored=True), Wanted(50, 2, sparse=True, tail=45, count=10)),
        torch.float32,
        Shape(),
        0,
        longest=96,
    )


@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_where_checked_an_index_out_of_range_is_named(name: str, impl: str) -> None:
    argument, change, message = OUT_OF_RANGE[name]
    with pytest.raises(BadOption, match=message):
        asked(of_two_rows(), argument, change, impl=impl, checked=True)


def test_where_checked_what_is_in_range_passes() -> None:
    for seed in range(30):
        call = draw(seed, torch.float32, Shape())
        asked(call, "q", lambda x: x, impl="reference", checked=True)
    asked(of_two_rows(), "q", lambda x: x, checked=True)


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "sparsespec.kernels.attention.triton")
    with pytest.raises(MissingPackage, match=r"pip install 'sparsespec\[triton\]'"):
        implementation("attention", "triton", api.IMPLS, api.LAZY)
    assert issubclass(MissingPackage, ImportError)


GPU_SHAPES = [
    Shape(128, 2, 4, 16, 1, (1, 1), None),
    Shape(128, 2, 4, 16, 2, (0, 8), None),
    Shape(64, 3, 3, 64, 1, (1, 1), None),
    Shape(64, 1, 9, 1, 1, (2, 1), None),
    Shape(128, 2, 1, 1, 2, (0, 0), None),
    Shape(256, 1, 16, 16, 1, (0, 1), None),
    Shape(256, 2, 2, 64, 2, (1, 0), None),
]
LONG = (0, 1, 63, 64, 500, 2047, 2048, 2500, 5000)
MANY = (0, 1, 1, 2, 8, 9, 30, 520)
"""Queries of a row; the last are enough for wide tiles, whatever the heads."""


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", GPU_SHAPES, ids=lambda s: f"D{s.head_dim}-G{s.group}-P{s.page}-groups{s.groups}")
def test_compiled_it_is_what_the_reference_gives(shape: Shape, dtype: torch.dtype) -> None:
    for seed in range(6):
        assert not wrong(draw(seed, dtype, shape, LONG, MANY))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", GPU_SHAPES, ids=lambda s: f"D{s.head_dim}-G{s.group}-P{s.page}-groups{s.groups}")
def test_compiled_a_query_gets_the_same_bits_in_any_company(shape: Shape, dtype: torch.dtype) -> None:
    for seed in range(3):
        check_bits(draw(seed, dtype, shape, LONG, MANY))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("heads", [(3, 3), (2, 7), (1, 16)], ids=str)
def test_low_tiles_give_the_same_bits(heads: tuple[int, int], dtype: torch.dtype) -> None:
    low = kernels.tiling_for(dtype, 64, heads[1])
    assert low.tile < kernels.tiling_for(dtype, 64).tile
    for seed in range(6):
        call = draw(seed, dtype, Shape(64, *heads, tiling=None), LONG, MANY)
        other = replace(call, shape=replace(call.shape, tiling=low))
        mine, theirs = call.run(), other.run()
        assert same(mine, theirs, slice(None))
        assert torch.equal(mine[2], theirs[2])  # pyright: ignore[reportArgumentType]


@pytest.fixture
def graph() -> Iterator[Any]:
    yield torch.cuda.CUDAGraph()


@pytest.mark.gpu
def test_one_graph_serves_every_mix_of_phases(graph: Any) -> None:
    calls = [draw(seed, torch.bfloat16, GPU_SHAPES[0], LONG, MANY) for seed in range(40)]
    calls = [call for call in calls if len(call.rows.seat) == 4]
    assert len(calls) >= 4
    n = max(len(call.q) for call in calls)
    first = calls[0]
    blank = torch.zeros(n, *first.q.shape[1:], dtype=first.q.dtype, device="cuda")
    rows = replace(first.rows, **{name: getattr(first.rows, name).clone() for name in (*NAMES, "table")})
    chosen = Chosen(*(x.clone() for x in first.chosen))
    k, v = first.k.clone(), first.v.clone()
    work = kernels.work_for(k, blank.shape[1], rows, n)

    def step() -> tuple[Tensor, Tensor, Tensor | None]:
        work.fill(rows, n)
        work.scores.zero_()  # pyright: ignore[reportOptionalMemberAccess]
        return kernels.run(blank, k, v, rows, work, scale=SCALE, chosen=chosen)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        got = step()
    for call in calls:
        for name in (*NAMES, "table"):
            getattr(rows, name).copy_(getattr(call.rows, name))
        for mine, theirs in zip(chosen, call.chosen, strict=True):
            mine.copy_(theirs)
        k.copy_(call.k), v.copy_(call.v)
        blank.zero_()[: len(call.q)].copy_(call.q)
        for x in got[:2]:
            x.fill_(torch.nan)
        graph.replay()
        want = call.run()
        assert torch.equal(got[0][: len(call.q)], want[0])
        assert torch.equal(got[1][: len(call.q)], want[1])
        assert torch.equal(got[2], want[2])  # pyright: ignore[reportArgumentType]
        assert not got[0][len(call.q) :].any()
