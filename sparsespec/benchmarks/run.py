"""Brings one composition to its steady state and measures it there: prefill, warm-up and drain are not measured."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsespec.benchmarks.breakdown import breakdown
from sparsespec.benchmarks.entries import Entry
from sparsespec.benchmarks.limit import Machine
from sparsespec.benchmarks.load import PROFILED, Load, sizes
from sparsespec.benchmarks.meter import Tally, timed_device
from sparsespec.benchmarks.prompts import Prompts
from sparsespec.benchmarks.report import Row
from sparsespec.benchmarks.result import Measured, limits, row_of
from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption, SparseSpecError
from sparsespec.core.params import SamplingParams
from sparsespec.core.plan import PREFILL, VERIFY, StepPlan
from sparsespec.core.protocols import Scheduler
from sparsespec.core.registry import make
from sparsespec.core.result import RowResults
from sparsespec.core.spec import EngineSpec, PartSpec
from sparsespec.core.view import View
from sparsespec.engine.engine import Engine
from sparsespec.engine.outputs import StepResult
from sparsespec.kv.pool import KVPool
from sparsespec.models.transformer import Transformer
from sparsespec.sched.prefill import prefill_rows

PIECE = 1 << 26
"""Numbers that are drawn at once."""
CHUNK = 256
"""Prompt tokens of a step, where a scheduler has no chunk of its own."""


def fill_randomly(pool: KVPool, seed: int) -> None:
    """Fill a pool with normal numbers, in place and a piece at a time: with random weights only sizes matter."""
    generator = torch.Generator(pool.kv.device).manual_seed(seed)
    piece: Tensor
    for piece in pool.kv.view(-1).split(PIECE):
        piece.normal_(generator=generator)


class FillFirst:
    """Another scheduler, behind all prefill: while `filling`, no request decodes before all prompts are filled.

    Args:
        scheduler: The other one, as a preset writes it.
        chunk: Prompt tokens of a step while `filling`; None takes the other scheduler's.

    Attributes:
        filling: Whether prompts come first.
        arrival: Number of the request that was last seen on each seat, -1 for none, [seats].
    """

    # what the other scheduler needs is checked where entries are made
    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

    def __init__(self, scheduler: str, chunk: int | None = None) -> None:
        self.scheduler, self.filling = scheduler, False
        self._other: Scheduler = make(PartSpec.of(scheduler, "scheduler"))
        self.chunk: int = chunk or getattr(self._other, "chunk", CHUNK)

    def bind(self, geometry: Geometry) -> None:
        """Learn the sizes."""
        self.arrival = np.full(geometry.n_seats, -1)
        self._other.bind(geometry)

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats."""
        self._other.reset(seats)

    def plan(self, view: View) -> StepPlan:
        """Plan prefill alone, where it comes first and there is any; else what the other scheduler plans."""
        self.arrival[view.seat] = view.arrival
        if self.filling and view.to_prefill.any():
            return StepPlan(prefill_rows(view, self.chunk))
        return self._other.plan(view)

    def observe(self, results: RowResults) -> None:
        """Let the other scheduler learn."""
        self._other.observe(results)


class Bench:
    """One composition, from its engine to its row."""

    def __init__(self, model: Transformer, entry: Entry, load: Load, accept: float | None) -> None:
        self.model, self.entry, self.load = model, entry, load
        self.device = timed_device(model.device)
        self.lengths = load.lengths(entry)
        # measuring ends before a request does, so that no round is cut short by its end
        self.room = 0 if load.turnover else 2 * (entry.draft + entry.guess + 1)
        changes: dict[str, Any] = sizes(load, self.lengths, self.room) | entry.composed(accept)
        self.scheduler = FillFirst(str(entry.spec.scheduler))
        changes["scheduler"] = self.scheduler
        self.engine = Engine.compose(model, entry.preset, device=self.device, eos_ids=(), **changes)
        # output tokens by seat, which are those of requests as long as seats are not given anew
        self.n_output = np.zeros(self.engine.geometry.n_seats, dtype=np.int64)

    @property
    def spec(self) -> EngineSpec:
        """The composition, with the scheduler that does the planning."""
        return self.engine.spec.replace(scheduler=self.entry.spec.scheduler)

    def start(self, prompts: Prompts, *, weights: str) -> None:
        """Seat the first requests with their KV, real or not."""
        self.engine.warm_up(_progress("recording graphs"))
        random = weights == "random"
        if random:
            fill_randomly(self.engine.pool, self.load.seed)
        for i, prompt in enumerate(prompts([context for context, _ in self.lengths])):
            most = self.most_tokens(len(prompt), self.lengths[i][1])
            params = SamplingParams(temperature=self.load.temperature, max_tokens=most, ignore_eos=True, seed=None)
            n_computed = self._n_computed(i, len(prompt)) if random else 0
            self.engine.add(prompt, params, stream=False, n_computed=n_computed)
        if random:
            self.step()
        else:
            self._prefill()
        # what is there stays: a full collection in the middle would look at all of it, and take as long as many steps
        gc.collect()
        gc.freeze()

    def most_tokens(self, context: int, output: int) -> int:
        """Return `max_tokens` of a request whose output is to have `output` tokens."""
        return output + self.room

    def step(self) -> StepResult:
        """Run one step; raises if a request broke off."""
        result = self.engine.step()
        for event in result.events:
            if event.completion is not None and event.completion.error:
                raise SparseSpecError(f"a request broke off: {event.completion.error}")
        self.count(result)
        return result

    def count(self, result: StepResult) -> None:
        """Count the tokens that a step committed."""
        rows = result.info.collected
        verify = rows.phase == VERIFY
        self.n_output[rows.seat[verify]] += rows.n_emitted[verify]

    def measure(self) -> Tally:
        """Run the warm-up and the measured steps."""
        load, tally = self.load, Tally()
        for _ in range(load.warmup):
            self.step()
            self._check_steady("during warm-up")
        self.device.watching = True
        begin = last = perf_counter()
        while tally.launched < load.steps and last - begin < load.seconds:
            result = self.step()
            now = perf_counter()
            if result.idle or self.is_over:
                break
            tally.add(result, now - last)
            last = now
        self.device.watching = False
        if not tally.launched:
            self._check_steady("at once")
            raise BadOption(f"nothing was launched within {load.seconds:g} s; raise --seconds")
        return tally

    def close(self) -> None:
        """Release the engine's memory."""
        gc.unfreeze()
        self.engine.close()
        del self.engine
        clear(self.model)

    @property
    def is_over(self) -> bool:
        """Whether the steady state is over, because a request has the output of the shortest one."""
        least = min(output for _, output in self.lengths)
        return not self.load.turnover and bool(self.n_output.max() >= least)

    def _n_computed(self, i: int, length: int) -> int:
        """Return how many positions of the prompt of request `i` count as filled."""
        if i < self.load.batch:
            # the warm-up gives the first ones a selection
            return length - 1
        if self.load.prefill:
            return 0
        # those that come later bring a selection along, as from a prefill: its last position is enough for that
        return max(0, length - 1 - int(self.entry.draft > 0))

    def _check_steady(self, when: str) -> None:
        if self.is_over:
            raise BadOption(
                f"the first request had all its {self.load.output[0]} tokens {when}, and nothing was measured; "
                "raise --output or lower --warmup"
            )

    def _prefill(self) -> None:
        """Fill all prompts before any request decodes, so that all begin together."""
        bar, n_tokens = _progress("prefill"), sum(context for context, _ in self.lengths[: self.load.batch])
        done = 0
        self.scheduler.filling = True
        while (n_filled := filled_in(self.step())) > 0:
            done += n_filled
            bar(done, n_tokens)
        self.scheduler.filling = False


def filled_in(result: StepResult) -> int:
    """Return how many prompt positions a step fills."""
    rows = result.info.placed.rows
    return int(rows.n_query[rows.phase == PREFILL].sum())


def clear(model: Transformer) -> None:
    """Give back memory that is not used any more: what torch keeps for later looks taken to an engine."""
    gc.collect()
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


def run(
    model: Transformer,
    entry: Entry,
    *,
    load: Load,
    prompts: Prompts,
    weights: str,
    accept: float | None,
    profile: bool,
    machine: Callable[[], Machine] | None,
) -> Row:
    """Return the row of one composition."""
    on_gpu = model.device.type == "cuda"
    clear(model)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    begin = perf_counter()
    bench = Bench(model, entry, load, accept)
    try:
        bench.start(prompts, weights=weights)
        ready = perf_counter() - begin
        tally = bench.measure()
        measured = Measured(
            tally=tally,
            idle=bench.device.idle_share(),
            peak_bytes=torch.cuda.max_memory_allocated() if on_gpu else None,
            ready_seconds=ready,
        )
        row = row_of(
            bench.engine, bench.spec, entry, load, measured, simulated=accept is not None and not entry.is_dense
        )
        if profile and not bench.is_over:
            row["breakdown"] = breakdown(bench.step, PROFILED, row["step_ms"]["mean"])
    finally:
        bench.close()
    # products are timed where the pool was
    return row | (limits(row, machine()) if machine else {"roofline": None, "of_roofline": None})


def _progress(what: str) -> Callable[[int, int], None]:
    """Return what writes a line on a terminal's stderr over and over, and nothing elsewhere."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{what}: {done} of {total} ", end="" if done < total else "\n", file=sys.stderr, flush=True)

    return show
