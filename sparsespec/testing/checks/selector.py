"""`check_selector`: is this a selector? It chooses legally whatever it is shown, and within its budget."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, Chosen, LayerKeys, Outcome
from sparsespec.core.config import kv_budget
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Phase
from sparsespec.core.spec import PartLike
from sparsespec.testing.checks.peeks import kept_promise
from sparsespec.testing.checks.stage import (
    RowAt,
    batch_of,
    make_part,
    require,
    require_untouched,
    rounds,
    small_geometry,
    snapshot,
    state_of,
)


def check_selector(spec: PartLike | object, *, examples: int = 4, seed: int = 0) -> None:
    """Raise `ContractBroken` if the selector breaks a promise.

    Args:
        spec: A name, a spec or an instance, of which a fresh copy is checked.
        examples: Random histories per number of KV heads.
        seed: Seed of the histories.
    """
    part = make_part("selector", spec)
    name = type(part).__name__
    wants = "scores" in part.needs
    require(len(part.scored) == 2 and min(part.scored) >= 0, f"{name}.scored must be two numbers of queries")
    require(wants == any(part.scored), f"{name}.scored is {part.scored}, which does not fit needs={set(part.needs)}")
    for heads in (1, 2, 4):
        try:
            lists = part.num_groups(heads)
        except BadOption:
            continue
        require(lists >= 1 and heads % lists == 0, f"{name}.lists({heads}) is {lists}, which does not divide it")
        for example in rounds(examples) if part.drafts else ():
            dice = random.Random(f"{seed}/{heads}/{example}")
            _History(make_part("selector", spec), heads, lists, dice).play()


class _History:
    """A few rounds of a few seats, and what the selector chose in them."""

    def __init__(self, part: Any, n_kv_heads: int, lists: int, dice: random.Random) -> None:
        self.part, self.name, self.dice = part, type(part).__name__, dice
        self.generator = torch.Generator().manual_seed(dice.randrange(1 << 31))
        self.geometry = small_geometry(
            n_kv_heads=n_kv_heads, n_heads=2 * n_kv_heads, groups=lists, scored=tuple(part.scored)
        )
        self.state = state_of(self.geometry, self.generator)
        self.wants = "scores" in part.needs
        self.scored: set[int] = set()
        part.bind(self.geometry)
        part.reset(range(self.geometry.n_seats))

    def play(self) -> None:
        """Fill, draft, verify; twice in the middle a seat changes hands."""
        seats = range(self.geometry.n_seats)
        for seat in seats:
            self._sit_down(seat)
        self._draft()
        for turn in range(6):
            busy = self.dice.sample(seats, self.dice.randint(1, len(seats)))
            self._settle(busy)
            before = self._draft()
            if turn in (2, 4):
                gone = self.dice.choice(seats)
                self.part.reset([gone])
                self.scored.discard(gone)
                self._same(before, self._draft(), [s for s in seats if s != gone])
                self._sit_down(gone)

    def _sit_down(self, seat: int) -> None:
        """Give `seat` to a new request; sometimes the end of its first fill is scored."""
        c = self.dice.choice((1, 2, 3, self.dice.randint(4, 40), self.dice.randint(20, 40)))
        self.state.n_committed[seat], self.state.n_drafted[seat], self.state.n_computed[seat] = c, 0, c - 1
        if c > 1 and self.dice.random() < 0.5:
            n = self.dice.randint(1, c - 1)
            row = RowAt(seat, Phase.PREFILL, n, c - 1 - n, n, scored=self.wants)
            self._observe(batch_of(self.geometry, self.state, [row]), {seat: 0})

    def _settle(self, seats: list[int]) -> None:
        """Verify rounds of `seats`, of which some committed more than others."""
        rows, emitted = [], {}
        for seat in seats:
            c, n = int(self.state.n_committed[seat]), self.dice.randint(1, 5)
            live = self.dice.randint(1, n)
            rows.append(RowAt(seat, Phase.VERIFY, n, c - 1, live, k=4, scored=self.wants))
            emitted[seat] = self.dice.randint(1, live)
        self._observe(batch_of(self.geometry, self.state, rows), emitted)

    def _observe(self, batch: Batch, emitted: dict[int, int]) -> None:
        """Let a step settle as the engine does: choose, see, move on, observe."""
        g, dead = self.geometry, self.dice.random() < 0.1
        with kept_promise(self.part):
            choice = self.part.select(batch)
        length = int((batch.start + batch.live).max())
        if self.wants and not dead:
            for layer in range(g.n_layers):
                choice.see(layer, self._scores(batch, length))
            self.scored |= set(batch.seat.tolist())
        elif dead:
            batch.live.zero_()
            emitted = dict.fromkeys(emitted, 0)
        counts = torch.tensor([emitted[s] for s in batch.seat.tolist()])
        drafted = self.state.n_drafted[batch.seat]
        self.state.n_committed[batch.seat] += counts
        self.state.n_drafted[batch.seat] = 0
        before = snapshot(self.state)
        with kept_promise(self.part):
            self.part.observe(Outcome(batch, counts, drafted))
        require_untouched(self.state, before, f"{self.name}.observe")

    def _scores(self, batch: Batch, length: int) -> Tensor:
        """Return random probabilities; rejected positions get the most, which must tempt nobody."""
        g = self.geometry
        scores = torch.rand(g.groups, batch.n_rows, length, generator=self.generator, dtype=torch.float64) ** 4
        end = (batch.start + batch.live)[:, None]
        column = torch.arange(length)
        scores = torch.where(column >= end - 2, scores + 5, scores)
        return torch.where(column < end, scores, 0).to(torch.float32)

    def _draft(self) -> list[Chosen]:
        """Ask for the selection of one DRAFT step of all seats and check it; returns it where it can be compared."""
        g, rows = self.geometry, []
        for seat in range(g.n_seats):
            c, n, d = int(self.state.n_committed[seat]), self.dice.randint(1, 3), self.dice.randint(0, 2)
            self.state.n_drafted[seat] = d
            rows.append(RowAt(seat, Phase.DRAFT, n, c - 1 + d, self.dice.randint(0, n), k=6))
        batch = batch_of(g, self.state, rows)
        shape = (g.num_gpu_blocks, g.block_size, g.n_kv_heads, g.head_dim)
        keys = LayerKeys(torch.randn(shape, generator=self.generator, dtype=torch.float64), batch)
        q = torch.randn((len(batch.tokens), g.n_heads, g.head_dim), generator=self.generator, dtype=torch.float64)
        before = snapshot(self.state)
        with kept_promise(self.part):
            choice, again = self.part.select(batch), self.part.select(batch)
            layers = [choice.at(layer, q, keys) for layer in range(g.n_layers)]
            twice = [again.at(layer, q, keys) for layer in range(g.n_layers)]
        require_untouched(self.state, before, f"{self.name}.select")
        # nothing is chosen for a row without live queries
        seats = [row.seat for row in rows if row.live]
        self._same(layers, twice, seats)
        for layer, chosen in enumerate(layers):
            self._check_layer(layer, chosen, layers[0], seats)
        if "step_query" in self.part.needs:
            return []
        # copies, because a selection may be a view of what the selector keeps
        return [Chosen(*(x.clone() for x in chosen)) for chosen in layers]

    def _check_layer(self, layer: int, chosen: Chosen, first: Chosen, seats: list[int]) -> None:
        g, where = self.geometry, f"{self.name} in layer {layer}"
        n_lists, n_seats, k_max = chosen.positions.shape
        require((n_lists, n_seats) == (g.groups, g.n_seats), f"{where} chose {tuple(chosen.positions.shape)} lists")
        whole = not (chosen.positions.is_floating_point() or chosen.counts.is_floating_point())
        require(whole and not chosen.tail_from.is_floating_point(), f"{where} chose positions that are no integers")
        for seat in seats:
            c, tail, count = int(self.state.n_committed[seat]), int(chosen.tail_from[seat]), int(chosen.counts[seat])
            who = f"{where}, seat {seat} with c={c}"
            require(tail == int(first.tail_from[seat]), f"{who}: the tail is not the same in all layers")
            require(0 <= tail <= c - 1, f"{who}: tail_from={tail} is not among 0 … c - 1")
            require(0 <= count <= k_max, f"{who}: {count} positions in lists of {k_max}")
            for positions in chosen.positions[:, seat, :count].tolist():
                ascending = all(a < b for a, b in pairwise(positions))
                require(ascending, f"{who}: positions are not distinct and ascending: {positions}")
                inside = not positions or (positions[0] >= 0 and positions[-1] < tail)
                require(inside, f"{who}: positions {positions} are not all below tail_from={tail}")
            self._check_budget(who, seat, c, tail, count, k_max)

    def _check_budget(self, who: str, seat: int, c: int, tail: int, count: int, k_max: int) -> None:
        everything = tail == 0 and count == 0
        if self.wants and seat not in self.scored:
            require(everything, f"{who}: was never scored, so it must read everything, not {count} from {tail}")
        if not hasattr(self.part, "budget") or (self.wants and everything):
            return
        budget, least = self.part.budget, getattr(self.part, "min_budget", 0)
        may, reads = kv_budget(c - 1, budget, least), count + c - 1 - tail
        require(reads <= may, f"{who}: reads {reads} positions below c - 1, its budget is {may}")
        widest = kv_budget(self.geometry.max_model_len, budget, least)
        require(k_max <= max(widest, 1), f"{who}: lists of {k_max} are wider than the budget ever needs, {widest}")

    def _same(self, a: list[Chosen], b: list[Chosen], seats: list[int]) -> None:
        """Raise unless both choose alike for `seats`."""
        for x, y in zip(a, b, strict=False):
            for seat in seats:
                n = int(x.counts[seat])
                same = n == int(y.counts[seat]) and torch.equal(x.tail_from[seat], y.tail_from[seat])
                same = same and torch.equal(x.positions[:, seat, :n], y.positions[:, seat, :n])
                require(same, f"{self.name} changed its choice for seat {seat}, whose scores and c did not change")
