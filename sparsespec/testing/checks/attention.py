"""`check_attention`: does this backend compute attention? It is held against Python loops over whole steps."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.plan import Phase
from sparsespec.core.spec import PartLike
from sparsespec.testing.checks.drawn_step import HandMade, Step, close, draw_step
from sparsespec.testing.checks.plain_attention import (
    Read,
    attend_plainly,
    norm_plainly,
    rotate_plainly,
    scored_queries,
)
from sparsespec.testing.checks.stage import RowAt, another, make_part, require


def check_attention(
    spec: PartLike | object, *, dtype: str = "float64", examples: int = 10, exact: bool = False, seed: int = 0
) -> None:
    """Raise `ContractBroken` if the attention backend breaks a promise.

    Args:
        spec: A name, a spec or an instance, of which a fresh copy is checked.
        dtype: Floating-point type of model and pool.
        examples: Random steps.
        exact: Whether a row must get the same bits alone as among others.
        seed: Seed of the steps.
    """
    part = make_part("attention", spec)
    for example in range(examples):
        dice = random.Random(f"{seed}/{example}")
        step = draw_step(dice, dtype, wants_scores="scores" in part.gives)
        together = _run(another("attention", part), step, step.rows)
        _Judge(type(part).__name__, step, dtype).judge(*together)
        _check_alone(type(part).__name__, part, step, together, dtype, exact)


Ran = tuple[list[Tensor], HandMade, Tensor, Tensor, Tensor]


def _run(part: Any, step: Step, rows: list[RowAt]) -> Ran:
    """Return outputs by layer, the scores that were shown, KV read, and the pool after the step."""
    batch, choice = step.batch(rows), step.fresh_choice()
    k_pages, v_pages = step.k_pages.clone(), step.v_pages.clone()
    part.bind(step.geometry, step.side, k_pages, v_pages)
    part.plan(batch, choice)
    first = 0
    offset = {}
    for row in step.rows:
        offset[row.seat], first = first, first + row.n_query
    keep = torch.tensor([offset[row.seat] + j for row in rows for j in range(row.n_query)])
    outs = [part.run(layer, *(x[keep].clone() for x in qkv)) for layer, qkv in enumerate(step.qkv)]
    return outs, choice, part.read(), k_pages, v_pages


def _check_alone(name: str, part: Any, step: Step, together: Ran, dtype: str, exact: bool) -> None:
    first = 0
    for row in step.rows:
        alone = _run(another("attention", part), step, [row])
        for layer, out in enumerate(alone[0]):
            among = together[0][layer][first : first + row.n_query]
            same = torch.equal(out, among) if exact else close(out, among, dtype)
            require(same, f"{name}: {row} gets something else alone than among its neighbours, in layer {layer}")
        first += row.n_query


class _Judge:
    """Computes a step in Python and compares."""

    def __init__(self, name: str, step: Step, dtype: str) -> None:
        self.name, self.step, self.dtype = name, step, dtype
        self.g = step.geometry

    def judge(self, outs: list[Tensor], choice: HandMade, read: Tensor, k_pages: Tensor, v_pages: Tensor) -> None:
        """Raise unless everything is what it should be."""
        self.read = [0.0] * len(self.step.rows)
        self.expected_scores: list[Tensor] = []
        for layer, out in enumerate(outs):
            require(bool(out.isfinite().all()), f"{self.name} returned NaN or infinity: it read what nobody wrote")
            self._judge_layer(layer, out, k_pages[layer], v_pages[layer])
        for row, got, want in zip(self.step.rows, read.tolist(), self.read, strict=True):
            if row.live:
                require(close(got, want, "float64"), f"{self.name} says {row} read {got} KV tokens, it reads {want}")
        self._judge_scores(choice)

    def _judge_layer(self, layer: int, out: Tensor, k_pages: Tensor, v_pages: Tensor) -> None:
        g, step = self.g, self.step
        q, keys, values = self._appended(layer)
        self._judge_pool(layer, keys, values, k_pages, v_pages)
        longest = max(row.start + row.live for row in step.rows)
        scores = torch.zeros(g.groups, len(step.rows), longest, dtype=torch.float64)
        first = 0
        for b, row in enumerate(step.rows):
            ends = scored_queries(row.live, g.scored) if row.scored else []
            for j in range(row.n_query):
                got = out[first + j]
                if j >= row.live:
                    require(not got.any(), f"{self.name}: the dead query {j} of {row} did not give 0")
                    continue
                for head in range(g.n_heads):
                    read = self._read(layer, row, j, head, q[first + j][head], keys[row.seat], values[row.seat])
                    right = close(got[head], torch.tensor(read.out, dtype=torch.float64), self.dtype)
                    require(right, f"{self.name}: query {j}, head {head} of {row} is wrong in layer {layer}")
                    if j in ends:
                        group = head * g.groups // g.n_heads
                        share = g.groups / (g.n_heads * len(ends))
                        for t, p in read.probability.items():
                            scores[group, b, t] += p * share
            self.read[b] += self._n_read(layer, row) / g.n_layers
            first += row.n_query
        self.expected_scores.append(scores)

    def _appended(self, layer: int) -> tuple[list[Any], dict[int, Any], dict[int, Any]]:
        """Return rotated queries by token, and keys and values by seat, position and head."""
        step, g = self.step, self.g
        cos, sin = (table.to(torch.float64).tolist() for table in step.side.rope)
        qs, ks, vs = (x.to(torch.float64).tolist() for x in step.qkv[layer])
        norms = [
            w if w is None else w.to(torch.float64).tolist() for w in (step.side.q_norm(layer), step.side.k_norm(layer))
        ]
        queries: list[Any] = []
        keys, values = dict[int, Any](), dict[int, Any]()
        for row in step.rows:
            keys[row.seat], values[row.seat] = {}, {}
            for t in range(row.start):
                page = int(step.state.table[row.seat, t // g.page_size])
                keys[row.seat][t] = step.k_pages[layer, page, t % g.page_size].to(torch.float64).tolist()
                values[row.seat][t] = step.v_pages[layer, page, t % g.page_size].to(torch.float64).tolist()
            for j in range(row.n_query):
                i, t = len(queries), row.start + j if j < row.live else 0
                eps = step.side.rms_eps
                queries.append([rotate_plainly(norm_plainly(x, norms[0], eps), cos[t], sin[t]) for x in qs[i]])
                if j < row.live:
                    keys[row.seat][t] = [rotate_plainly(norm_plainly(x, norms[1], eps), cos[t], sin[t]) for x in ks[i]]
                    values[row.seat][t] = vs[i]
        return queries, keys, values

    def _judge_pool(self, layer: int, keys: Any, values: Any, k_pages: Tensor, v_pages: Tensor) -> None:
        """Raise unless exactly the live tokens were written, and page 0 only by dead ones."""
        step, g = self.step, self.g
        touched = torch.zeros(k_pages.shape[:2], dtype=torch.bool)
        touched[0] = True
        for row in step.rows:
            for t in range(row.start, row.start + row.live):
                page, at = int(step.state.table[row.seat, t // g.page_size]), t % g.page_size
                touched[page, at] = True
                right = close(k_pages[page, at], keys[row.seat][t], self.dtype)
                right = right and close(v_pages[page, at], values[row.seat][t], self.dtype)
                require(right, f"{self.name}: the KV of position {t} of {row} is wrong in layer {layer}")
        for got, before in ((k_pages, step.k_pages[layer]), (v_pages, step.v_pages[layer])):
            same = torch.allclose(got[~touched], before[~touched], rtol=0, atol=0, equal_nan=True)
            require(same, f"{self.name} wrote KV where no live token stands, in layer {layer}")

    def _positions(self, layer: int, row: RowAt, head: int, now: int) -> list[int]:
        if row.phase is not Phase.DRAFT:
            return list(range(now + 1))
        chosen = self.step.choice.layers[layer]
        group = head * self.g.groups // self.g.n_heads
        picked = chosen.positions[group, row.seat, : int(chosen.counts[row.seat])].tolist()
        return picked + list(range(int(chosen.tail_from[row.seat]), now + 1))

    def _read(self, layer: int, row: RowAt, j: int, head: int, q: Any, keys: Any, values: Any) -> Read:
        kv_head = head * self.g.n_kv_heads // self.g.n_heads
        at = self._positions(layer, row, head, row.start + j)
        scale = self.g.head_dim**-0.5
        return attend_plainly(q, {t: keys[t][kv_head] for t in at}, {t: values[t][kv_head] for t in at}, scale)

    def _n_read(self, layer: int, row: RowAt) -> int:
        """Return how many KV tokens a list of the row reads, its newest query counted."""
        return len(self._positions(layer, row, 0, row.start + row.live - 1)) if row.live else 0

    def _judge_scores(self, choice: HandMade) -> None:
        """Raise unless scores were shown in all layers or, where no row is scored, in none."""
        wanted = any(row.scored and row.live for row in self.step.rows) and any(self.g.scored)
        shown = sorted(choice.scores)
        right = shown == list(range(self.g.n_layers)) if wanted else all(not s.any() for s in choice.scores.values())
        require(right, f"{self.name} showed scores in layers {shown}, and rows to score are there: {wanted}")
        for layer in shown if wanted else ():
            right = close(choice.scores[layer], self.expected_scores[layer], self.dtype)
            require(right, f"{self.name}: the scores of layer {layer} are not the mean probabilities of scored queries")
