"""Brings one composition to its steady state and measures it there: prefill, warm-up and drain stay outside."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

import torch

from bench.engine_breakdown import breakdown
from bench.engine_fill import Inside, draw_kv, filling_first
from bench.engine_limit import Machine
from bench.engine_load import PROFILED, Load, sizes
from bench.engine_meter import Clock, Tally, TimedCuda, TimedDevice, TimedLazy
from bench.engine_result import Measured, limits, row_of
from bench.engine_rows import Row
from bench.engine_subjects import Subject
from sparsespec.core.errors import BadOption, SparseSpecError
from sparsespec.core.params import SamplingParams
from sparsespec.core.plan import Phase
from sparsespec.engine.engine import Engine
from sparsespec.engine.outputs import StepResult
from sparsespec.models.transformer import Transformer

Prompts = Callable[[Sequence[int]], Iterator[list[int]]]
"""Makes a prompt of each length, always the same ones for the same lengths."""


class Bench:
    """One composition, from its engine to its row."""

    def __init__(self, model: Transformer, subject: Subject, load: Load, accept: float | None) -> None:
        self.model, self.subject, self.load = model, subject, load
        self.device: TimedDevice = TimedCuda(model.device) if model.device.type == "cuda" else TimedLazy()
        self.lengths = load.lengths(subject)
        # measuring ends before a request does, so that no round is cut short by its end
        room = 0 if load.turnover else 2 * (subject.draft + subject.guess + 1)
        changes: dict[str, Any] = sizes(load, self.lengths, room) | subject.composed(accept)
        self.room = room
        self.engine = Engine.compose(model, subject.preset, device=self.device, eos_ids=(), **changes)
        self.left: dict[int, int] = {}
        self.n_done = 0

    def start(self, prompts: Prompts, *, weights: str) -> None:
        """Seat the first requests with their KV, real or not."""
        self.engine.warm_up(_progress("recording graphs"))
        inside = Inside.of(self.engine)
        fill = None
        if weights == "random":
            draw_kv(inside, self.load.seed)
            fill = inside.seat_filled()
        for prompt, (_, output) in zip(prompts([c for c, _ in self.lengths]), self.lengths, strict=True):
            most = self.most_tokens(len(prompt), output)
            params = SamplingParams(temperature=self.load.temperature, max_tokens=most, ignore_eos=True, seed=None)
            self.left[self.engine.add(prompt, params)] = output
        if fill is None:
            self._prefill(inside)
        else:
            self.step()
            # the first ones have the warm-up to get a selection; who comes later brings one along, as from a prefill
            fill.leave = None if self.load.prefill else int(self.subject.draft > 0)
        # what is there stays: a full collection in the middle would look at all of it, and take as long as many steps
        gc.collect()
        gc.freeze()
        self.clock = Clock.of(self.engine, inside)

    def most_tokens(self, context: int, output: int) -> int:
        """Return how many tokens a request may say that will say `output`."""
        return output + self.room

    def step(self) -> StepResult:
        """Run one step; raises if a request broke off."""
        result = self.engine.step()
        for event in result.events:
            self.left[event.request_id] -= len(event.token_ids)
            if self.left[event.request_id] <= 0:
                self.n_done += 1
            if event.completion is not None and event.completion.error:
                raise SparseSpecError(f"a request broke off: {event.completion.error}")
        return result

    def measure(self) -> Tally:
        """Run the warm-up and the measured steps."""
        load, tally = self.load, Tally()
        for _ in range(load.warmup):
            self.step()
            self._check_steady("during warm-up")
        self.clock.start()
        self.device.waited, self.device.watching = 0.0, True
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
        self.clock = Clock()
        clear(self.model)

    @property
    def is_over(self) -> bool:
        """Whether the steady state is over, because a request has said all it should."""
        return bool(self.n_done and not self.load.turnover)

    def _check_steady(self, when: str) -> None:
        if self.is_over:
            raise BadOption(
                f"the first request had said its {self.load.output[0]} tokens {when}, and nothing was measured; "
                "raise --output or lower --warmup"
            )

    def _prefill(self, inside: Inside) -> None:
        """Fill all prompts before anybody decodes, so that all begin together."""
        bar, all_tokens = _progress("prefill"), sum(context for context, _ in self.lengths[: self.load.batch])
        done, filling = 0, True
        with filling_first(inside, getattr(inside.parts.scheduler, "chunk", 256)):
            while filling:
                rows = self.step().info.placed.rows
                filling = any(row.phase is Phase.PREFILL for row in rows)
                done += sum(row.n_query for row in rows if row.phase is Phase.PREFILL)
                bar(done, all_tokens)


def clear(model: Transformer) -> None:
    """Give back memory that nobody holds any more: what torch keeps for later looks taken to an engine."""
    gc.collect()
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


def run(
    model: Transformer,
    subject: Subject,
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
    bench = Bench(model, subject, load, accept)
    try:
        bench.start(prompts, weights=weights)
        ready = perf_counter() - begin
        tally = bench.measure()
        measured = Measured(
            tally=tally,
            host_seconds=dict(bench.clock.seconds),
            waited=bench.device.waited,
            idle=bench.device.idle_share(),
            peak_bytes=torch.cuda.max_memory_allocated() if on_gpu else None,
            ready_seconds=ready,
        )
        row = row_of(bench.engine, subject, load, measured, synthetic=accept is not None and not subject.is_dense)
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
