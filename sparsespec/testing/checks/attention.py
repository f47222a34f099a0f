"""`check_attention`: does this backend compute attention? Whole steps are held against Python loops in float64.

Steps too long for loops are held against the backend `reference` in float64, which passes this check itself.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsespec.attention.reference import ReferenceAttention
from sparsespec.core.batch import float_type
from sparsespec.core.spec import PartLike
from sparsespec.testing.checks.captured import captured
from sparsespec.testing.checks.drawn_step import HandMade, Step, draw_step, moved
from sparsespec.testing.checks.plain_step import Ran, plainly
from sparsespec.testing.checks.stage import RowAt, another, make_part, require
from sparsespec.testing.tolerance import KEPT, allowed, error, errors

LOOPS = 100
"""The last position at which a row may start, where steps are computed in loops."""


def check_attention(
    spec: PartLike | object,
    *,
    dtype: str = "float64",
    device: str = "cpu",
    head_dims: Sequence[int] = (2, 4, 8),
    longest: int = 40,
    examples: int = 10,
    exact: bool | None = None,
    seed: int = 0,
) -> None:
    """Raise `ContractBroken` if the attention backend breaks a promise.

    What it computes may err a few times as much as the backend `reference` errs in the same float type
    (`sparsespec.testing.tolerance`). Scores may be wider than the longest row if they are zero there. A backend that
    gives `capturable` is also recorded in a CUDA graph, where `device` is one.

    Args:
        spec: A name, a spec or an instance, of which a fresh copy is checked.
        dtype: Floating-point type of model and pool.
        device: Where model and pool are; the geometry that `bind` gets says so too.
        head_dims: Head dimensions to draw from, for backends that do not take any.
        longest: The last position at which a row may start. Let it be more than what the backend cuts contexts into.
        examples: Random steps.
        exact: Whether a row must get the same bits alone as among others; by default if the backend gives
            `batch_invariant`, of which a row's first query and the others must get the same bits apart as well.
        seed: Seed of the steps.
    """
    part = make_part("attention", spec)
    invariant = "batch_invariant" in part.provides
    exact = invariant if exact is None else exact
    scores = "scores" in part.provides
    drawn = [random.Random(f"{seed}/{example}") for example in range(examples)]
    steps = [draw_step(dice, dtype, wants_scores=scores, head_dims=head_dims, longest=longest) for dice in drawn]
    wide = [_run(ReferenceAttention(), step.wide(), step.rows, "cpu") for step in steps]
    limits = _limits(steps, wide, float_type(dtype))
    for step, truth in zip(steps, wide, strict=True):
        judge = _Judge(type(part).__name__, step, limits)
        together = _run(another("attention", part), step, step.rows, device)
        judge.judge(together, plainly(step) if longest <= LOOPS else truth)
        _check_alone(judge, part, together, device, exact)
        if invariant:
            _check_apart(judge, part, together, device)
        if torch.device(device).type == "cuda" and "capturable" in part.provides:
            replayed = captured(another("attention", part), step, device)
            same = all(judge.same(a, b, exact) for a, b in zip(replayed, together.outs, strict=True))
            require(same, f"{judge.name} gives something else when its step is replayed from a CUDA graph")


class _Limits(NamedTuple):
    """The largest errors allowed."""

    outs: float
    kv: float
    scores: float


def _limits(steps: list[Step], wide: list[Ran], dtype: torch.dtype) -> _Limits:
    """Return what follows from how far the reference in `dtype` is from the truth."""
    outs = kv = scores = 0.0
    for step, truth in zip(steps, wide, strict=True):
        rounded = _run(ReferenceAttention(), step, step.rows, "cpu")
        outs = max(outs, *(error(a, b) for a, b in zip(rounded.outs, truth.outs, strict=True)))
        kv = max(kv, error(rounded.k_pages[:, 1:], truth.k_pages[:, 1:]))
        scores = max([scores, *(error(rounded.scores[layer], s) for layer, s in truth.scores.items())])
    return _Limits(allowed(dtype, outs), allowed(dtype, kv), allowed(dtype, scores) + KEPT[dtype])


def _run(part: Any, step: Step, rows: list[RowAt], device: str, *, after: Ran | None = None, skip: int = 0) -> Ran:
    """Return outputs by layer, the scores that were shown, KV read, and the pool after the step, on the CPU.

    The pool is the step's, or what it was `after` another; the first `skip` queries of the step's rows are no queries
    of `rows`.
    """
    choice = HandMade(moved(step.choice.layers, device))
    before = after or step
    k_pages, v_pages = (x.to(device, copy=True) for x in (before.k_pages, before.v_pages))
    part.bind(replace(step.geometry, device=device), moved(step.side, device), k_pages, v_pages)
    part.plan(moved(step.batch(rows), device), choice)
    first = 0
    offset = {}
    for row in step.rows:
        offset[row.seat], first = first, first + row.n_query
    keep = torch.tensor([offset[row.seat] + skip + j for row in rows for j in range(row.n_query)])
    outs = [part.run(layer, *(x[keep].to(device, copy=True) for x in qkv)) for layer, qkv in enumerate(step.qkv)]
    scores = {layer: x.cpu() for layer, x in choice.scores.items()}
    return Ran(moved(outs, "cpu"), scores, part.read().cpu(), k_pages.cpu(), v_pages.cpu())


def _check_alone(judge: _Judge, part: Any, together: Ran, device: str, exact: bool) -> None:
    """Raise if a row's queries get something else when no other row is there."""
    first = 0
    for row in judge.step.rows:
        alone = _run(another("attention", part), judge.step, [row], device)
        for layer, out in enumerate(alone.outs):
            among = together.outs[layer][first : first + row.n_query]
            same = judge.same(out, among, exact)
            require(same, f"{judge.name}: {row} gets something else alone than among its neighbours, in layer {layer}")
        first += row.n_query


def _check_apart(judge: _Judge, part: Any, together: Ran, device: str) -> None:
    """Raise if a row's first query gets other bits without the others, or they without it."""
    # the first as an engine that never drafts would compute it
    plain = replace(judge.step.geometry, max_draft=0, max_guess=0, scored=(0, 0))
    first = 0
    for row in judge.step.rows:
        if row.live > 1:
            head = replace(row, n_query=1, live=1, scored=False)
            rest = replace(row, n_query=row.n_query - 1, start=row.start + 1, live=row.live - 1, scored=False)
            one = _run(another("attention", part), replace(judge.step, geometry=plain), [head], device)
            more = _run(another("attention", part), judge.step, [rest], device, after=one, skip=1)
            for layer, (a, b) in enumerate(zip(one.outs, more.outs, strict=True)):
                among = together.outs[layer][first : first + row.n_query]
                same = judge.same(torch.cat((a, b)), among, exact=True)
                require(same, f"{judge.name}: queries of {row} get other bits apart than together, in layer {layer}")
        first += row.n_query


class _Judge:
    """Compares what a backend gave in a step with what is right."""

    def __init__(self, name: str, step: Step, limits: _Limits) -> None:
        self.name, self.step, self.limits = name, step, limits

    def same(self, one: Tensor, other: Tensor, exact: bool) -> bool:
        """Say whether two outputs are the same: bit for bit if `exact`, else as far as the float type can tell."""
        return torch.equal(one, other) if exact else error(one, other) <= self.limits.outs

    def judge(self, got: Ran, want: Ran) -> None:
        """Raise unless everything is what it should be."""
        for layer, out in enumerate(got.outs):
            q = self.step.qkv[layer][0]
            right = out.shape == q.shape and out.dtype == q.dtype
            require(right, f"{self.name} returned {out.dtype} {list(out.shape)} for queries {q.dtype} {list(q.shape)}")
            require(bool(out.isfinite().all()), f"{self.name} returned NaN or infinity: it read what nobody wrote")
            self._judge_pool(layer, got, want)
            self._judge_out(layer, out, want.outs[layer])
        for row, one, other in zip(self.step.rows, got.read.tolist(), want.read.tolist(), strict=True):
            if row.live:
                right = abs(one - other) < 1e-6
                require(right, f"{self.name} says {row} read {one} KV tokens, it reads {other}")
        self._judge_scores(got.scores, want.scores)

    def _judge_out(self, layer: int, out: Tensor, want: Tensor) -> None:
        """Raise at the first query that is wrong, or dead and not 0."""
        off = errors(out, want)
        first = 0
        for row in self.step.rows:
            for j in range(row.n_query):
                if j >= row.live:
                    zero = not out[first + j].any()
                    require(zero, f"{self.name}: the dead query {j} of {row} did not give 0")
                for head in range(out.shape[1]):
                    right = float(off[first + j, head]) <= self.limits.outs
                    require(right, f"{self.name}: query {j}, head {head} of {row} is wrong in layer {layer}")
            first += row.n_query

    def _judge_pool(self, layer: int, got: Ran, want: Ran) -> None:
        """Raise unless exactly the live tokens were written, and page 0 only by dead ones."""
        step, size = self.step, self.step.geometry.block_size
        touched = torch.zeros(got.k_pages.shape[1:3], dtype=torch.bool)
        touched[0] = True
        pools = ((got.k_pages, want.k_pages, step.k_pages), (got.v_pages, want.v_pages, step.v_pages))
        for row in step.rows:
            for t in range(row.start, row.start + row.live):
                at = (layer, int(step.state.table[row.seat, t // size]), t % size)
                touched[at[1:]] = True
                right = all(error(mine[at], other[at]) <= self.limits.kv for mine, other, _ in pools)
                require(right, f"{self.name}: the KV of position {t} of {row} is wrong in layer {layer}")
        for mine, _, before in pools:
            same = torch.allclose(mine[layer][~touched], before[layer][~touched], rtol=0, atol=0, equal_nan=True)
            require(same, f"{self.name} wrote KV where no live token stands, in layer {layer}")

    def _judge_scores(self, got: dict[int, Tensor], want: dict[int, Tensor]) -> None:
        """Raise unless scores were shown in all layers or, where no row is scored, in none."""
        right = sorted(got) == sorted(want) if want else not any(s.any() for s in got.values())
        require(right, f"{self.name} showed scores in layers {sorted(got)}, and rows to score are there: {bool(want)}")
        for layer, scores in want.items():
            mine, length = got[layer], scores.shape[-1]
            fits = mine.shape[:-1] == scores.shape[:-1] and mine.shape[-1] >= length
            wanted = f"{list(scores.shape)}, or wider"
            require(fits, f"{self.name}: the scores of layer {layer} are {list(mine.shape)}, they must be {wanted}")
            blank = not mine[..., length:].any()
            require(blank, f"{self.name}: the scores of layer {layer} are not 0 at positions that no row holds")
            close = error(mine[..., :length], scores) <= self.limits.scores
            require(close, f"{self.name}: the scores of layer {layer} are not the mean probabilities of scored queries")
