"""Attention backends that break one promise each, and the sentence that says which."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sparsespec.attention.reference import ReferenceAttention
from sparsespec.core.batch import AttentionRows, Batch, Chosen
from sparsespec.core.plan import Phase
from sparsespec.kernels.attention.api import plan
from sparsespec.testing import check_attention
from tests.quick import quick_last
from tests.testing.caught import caught


class Replanned(ReferenceAttention):
    """Plans a step again when its rows are changed."""

    @property
    def _rows(self) -> AttentionRows:
        return self._plan.rows

    @_rows.setter
    def _rows(self, rows: AttentionRows) -> None:
        n_tokens, n_heads, _ = self._plan.q_shape
        self._plan = plan(
            rows, self._bound.k_pages[0], n_tokens=n_tokens, n_heads=n_heads, scale=self._plan.scale, impl="reference"
        )


class NoFuture(Replanned):
    """Reads one position too few."""

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = super().run(layer, q, k, v)
        rows = self._rows
        self._rows = replace(rows, start=(rows.start - 1).clamp(min=0))
        out = super().run(layer, q, k, v)
        self._rows = rows
        return out


class Unnormed(Replanned):
    def bind(self, geometry: Any, model: Any, k_pages: Tensor, v_pages: Tensor) -> None:
        super().bind(geometry, _WithoutNorms(model), k_pages, v_pages)


class _WithoutNorms:
    def __init__(self, model: Any) -> None:
        self.rope, self.rms_eps = model.rope, model.rms_eps

    def q_norm(self, layer: int) -> None:
        return None

    k_norm = q_norm


class OneList(Replanned):
    """Lets all heads read the first list."""

    def plan(self, batch: Batch, choice: Any) -> None:
        super().plan(batch, choice and _FirstList(choice))


class _FirstList:
    def __init__(self, choice: Any) -> None:
        self.choice, self.see = choice, choice.see

    def at(self, layer: int, q: Tensor, keys: Any) -> Chosen:
        chosen = self.choice.at(layer, q, keys)
        return chosen._replace(positions=chosen.positions[:1].expand_as(chosen.positions))


class DraftsDense(Replanned):
    def plan(self, batch: Batch, choice: Any) -> None:
        super().plan(batch, choice)
        self._rows = replace(self._rows, sparse=self._rows.sparse & False)


class BeyondCount(Replanned):
    """Reads one entry behind the counts."""

    def plan(self, batch: Batch, choice: Any) -> None:
        super().plan(batch, choice and _OneMore(choice))


class _OneMore(_FirstList):
    def at(self, layer: int, q: Tensor, keys: Any) -> Chosen:
        chosen = self.choice.at(layer, q, keys)
        positions = chosen.positions.clamp(max=3)
        return chosen._replace(positions=positions, counts=chosen.counts + 1)


class SilentScores(Replanned):
    def plan(self, batch: Batch, choice: Any) -> None:
        super().plan(batch, choice)
        self._rows = replace(self._rows, scored=self._rows.scored & False)


class OneEnd(Replanned):
    """Scores the last queries only."""

    def plan(self, batch: Batch, choice: Any) -> None:
        super().plan(batch, choice)
        self._rows = replace(self._rows, ends=(0, max(1, self._rows.ends[1])))


class LoudDead(Replanned):
    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().run(layer, q, k, v) + (~self._step._batch.alive)[:, None, None]


class WritesDead(Replanned):
    """Writes dead tokens too, at page 1."""

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = super().run(layer, q, k, v)
        self._bound.k_pages[layer, 1] = 0.0
        return out


class SwapsKV(Replanned):
    """Takes keys for values in the page that was bound first."""

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = super().run(layer, q, k, v)
        page = int(self._rows.table[self._rows.seat[0], 0])
        k_page, v_page = self._bound.k_pages[layer, page], self._bound.v_pages[layer, page]
        kept = k_page.clone()
        k_page.copy_(v_page), v_page.copy_(kept)
        return out


class Wider(Replanned):
    """Shows scores in a buffer of a constant width, which is allowed."""

    behind: ClassVar[float] = 0.0

    def plan(self, batch: Batch, choice: Any) -> None:
        super().plan(batch, choice and _Wide(choice, self.behind))


class _Wide(_FirstList):
    def __init__(self, choice: Any, behind: float) -> None:
        self.choice, self.at, self.behind = choice, choice.at, behind

    def see(self, layer: int, scores: Tensor) -> None:
        self.choice.see(layer, torch.nn.functional.pad(scores, (0, 9), value=self.behind))


class DirtyBehind(Wider):
    behind = 0.5


class Narrow(Replanned):
    def plan(self, batch: Batch, choice: Any) -> None:
        super().plan(batch, choice and _Cut(choice))


class _Cut(_FirstList):
    def __init__(self, choice: Any) -> None:
        self.choice, self.at = choice, choice.at

    def see(self, layer: int, scores: Tensor) -> None:
        self.choice.see(layer, scores[..., :-1])


class Doubles(Replanned):
    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().run(layer, q, k, v).to(torch.float32)


class ForgetsTheLast(Replanned):
    """Never reads what lies behind the first hundred positions, as if a split were dropped."""

    def plan(self, batch: Batch, choice: Any) -> None:
        super().plan(batch, choice)
        rows = self._rows
        self._rows = replace(rows, start=torch.where(rows.sparse, rows.start, rows.start.clamp(max=100)))


class Miscounting(Replanned):
    def read(self) -> Tensor:
        return super().read() + 1


class Neighbourly(Replanned):
    """Adds a little of the neighbours, which every tolerance hides."""

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = super().run(layer, q, k, v)
        alone = bool((self._step._batch.row_of == 0).all())
        return out if alone else out + 1e-14 * self._step._batch.alive[:, None, None]


class QueryByQuery(Replanned):
    """Takes every query for a row of its own, whose bits nothing can change then; it scores nothing."""

    provides = frozenset({"batch_invariant"})

    def plan(self, batch: Batch, choice: Any) -> None:
        super().plan(batch, choice)
        rows, at = self._rows, batch.alive.nonzero()[:, 0]
        row = batch.row_of[at]
        each = {"offset": at, "start": batch.positions[at], "live": torch.ones_like(at)}
        self._rows = replace(rows, seat=rows.seat[row], sparse=rows.sparse[row], scored=rows.scored[row], **each)


class SaysItIsInvariant(Neighbourly, QueryByQuery):
    pass


class CountsItsQueries(QueryByQuery):
    """Adds a little for every other query of a row, which every tolerance hides."""

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        more = (self._step._batch.live > 1)[self._step._batch.row_of]
        return super().run(layer, q, k, v) + 1e-14 * (more & self._step._batch.alive)[:, None, None]


BROKEN: dict[type, str] = {
    NoFuture: "is wrong in layer",
    Unnormed: "is wrong in layer",
    OneList: "is wrong in layer",
    DraftsDense: "is wrong in layer",
    BeyondCount: "is wrong in layer|read what nobody wrote|KV tokens",
    SilentScores: "rows to score are there: True",
    OneEnd: "are not the mean probabilities",
    LoudDead: "did not give 0",
    WritesDead: "wrote KV where no live token|is wrong in layer|read what nobody",
    Miscounting: "KV tokens, it reads",
    SwapsKV: "the KV of position|is wrong in layer|read what nobody|wrote KV where",
    DirtyBehind: "not 0 at positions that no row holds",
    Narrow: "or wider",
    Doubles: "returned torch.float32",
}


@pytest.mark.parametrize("part", quick_last(list(BROKEN)), ids=lambda part: part.__name__)
def test_a_broken_promise_is_caught(part: type) -> None:
    caught(check_attention, part(), BROKEN[part])


def test_scores_may_be_wider_than_the_longest_row() -> None:
    check_attention(Wider(), examples=5)


def test_what_only_a_long_context_shows_is_found_in_a_long_context() -> None:
    check_attention(ForgetsTheLast(), examples=5)
    with pytest.raises(AssertionError, match="is wrong in layer"):
        check_attention(ForgetsTheLast(), examples=3, longest=600)


def test_bits_that_depend_on_neighbours_are_caught_where_exactness_is_asked_for() -> None:
    check_attention(Neighbourly(), examples=5)
    with pytest.raises(AssertionError, match="something else alone"):
        check_attention(Neighbourly(), examples=5, exact=True)
    check_attention(QueryByQuery(), examples=5)
    with pytest.raises(AssertionError, match="something else alone"):
        check_attention(SaysItIsInvariant(), examples=5)
    with pytest.raises(AssertionError, match="other bits apart"):
        check_attention(CountsItsQueries(), examples=5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_each_float_type_is_judged_by_its_own_tolerance(dtype: str) -> None:
    with pytest.raises(AssertionError, match="is wrong"):
        check_attention(Coarse(), dtype=dtype, examples=3)
    check_attention(Coarse(), dtype="bfloat16", examples=3)


class Coarse(Replanned):
    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().run(layer, q, k, v).to(torch.bfloat16).to(q.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("part", [NoFuture, OneList, DraftsDense, OneEnd, Unnormed], ids=lambda part: part.__name__)
def test_half_types_hide_no_mistake(part: type, dtype: str) -> None:
    caught(partial(check_attention, dtype=dtype), part(), BROKEN[part])


def test_drafts_are_among_what_is_drawn() -> None:
    class Counting(Replanned):
        seen: ClassVar[set[int]] = set()

        def plan(self, batch: Batch, choice: Any) -> None:
            super().plan(batch, choice)
            self.seen.update(batch.phase.tolist())

    check_attention(Counting())
    assert Counting.seen == {int(phase) for phase in Phase}
