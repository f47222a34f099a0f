"""Plans, buffers and bits of the Triton `attention`; interpreted here, compiled with `-m gpu`.

That it gives what the reference gives is a matter of `test_contract_triton.py`. Bits are compared with `torch.equal`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from sparsespec.core.batch import Chosen
from sparsespec.core.errors import BadOption
from sparsespec.kernels.attention import api
from sparsespec.testing.ops.attention import LONG, MANY, REAL, SCALE
from tests.kernels.attention_calls import (
    NAMES,
    Call,
    kernels,
    random_call,
    same,
    who_owns_changes_bits,
)
from tests.kernels.launched import DEVICE, WHERE, alone

ON_GPU = DEVICE == "cuda"
pytestmark = [
    WHERE,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy, inside the interpreter
]


def test_the_kernels_are_launched_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    class Spy:
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(kernels, name)

        def __getitem__(self, grid: Any) -> Any:
            names.append(self.name)
            return self.kernel[grid]

    for name in ("attend", "reduce_scores"):
        monkeypatch.setattr(kernels, name, Spy(name))
    call = random_call(3, torch.float32)
    with alone(api):
        api.attention(**call.args, impl="triton")
    assert names == ["attend", "reduce_scores", "attend"]


def check_bits(call: Call) -> None:
    """Each row alone, its first queries, and on a GPU any of its queries give the bits they get in the whole call.

    In the interpreter a product is numpy's, whose bits depend on where in its tile a query is (6 of 16 rows of a
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
    check_bits(random_call(seed, dtype, heads=(2, (1, 4, 9, 3)[seed]), groups=1 + seed % 2))


def test_who_owns_the_splits_does_not_change_bits() -> None:
    for seed in range(2):
        assert not who_owns_changes_bits(random_call(seed, torch.float32, starts=(70, 100)))


def test_buffers_of_a_larger_step_serve_a_smaller_one() -> None:
    large = random_call(5, torch.float32)
    plan = large.plan()
    for b in range(len(large.rows.seat)):
        rows = large.only(b)
        again = large.plan(rows, reuse=plan)
        assert again.work is plan.work
        assert same(large.launch(again), large.run(rows), slice(None))


def test_buffers_that_are_too_small_are_replaced_by_larger_ones_and_kept() -> None:
    large = random_call(5, torch.float32)
    assert len(large.rows.seat) > 1
    small = large.plan(large.only(0))
    grown = large.plan(reuse=small)
    assert grown.work is not small.work and grown.work.before is small.work
    assert grown.work.n_rows >= len(large.rows.seat)
    assert same(large.launch(grown), large.run(), slice(None))
    # what was recorded with the small ones still works
    assert same(large.launch(small), large.run(large.only(0)), slice(None))


def test_scores_go_where_they_are_asked_to() -> None:
    call = random_call(3, torch.float32)
    plan = call.plan()
    assert plan.scores_shape is not None
    into = torch.zeros(plan.scores_shape, device=DEVICE)
    got = plan.run(call.q, call.args["k_pages"], call.args["v_pages"], chosen=call.chosen, scores=into)
    assert got.scores is not None and got.scores.data_ptr() == into.data_ptr() and into.any()
    own = call.run().scores
    assert own is not None and torch.equal(own, got.scores)
    with pytest.raises(BadOption, match="as Plan.scores_shape says"):
        plan.run(call.q, call.args["k_pages"], call.args["v_pages"], chosen=call.chosen, scores=into[:, :0])


def test_a_plan_of_another_pool_is_not_reused() -> None:
    call = random_call(3, torch.float32)
    other = random_call(3, torch.float32, block_size=1)
    with pytest.raises(BadOption, match="reuse must be a plan of a pool"):
        other.plan(reuse=call.plan())


def sizes_of(name: str) -> dict[str, Any]:
    return {**REAL[name], "tiling": None}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", REAL)
def test_compiled_a_query_gets_the_same_bits_in_any_company(name: str, dtype: torch.dtype) -> None:
    for seed in range(3):
        check_bits(random_call(seed, dtype, **sizes_of(name)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("heads", [(3, 3), (2, 7), (1, 16)], ids=str)
def test_low_tiles_give_the_same_bits(heads: tuple[int, int], dtype: torch.dtype) -> None:
    low = kernels.tiling_for(dtype, 64, heads[1])
    assert low.tile < kernels.tiling_for(dtype, 64).tile
    for seed in range(6):
        call = random_call(seed, dtype, None, heads=heads, head_dim=64, starts=LONG, lives=MANY)
        mine, theirs = call.run(), Call(call.args, low).run()
        assert same(mine, theirs, slice(None))
        assert mine.scores is not None and theirs.scores is not None and torch.equal(mine.scores, theirs.scores)


@pytest.mark.gpu
def test_one_graph_serves_every_mix_of_phases() -> None:
    calls = [random_call(seed, torch.bfloat16, n_rows=4, **sizes_of(next(iter(REAL)))) for seed in range(12)]
    n, first = max(len(call.q) for call in calls), calls[0]
    blank = torch.zeros(n, *first.q.shape[1:], dtype=first.q.dtype, device="cuda")
    rows = replace(first.rows, **{name: getattr(first.rows, name).clone() for name in (*NAMES, "table")})
    chosen = Chosen(*(x.clone() for x in first.chosen))
    k, v = first.args["k_pages"].clone(), first.args["v_pages"].clone()
    sizes: dict[str, Any] = {"n_tokens": n, "n_heads": blank.shape[1], "scale": SCALE, "impl": "triton"}
    plan = api.plan(rows, k, **sizes)
    assert plan.scores_shape is not None
    scores = torch.zeros(plan.scores_shape, device="cuda")

    def step() -> Sequence[Any]:
        again = api.plan(rows, k, **sizes, reuse=plan)
        assert again.work is plan.work
        return again.run(blank, k, v, chosen=chosen, scores=scores.zero_())

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    for call in calls:
        for name in (*NAMES, "table"):
            getattr(rows, name).copy_(getattr(call.rows, name))
        for mine, theirs in zip(chosen, call.chosen, strict=True):
            mine.copy_(theirs)
        k.copy_(call.args["k_pages"]), v.copy_(call.args["v_pages"])
        blank.zero_()[: len(call.q)].copy_(call.q)
        for x in got[:2]:
            x.fill_(torch.nan)
        graph.replay()
        want = call.run()
        assert torch.equal(got[0][: len(call.q)], want[0])
        assert torch.equal(got[1][: len(call.q)], want[1])
        assert torch.equal(got[2], want[2])  # pyright: ignore[reportArgumentType]
        assert not got[0][len(call.q) :].any()
