"""Ways in which an engine can be wrong, each of which was made by somebody once: the tests of the tests.

A mutant patches one thing, and finishes requests all the same. `tests/laws/test_mutants.py` asks that a law catches
it, and which.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from sparsespec.core import plan
from sparsespec.core.noise import Key
from sparsespec.core.plan import Phase
from sparsespec.core.view import View
from sparsespec.engine import engine, executor, graph_runner, lazy, output_processor, request_table, state
from sparsespec.kernels.verify_inputs.api import per_logit_row
from sparsespec.kv import mover, two_tiers
from sparsespec.kv.paged import Paged
from sparsespec.policies.selectors.pillar import Pillar
from sparsespec.policies.selectors.selection import Stored
from sparsespec.policies.selectors.window import Window
from sparsespec.sampling.match import match
from sparsespec.sampling.shared_noise import SharedNoise
from sparsespec.testing.cases import Case
from tests.laws.bites import crowds, drafts, forks, lags, pads, queues, spills, uses

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutant:
    """One way to be wrong.

    Attributes:
        name: What is wrong.
        inject: Patches it in.
        laws: Who may catch it.
        bites: Which cases it can show in at all.
    """

    name: str
    inject: Callable[[Patch], None]
    laws: frozenset[str]
    bites: Callable[[Case], bool]


def verify_leaves_draft_kv(patch: Patch) -> None:
    def lay_out(batch: Any, n_tokens: int, block_size: int) -> None:
        original(batch, n_tokens, block_size)
        # the last draft, and guesses, have no KV yet that could be left in place
        first, end = batch.start[batch.row_of], (batch.start + batch.live)[batch.row_of]
        drafted = ((batch.phase == Phase.VERIFY) & (batch.k > 0))[batch.row_of]
        drafted &= (batch.positions > first) & (batch.positions < end - 1)
        batch.slots = torch.where(drafted, 0, batch.slots)

    original = graph_runner.lay_out
    patch.setattr(graph_runner, "lay_out", lay_out)


def host_peeks(patch: Patch) -> None:
    states: dict[int, Any] = {}
    original = engine.Engine._start

    def start(self: engine.Engine) -> None:
        original(self)
        states[id(self._table)] = self._executor._state

    def bounds(self: request_table.RequestTable, in_flight: Any) -> request_table.Bounds:
        now = states[id(self)]
        n, d = now.n_committed.numpy().copy(), now.n_drafted.numpy().copy()
        return request_table.Bounds(n, n, d, d)

    patch.setattr(engine.Engine, "_start", start)
    patch.setattr(request_table.RequestTable, "bounds", bounds)


def capacity_from_lower_bound(patch: Patch) -> None:
    def queries(view: View, i: Any) -> Any:
        return 1 + np.where(view.k[i] > 0, np.minimum(view.k[i], view.d_lo[i]), view.guess[i])

    patch.setattr(plan, "_verify_queries", queries)


def tail_starts_behind_round(patch: Patch) -> None:
    def select(self: Window, batch: Any) -> Stored:
        chosen = original(self, batch)
        chosen.tail_from = batch.state.n_committed + 1
        return chosen

    original: Any = Window.select
    patch.setattr(Window, "select", select)


def stop_only_at_the_end_of_a_run(patch: Patch) -> None:
    original = output_processor.OutputProcessor.process

    def process(self: output_processor.OutputProcessor, results: Any, requests: Any) -> Any:
        # a stop is looked for in the last token of each row only
        flags, self._may_stop = self._may_stop, np.zeros_like(self._may_stop)
        last = results.tokens[np.arange(len(results)), np.maximum(results.n_emitted - 1, 0)]
        self._may_stop[last] = flags[last]
        inside = np.arange(results.tokens.shape[1]) < results.n_emitted[:, None] - 1
        hidden = np.where(inside & self._may_stop[results.tokens], -1, results.tokens)
        shown = dataclasses.replace(results, tokens=hidden)
        self._may_stop[-1] = False
        try:
            processed = original(self, shown, requests)
        finally:
            self._may_stop = flags
        return processed

    patch.setattr(output_processor.OutputProcessor, "process", process)


def noise_by_committed_count(patch: Patch) -> None:
    def verify(self: SharedNoise, logits: Any, rows: Any, q: Any) -> Any:
        at = per_logit_row(rows, len(logits), impl="reference")
        key = Key(at.seed, at.sample_index, rows.n_committed[at.row], torch.zeros_like(at.seed))
        return match(self.sample(logits, at, key), at, rows)

    patch.setattr(SharedNoise, "verify", verify)


def tail_released_to_what_was_collected(patch: Patch) -> None:
    original = engine.Engine._learn

    def learn(self: engine.Engine, *args: Any) -> None:
        known = self._table
        bounds = request_table.Bounds(known.n_committed, known.n_committed, known.n_drafted, known.n_drafted)
        with pytest.MonkeyPatch.context() as within:
            within.setattr(known, "bounds", lambda in_flight: bounds)
            original(self, *args)

    patch.setattr(engine.Engine, "_learn", learn)


def selection_names_rejected_positions(patch: Patch) -> None:
    original = Pillar.observe

    def observe(self: Pillar, outcome: Any) -> None:
        batch = outcome.batch
        rejected = torch.where(batch.phase == Phase.VERIFY, batch.live - outcome.emitted, 0)
        batch.state.n_committed[batch.seat] += rejected
        original(self, outcome)
        batch.state.n_committed[batch.seat] -= rejected

    patch.setattr(Pillar, "observe", observe)


def results_go_to_the_seat(patch: Patch) -> None:
    original = request_table.RequestTable.collect

    def collect(self: request_table.RequestTable, output: Any) -> Any:
        seat, number = output.packed.rows.seat, output.packed.number
        now = np.where(self.number[seat] == request_table.VACANT, number, self.number[seat])
        packed = dataclasses.replace(output.packed, number=now)
        return original(self, dataclasses.replace(output, packed=packed))

    patch.setattr(request_table.RequestTable, "collect", collect)


def partial_page_is_shared(patch: Patch) -> None:
    original = Paged.share
    patch.setattr(
        Paged,
        "share",
        lambda self, seat, owner, n_pages: original(self, seat, owner, min(n_pages + 1, self.pages(owner))),
    )


def drafting_goes_on_after_preemption(patch: Patch) -> None:
    original = request_table.RequestTable._wake

    def _wake(self: request_table.RequestTable, in_flight: Any) -> None:
        original(self, in_flight)
        self.must_verify[:] = False

    patch.setattr(request_table.RequestTable, "_wake", _wake)


def seat_is_reset_at_once(patch: Patch) -> None:
    def seat(self: executor.Executor, requests: Any) -> None:
        for request in requests:
            state.seat_request(self._state, request, request.seat)

    patch.setattr(executor.Executor, "seat", seat)


def padding_writes_over_a_token(patch: Patch) -> None:
    original = graph_runner.lay_out

    def lay_out(batch: Any, n_tokens: int, block_size: int) -> None:
        original(batch, n_tokens, block_size)
        behind = torch.arange(n_tokens) >= (batch.offset + batch.n_query).max()
        # as if it were the first token of the batch: its keys are overwritten by what padding computes
        batch.slots = torch.where(behind, batch.slots[0], batch.slots)

    patch.setattr(graph_runner, "lay_out", lay_out)


def copies_run_ahead(patch: Patch) -> None:
    original = lazy.LazyDevice.launch

    def launch(self: lazy.LazyDevice, fn: Any, stream: Any = "main", after: Any = ()) -> Any:
        return original(self, fn, stream, () if stream == "side" else after)

    patch.setattr(lazy.LazyDevice, "launch", launch)


def copies_are_over_when_they_begin(patch: Patch) -> None:
    original = mover.Mover.moving

    @contextmanager
    def moving(self: mover.Mover, moves: Any) -> Any:
        with original(self, moves):
            yield
        begun.extend((copy.moves, None) for copy in self._copies)
        self._copies.clear()

    def ended(self: mover.Mover, *, wait: bool) -> Any:
        while begun:
            yield begun.pop(0)

    begun: list[Any] = []
    patch.setattr(mover.Mover, "moving", moving)
    patch.setattr(mover.Mover, "ended", ended)


def copies_take_the_next_page(patch: Patch) -> None:
    original = two_tiers.TwoTiers._fetch

    def _fetch(self: two_tiers.TwoTiers, seat: int, block: int, table: Any) -> Any:
        move = original(self, seat, block, table)
        return move._replace(host_page=max(1, move.host_page - 1))

    patch.setattr(two_tiers.TwoTiers, "_fetch", _fetch)


def _mutant(inject: Callable[[Patch], None], bites: Callable[[Case], bool], *laws: str) -> Mutant:
    return Mutant(inject.__name__, inject, frozenset(laws), bites)


MUTANTS = (
    _mutant(verify_leaves_draft_kv, drafts, "KV truth", "exact tokens"),
    _mutant(host_peeks, lags, "capacity", "NaN poison", "page books"),
    _mutant(capacity_from_lower_bound, lags, "capacity"),
    _mutant(tail_starts_behind_round, uses("window"), "selection contract"),
    _mutant(stop_only_at_the_end_of_a_run, drafts, "exact tokens"),
    _mutant(noise_by_committed_count, drafts, "exact tokens"),
    _mutant(tail_released_to_what_was_collected, lags, "KV truth", "NaN poison", "page books"),
    _mutant(selection_names_rejected_positions, uses("pillar"), "selection contract"),
    _mutant(
        results_go_to_the_seat,
        lambda case: lags(case) and queues(case),
        "routing",
        "exact tokens",
        "selection contract",
    ),
    _mutant(partial_page_is_shared, forks, "KV truth", "exact tokens"),
    _mutant(drafting_goes_on_after_preemption, lambda case: drafts(case) and crowds(case), "NaN poison"),
    _mutant(seat_is_reset_at_once, lambda case: case.spec.loop != "sync", "NaN poison", "exact tokens", "KV truth"),
    _mutant(padding_writes_over_a_token, pads, "exact tokens", "KV truth", "selection contract"),
    _mutant(
        copies_run_ahead,
        lambda case: spills(case) and lags(case) and case.early > 0,
        "KV truth",
        "exact tokens",
        "NaN poison",
    ),
    _mutant(copies_are_over_when_they_begin, spills, "KV truth", "exact tokens", "NaN poison"),
    _mutant(copies_take_the_next_page, spills, "KV truth", "exact tokens", "NaN poison"),
)
