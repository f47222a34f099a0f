"""Held against the reference in float64, over ragged rows of all kinds; interpreted here, compiled with `-m gpu`.

Pools are NaN wherever no row may look, outputs and workspaces are NaN before the launch, and the tolerance is the error
that the reference itself makes in the float type at hand. Bits are compared with `torch.equal`.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.core.errors import BadOption, MissingPackage
from sparsespec.kernels.attention import api, reference
from tests.arch import fresh

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    # read when triton is imported and kernels are decorated
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")

from sparsespec.kernels.attention import triton as kernels  # noqa: E402
from sparsespec.kernels.attention.triton_plan import Tiling  # noqa: E402

DEVICE = "cuda" if ON_GPU else "cpu"
SMALL = Tiling(tile=16, block=16, split=32, sparse_tile=16, sparse_block=16, own_tiles=2, own_busy=1000)
NAMES = ("seat", "offset", "start", "live", "sparse", "scored")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy, inside the interpreter
]


@dataclass(frozen=True, slots=True)
class Shape:
    head_dim: int = 16
    n_kv_heads: int = 2
    group: int = 3
    page: int = 16
    groups: int = 1
    ends: tuple[int, int] = (1, 1)
    tiling: Tiling | None = SMALL


@dataclass(slots=True)
class Call:
    """One call of the op; `spans` are the query tokens of the rows."""

    q: Tensor
    k: Tensor
    v: Tensor
    rows: AttentionRows
    chosen: Chosen
    shape: Shape

    def run(self, rows: AttentionRows | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        rows = rows or self.rows
        work = kernels.plan(self.q, self.k, rows, tiling=self.shape.tiling)
        for x in (work.part_acc, work.part_m, work.part_l, work.p, work.p_max):
            if x is not None:
                x.fill_(torch.nan)
        return kernels.run(self.q, self.k, self.v, rows, work, scale=0.37, chosen=self.chosen)

    def reference(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
        q, k, v = (x.to(dtype) for x in (self.q, self.k, self.v))
        return reference.attention(q, k, v, self.rows, scale=0.37, chosen=self.chosen)

    def only(self, b: int, first: int = 0, n: int | None = None) -> AttentionRows:
        """Return row b alone, or n of its queries from `first` on."""
        one = {name: getattr(self.rows, name)[b : b + 1] for name in NAMES}
        n = int(one["live"]) - first if n is None else n
        moved = {
            "offset": one["offset"] + first,
            "start": one["start"] + first,
            "live": torch.full_like(one["live"], n),
        }
        return replace(self.rows, **(one | moved))

    def span(self, b: int) -> slice:
        offset, live = int(self.rows.offset[b]), int(self.rows.live[b])
        return slice(offset, offset + live)


def draw(seed: int, dtype: torch.dtype, shape: Shape, starts: tuple[int, ...] = (0, 1, 15, 16, 31, 40, 64, 70)) -> Call:
    """Draw a call of 1 to 5 rows, dense and sparse, scored and not, dead and alive."""
    dice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    s, longest = shape, max(starts) + 48
    n_rows = dice.randint(1, 5)
    blocks, seats = -(-longest // s.page), n_rows + 1
    table = (torch.randperm(seats * blocks, generator=generator) + 1).view(seats, blocks)
    seat = torch.randperm(seats, generator=generator)[:n_rows]
    kv = torch.full((2, (seats * blocks + 1) * s.page, s.n_kv_heads, s.head_dim), torch.nan)
    positions = torch.full((s.groups, seats, 24), 1 << 20, dtype=torch.int32)
    counts, tails = torch.zeros(seats, dtype=torch.int64), torch.zeros(seats, dtype=torch.int64)
    columns: dict[str, list[Any]] = {name: [] for name in ("offset", "start", "live", "sparse", "scored")}
    n = 0
    for b in range(n_rows):
        start, live, sparse = dice.choice(starts), dice.choice((0, 1, 1, 2, 3, 8, 9, 30)), dice.random() < 0.4
        if sparse:
            live = min(live, 8)
            tails[seat[b]] = tail = dice.randint(0, start)
            counts[seat[b]] = count = dice.choice((0, min(tail, 24), dice.randint(0, min(tail, 24))))
            for group in range(s.groups):
                chosen = torch.tensor(sorted(dice.sample(range(tail), count)), dtype=torch.int32)
                positions[group, seat[b], :count] = chosen
        t = torch.arange(start + live)
        slots = table[seat[b], t // s.page] * s.page + t % s.page
        kv[:, slots] = torch.randn(2, start + live, s.n_kv_heads, s.head_dim, generator=generator)
        scored = not sparse and live > 0 and dice.random() < 0.7
        for name, x in (("offset", n), ("start", start), ("live", live), ("sparse", sparse), ("scored", scored)):
            columns[name].append(x)
        n += live + dice.randint(0, 2)
    q = torch.randn(n + 1, s.n_kv_heads * s.group, s.head_dim, generator=generator)
    alive = torch.zeros(n + 1, dtype=torch.bool)
    for offset, live in zip(columns["offset"], columns["live"], strict=True):
        alive[offset : offset + live] = True
    q[~alive] = torch.nan
    k, v = kv.to(DEVICE, dtype).view(2, -1, s.page, s.n_kv_heads, s.head_dim)
    rows = AttentionRows(
        seat.to(DEVICE),
        **{name: torch.tensor(x, device=DEVICE) for name, x in columns.items()},
        table=table.to(DEVICE),
        ends=s.ends,
        groups=s.groups,
    )
    return Call(q.to(DEVICE, dtype), k, v, rows, Chosen(*(x.to(DEVICE) for x in (positions, counts, tails))), s)


def error(got: Tensor, want: Tensor) -> float:
    """Return the largest error relative to values near 1; NaN counts as infinite."""
    e = ((got.double() - want).abs() / (1 + want.abs())).max().item()
    return e if e == e else float("inf")


def check(call: Call) -> None:
    """Hold a call against the reference in float64; it may err three times as much as the reference in its type.

    In float32 eight times: exp2 of the hardware is approximate, and logits of 20 are rounded once more.
    """
    dtype = call.q.dtype
    out, lse, scores = call.run()
    exact, rounded = call.reference(torch.float64), call.reference(dtype)
    times, floor = 8 if dtype == torch.float32 else 3, 4 * torch.finfo(dtype).eps
    assert error(out, exact[0]) <= times * error(rounded[0], exact[0]) + floor
    assert error(lse, exact[1]) <= times * error(rounded[1], exact[1]) + 2e-5
    assert not out[~alive(call)].any() and not lse[~alive(call)].any()
    if exact[2] is not None and any(call.shape.ends):
        assert scores is not None
        length = exact[2].shape[-1]
        kept = 1e-5 if dtype == torch.float32 else 2**-10  # probabilities wait in half precision
        assert error(scores[..., :length], exact[2]) <= kept
        assert not scores[..., length:].any()


def alive(call: Call) -> Tensor:
    mask = torch.zeros(len(call.q), dtype=torch.bool, device=call.q.device)
    for b in range(len(call.rows.seat)):
        mask[call.span(b)] = True
    return mask


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

    for name in ("attend", "fold_splits", "reduce_scores"):
        monkeypatch.setattr(kernels, name, Spy(name))
    return names


def test_the_triton_kernels_do_the_work(launched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    call = draw(3, torch.float32, Shape())

    def blocked(*_: object, **__: object) -> None:
        raise AssertionError("the reference was called")

    monkeypatch.setattr(reference, "attention", blocked)
    monkeypatch.setitem(api.IMPLS, "reference", blocked)
    api.attention(call.q, call.k, call.v, call.rows, scale=0.37, chosen=call.chosen, impl="triton")
    assert launched == ["attend", "attend", "fold_splits", "reduce_scores"]


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
    check(draw(seed, torch.float16 if half else torch.float32, shape))


def same(a: tuple[Tensor, ...], b: tuple[Tensor, ...], at: slice) -> bool:
    return torch.equal(a[0][at], b[0][at]) and torch.equal(a[1][at], b[1][at])


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
    for seed in range(3):
        call = draw(seed, torch.float32, Shape(), starts=(70, 100))
        folded = call.run()
        for owned in (replace(SMALL, own_tiles=1), replace(SMALL, own_tiles=99), replace(SMALL, own_busy=0)):
            call.shape = replace(call.shape, tiling=owned)
            assert same(call.run(), folded, slice(None))


def test_buffers_of_a_larger_step_serve_a_smaller_one() -> None:
    large = draw(5, torch.float32, Shape())
    work = kernels.plan(large.q, large.k, large.rows, tiling=SMALL)
    for b in range(len(large.rows.seat)):
        rows = large.only(b)
        assert work.holds(rows, len(large.q))
        work.fill(rows, len(large.q))
        got = kernels.run(large.q, large.k, large.v, rows, work, scale=0.37, chosen=large.chosen)
        assert same(got, large.run(rows), slice(None))


def test_what_it_cannot_do_raises() -> None:
    call = draw(1, torch.float32, Shape())

    def run(q: Tensor = call.q, k: Tensor = call.k, v: Tensor = call.v, **changes: Any) -> None:
        rows = replace(call.rows, **changes)
        api.attention(q, k, v, rows, scale=1.0, chosen=call.chosen, impl="triton")

    with pytest.raises(BadOption, match="float64"):
        run(call.q.double(), call.k.double(), call.v.double())
    with pytest.raises(BadOption, match="head dims"):
        run(*(x[..., :12].contiguous() for x in (call.q, call.k, call.v)))
    with pytest.raises(BadOption, match="contiguous"):
        run(k=call.k.transpose(1, 2).contiguous().transpose(1, 2))
    with pytest.raises(BadOption, match="v_pages must be"):
        run(v=call.v[:-1])
    with pytest.raises(BadOption, match="k_pages must be"):
        run(k=call.k.half())
    with pytest.raises(BadOption, match="at most 16"):
        run(ends=(9, 9))
    with pytest.raises(BadOption, match="groups must divide"):
        run(groups=5)
    with pytest.raises(BadOption, match=r"rows\.live"):
        run(live=call.rows.live[:0])


def test_without_the_package_the_error_says_what_to_install() -> None:
    code = """
from sparsespec.core.errors import MissingPackage
from sparsespec.kernels.attention import api
try:
    api._implementation("triton")
    result = None
except MissingPackage as error:
    result = str(error)
"""
    assert "pip install 'sparsespec[triton]'" in fresh.run(code, blocked=("triton",))
    assert issubclass(MissingPackage, ImportError)
    assert "sparsespec.kernels.attention.triton" in sys.modules


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


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", GPU_SHAPES, ids=lambda s: f"D{s.head_dim}-G{s.group}-P{s.page}-groups{s.groups}")
def test_compiled_it_is_what_the_reference_gives(shape: Shape, dtype: torch.dtype) -> None:
    for seed in range(6):
        check(draw(seed, dtype, shape, LONG))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", GPU_SHAPES, ids=lambda s: f"D{s.head_dim}-G{s.group}-P{s.page}-groups{s.groups}")
def test_compiled_a_query_gets_the_same_bits_in_any_company(shape: Shape, dtype: torch.dtype) -> None:
    for seed in range(3):
        check_bits(draw(seed, dtype, shape, LONG))


@pytest.fixture
def graph() -> Iterator[Any]:
    yield torch.cuda.CUDAGraph()


@pytest.mark.gpu
def test_one_graph_serves_every_mix_of_phases(graph: Any) -> None:
    calls = [draw(seed, torch.bfloat16, GPU_SHAPES[0], LONG) for seed in range(40)]
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
        return kernels.run(blank, k, v, rows, work, scale=0.37, chosen=chosen)

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
