"""The engine: one step, whatever is plugged in and whichever loop runs.

The host says which requests run and what they do; the device knows where. Whatever touches a device tensor is a launch;
results are collected when their event has passed, and find their request by its number. Data goes down as arguments and
results come back as return values: no component calls back into another.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np

from sparsespec.core.device import Device
from sparsespec.core.errors import EngineClosed, SparseSpecError
from sparsespec.core.loops import LOOPS
from sparsespec.core.params import SamplingParams
from sparsespec.core.plan import Placed, StepPlan, check_plan
from sparsespec.core.result import RowResults
from sparsespec.core.seeds import derive_seed
from sparsespec.core.spec import SHELVES, EngineSpec
from sparsespec.core.view import Bools, View
from sparsespec.engine.compose import check_arguments, compose, engine_spec_of, exact_of
from sparsespec.engine.cuda import CudaDevice
from sparsespec.engine.executor import Executor
from sparsespec.engine.in_flight import FailedStep, StepOutput, row_width
from sparsespec.engine.lazy import LazyDevice
from sparsespec.engine.ledger import Ledger, check_room, within_memory
from sparsespec.engine.output_processor import OutputProcessor
from sparsespec.engine.outputs import NO_RESULTS, FinishReason, Mark, StepClock, StepInfo, StepResult, StepSeconds
from sparsespec.engine.pack import pack
from sparsespec.engine.parts import Parts
from sparsespec.engine.policy_calls import Failures, observe, propose
from sparsespec.engine.request import Request
from sparsespec.engine.request_queue import RequestQueue
from sparsespec.engine.request_table import VACANT, RequestTable, Shared
from sparsespec.engine.sizes import Options, geometry_of
from sparsespec.engine.text_stream import Decoder
from sparsespec.engine.validation import check_request, params_of, tokens_of
from sparsespec.kv.pool import KVPool
from sparsespec.metrics.seats import SeatCounts
from sparsespec.models.transformer import Transformer

_log = logging.getLogger(__name__)


class Engine:
    """Continuous batching with lossless self-speculation; make one with `Engine.compose`.

    Attributes:
        spec: The composition, as it can be stored and made again.
        geometry: The sizes all parts were bound to.
        default_sampling_params: How requests are sampled that do not say: as the model's generation_config.json does.
    """

    def __init__(
        self,
        model: Transformer,
        parts: Parts,
        loop: str,
        options: Options,
        *,
        decoder: Callable[[], Decoder] | None = None,
        eos_ids: Iterable[int] | None = None,
        device: Device | None = None,
        pool: KVPool | None = None,
    ) -> None:
        self.geometry = geometry_of(model, parts, options)
        self.spec = engine_spec_of(parts, loop, options)
        self.default_sampling_params = model.config.default_sampling_params
        self._model = exact_of(model, parts) if options.exact else model
        self._parts, self._options, self._loop = parts, options, LOOPS[loop]
        self._decoder = decoder
        self._eos_ids = frozenset(model.config.eos_ids if eos_ids is None else eos_ids)
        self._device: Device = device or (CudaDevice(model.device) if model.device.type == "cuda" else LazyDevice())
        check_room(self.geometry, draft_logits="draft_probs" in parts.verifier.needs, pool=pool)
        self._pool = pool or KVPool(self.geometry)
        self._closed, self._pid = False, os.getpid()
        self._holders = {"weights": model, "KV": self._pool, **{shelf: getattr(parts, shelf) for shelf in SHELVES}}
        with within_memory(self._holders):
            parts.bind(self.geometry)
            parts.attention.bind(self.geometry, model, self._pool.k, self._pool.v)
            self._start()

    @classmethod
    def compose(
        cls,
        model: Transformer,
        base: str | EngineSpec = "dense",
        *,
        decoder: Callable[[], Decoder] | None = None,
        eos_ids: Iterable[int] | None = None,
        device: Device | None = None,
        pool: KVPool | None = None,
        **changes: Any,
    ) -> Self:
        """Make an engine from a preset (or a whole spec) and what should be different.

        Args:
            model: The model; its dtype is the engine's.
            base: Name of a preset, or a spec.
            decoder: Makes a fresh token decoder; without one, outputs have no text and stop strings are refused.
            eos_ids: Tokens that end an output; None takes the model's.
            device: Where launches run; None is where the model is.
            pool: KV pool of the right sizes to use, such as that of an engine that rests; None allocates one.
            **changes: Parts by shelf (name, compact string, spec or instance), `loop`, and the fields of `Options`.
        """
        check_arguments(model, decoder, eos_ids, device)
        made = compose(base, changes, model)
        return cls(model, *made, decoder=decoder, eos_ids=eos_ids, device=device, pool=pool)

    def add(
        self,
        prompt: Sequence[int],
        sampling_params: SamplingParams | None = None,
        *,
        stream: bool = True,
        n_computed: int = 0,
    ) -> int:
        """Queue a prompt and return its request id; raises `BadRequest` if it can never be served.

        Args:
            prompt: Token ids.
            sampling_params: How to sample; None takes `default_sampling_params`.
            stream: Report tokens in every step; False reports each sample's completion only, which costs less.
            n_computed: Positions of the prompt that count as filled, with whatever KV lies in the pages that they get:
                for benchmarks whose KV means nothing. At most all but the last.
        """
        self._check_open()
        params = params_of(sampling_params, self.default_sampling_params)
        prompt = tokens_of(prompt, self.geometry.vocab)
        has_text, verifier = self._decoder is not None, self._parts.verifier
        limit = check_request(prompt, params, self.geometry, verifier, has_text=has_text, n_computed=n_computed)
        self._begin()
        group = self._adding = self._n_groups
        seed = derive_seed(self._options.seed, group) if params.seed is None else params.seed
        stop_ids = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self._eos_ids)
        requests = [
            Request(self._n_requests + i, group, i, prompt, params, seed, limit, stop_ids, stream, n_computed)
            for i in range(params.n)
        ]
        self._n_groups += 1
        self._n_requests += params.n
        self._output_processor.add(requests)
        self._queue.add(requests)
        self._adding = None
        self._mark = self._mark._replace(call=self._call)
        return group

    def step(self) -> StepResult:
        """Run one step and return what became known; after an interrupt, what was in flight is computed again."""
        self._begin()
        self._output_processor.acknowledge(self._mark.step)
        parts, table, executor, clock = self._parts, self._table, self._executor, StepClock(self._executor.waited)
        self._end_copies()
        self._seat(self._queue.admit(parts.tiers, table.free_seats()))  # 1 requests that get seats
        view = self._begin_rounds(*table.view(self._step, parts.tiers, executor.in_flight))  # 2 what policies may see
        clock.lap("view")
        plan = parts.scheduler.plan(view)  # 3 which rows run, in which phase, with how many query tokens
        check_plan(plan, view)
        clock.lap("plan")
        placed, restored = self._place(plan, view)  # 4 pages; may spill, preempt, restore
        clock.lap("place")
        packed = pack(placed, table, self._step, self.geometry)  # 5 the one copy to the device
        executor.launch(packed, placed.fresh, (*placed.moves, *restored.moves))  # 6 select, forward, verify, settle
        table.note_launched(packed)
        clock.lap("launch")
        # a step that launches nothing has nothing to overlap with, and collects one step more
        output = executor.collect(self._loop.lag if placed.rows else 0)  # 7 results older than the loop's lag
        clock.lap("collect")
        results, n_output = self._process(output)  # 8 text, stops, finished requests; policies observe, pages return
        clock.lap("process")
        self._stuck = not (placed.rows or output)
        if self._options.checked:
            parts.tiers.check()
        return self._result(placed, restored, results, n_output, clock.seconds(executor.waited))  # 9

    def warm_up(self, progress: Callable[[int, int], object] = lambda done, total: None) -> None:
        """Record the graphs of steps without prefill before they are met; `progress` is told (done, all)."""
        self._check_open()
        if self._options.graphs:
            with within_memory(self._holders):
                self._executor.warm_up(progress)

    def abort(self, request_id: int) -> None:
        """End all samples of a request; what they have so far is their output. Unknown ids are ignored."""
        self._begin()
        for request in (*self._queue.waiting, *self._table.requests.values()):
            if request.group == request_id:
                self._end(request, "abort")
        self._mark = self._mark._replace(call=self._call)

    def reset(self) -> None:
        """Forget all requests and start as if newly made; numbers and derived seeds begin again."""
        self._check_open()
        self._call += 1  # until all is new, the next call would have something to mend
        self._executor.abandon()
        self._start()

    def close(self) -> None:
        """Drop everything; calling it twice is fine, anything else afterwards raises `EngineClosed`."""
        if not self._closed:
            self._closed = True
            self._executor.abandon()
            del self._pool, self._executor, self._output_processor, self._parts, self._model, self._holders

    @property
    def has_work(self) -> bool:
        """Whether a request waits or runs, a result or a page copy is in flight, or an event was not returned yet."""
        self._check_open()
        # what an interrupt has left half done is work too
        return self._call != self._mark.call or self._is_busy

    @property
    def pool(self) -> KVPool:
        """The KV pool, such as to give it to another engine of the same sizes while this one rests."""
        self._check_open()
        return self._pool

    @property
    def ledger(self) -> Ledger:
        """What is allocated at present, by component."""
        self._check_open()
        held = Ledger.of({**self._holders, **self._executor.memory})
        return Ledger((*held.entries, ("graphs", self._device.recorded_bytes)))

    @property
    def _is_busy(self) -> bool:
        queued, running = len(self._queue), len(self._table.requests)
        return bool(queued or running or self._executor.is_busy or self._output_processor.has_unreported)

    def _start(self) -> None:
        """Begin with empty seats, empty books and number 0."""
        parts, sizes = self._parts, self.geometry
        self._output_processor = OutputProcessor(sizes, self._decoder)
        parts.tiers.reset()
        self._stuck = False
        self._queue = RequestQueue()
        self._table = RequestTable(sizes, self._loop)
        self._counts = SeatCounts(sizes.n_seats, row_width(sizes))
        lag, graphs = self._loop.lag, bool(self._options.graphs)
        self._executor = Executor(self._device, self._model, parts, sizes, self._pool, lag=lag, graphs=graphs)
        self._forget(range(self.geometry.n_seats))
        self._n_groups = self._n_requests = self._step = 0
        self._call, self._mark, self._adding = 0, Mark(), None

    def _begin(self) -> None:
        """Begin a call that changes something, and mend what an interrupted one left half done."""
        self._check_open()
        if self._call != self._mark.call:
            self._recover()
        self._call += 1

    def _recover(self) -> None:
        """Begin anew from what requests have said: what was in flight is computed again."""
        self._executor.abandon()
        for seat, request in list(self._table.requests.items()):
            if request.completion is None and request.seat == seat:
                self._counts.write(seat, request.metrics)
                self._counts.clear(seat)
        alive = self._output_processor.recover(self._adding)
        self._adding, self._stuck = None, False
        self._parts.tiers.reset()
        self._table = RequestTable(self.geometry, self._loop)
        self._forget(range(self.geometry.n_seats))
        self._queue = RequestQueue(alive)
        _log.info("a call was interrupted; %d requests go on from what they have said", len(alive))

    def _end_copies(self) -> None:
        """Tell the tier manager which copies have ended, all of them if there was nothing else to wait for."""
        for moves, failed in self._executor.ended_copies(wait=self._stuck):
            self._parts.tiers.moved(moves, failed=failed)

    def _seat(self, admitted: Sequence[Request]) -> None:
        """Tell all components about requests that got seats."""
        self._table.enter(admitted)
        self._output_processor.begin(admitted)
        self._executor.seat(admitted)
        for request in admitted:
            self._counts.clear(request.seat)
            self._forget([request.seat])

    def _begin_rounds(self, view: View, shared: Sequence[Shared]) -> View:
        """Ask the length policy about the rounds that begin, and return the view that holds their lengths."""
        self._executor.share(shared)
        answers, failures = propose(self._parts.length, view, self._table.starting(view))
        for index, lengths in answers:
            view = self._table.begin_rounds(view, index, lengths)
        failed = self._fail_seats(failures)
        return self._table.without(view, failed) if failed else view

    def _place(self, plan: StepPlan, view: View) -> tuple[Placed, Placed]:
        """Find pages for a plan, and restore spilled requests if none starved; note which requests lost pages."""
        tiers, table = self._parts.tiers, self._table
        placed = tiers.place(plan, view)
        restored = tiers.restore(view) if len(placed.rows) == len(plan.rows) else Placed()
        self._counts.recomputed(*table.note_placed(plan, placed))
        for preempted in (placed.preempted, restored.preempted):
            table.note_lost(preempted)
            self._counts.preempted(np.array(preempted, dtype=np.int64))
            self._executor.lose(preempted)
        self._executor.restore(restored.table)
        return placed, restored

    def _process(self, output: StepOutput | FailedStep | None) -> tuple[RowResults, int]:
        """Take in what a step brought back; return the outcomes of requests that were seated, and new output tokens."""
        table = self._table
        if output is None:
            return NO_RESULTS, 0
        if isinstance(output, FailedStep):
            for request in table.hit_by(output.packed, self._parts.tiers):
                self._fail(request, output.error)
            return NO_RESULTS, 0
        rows, broken = table.collect(output)
        for request in broken:
            self._fail(request, SparseSpecError("the model's logits were not finite"))
        results = output.results(rows)
        processed = self._output_processor.process(results, table.requests)
        # tokens behind a stop were trimmed: they count neither as output nor as what dense would have read
        self._counts.add(results, processed.kept)
        for request in processed.finished:
            self._leave(request)
        for request, error in processed.failed:
            self._fail(request, error)
        # a row that emitted less than it might have may hold pages that it needs no more
        short = output.emitted[rows] < output.packed.decoding.n_query[rows]
        self._learn(results, short)
        return results, int(processed.kept.sum())

    def _learn(self, results: RowResults, short: Bools) -> None:
        """Let policies observe, and release pages behind what can be known of rows that came out `short` [R]."""
        stays = self._table.number[results.seat] != VACANT
        if not stays.all():
            results, short = results.take(stays), short[stays]
        self._fail_seats(observe((self._parts.length.observe, self._parts.scheduler.observe), results))
        seats = results.seat[short & (self._table.number[results.seat] != VACANT)]
        if len(seats):
            bounds = self._table.bounds(self._executor.in_flight)
            self._parts.tiers.commit(seats, bounds.n_hi[seats] - 1 + bounds.d_hi[seats])

    def _forget(self, seats: Sequence[int]) -> None:
        """Let all policies forget `seats`."""
        self._parts.length.reset(seats)
        self._parts.scheduler.reset(seats)
        self._executor.forget(seats)

    def _fail_seats(self, failures: Failures) -> list[Request]:
        """End the requests on some seats by what was raised on their account; return them."""
        failed = [self._table.requests[seat] for seat, _ in failures]
        for request, (_, error) in zip(failed, failures, strict=True):
            self._fail(request, error)
        return failed

    def _fail(self, request: Request, error: Exception) -> None:
        if request.completion is None:
            self._end(request, "error", f"{type(error).__name__}: {error}")

    def _end(self, request: Request, reason: FinishReason, error: str | None = None) -> None:
        self._output_processor.end(request, reason, error)
        self._leave(request)

    def _leave(self, request: Request) -> None:
        """Take a request that ended off its seat, or out of the queue."""
        if request.seat < 0:
            self._queue.remove(request)
            return
        self._counts.write(request.seat, request.metrics)
        self._parts.tiers.forget(request.seat)
        self._table.leave(request.seat)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosed("the engine is closed; compose a new one")
        if os.getpid() != self._pid:
            raise EngineClosed("this engine was made before the process was forked; make one in each process")

    def _result(
        self, placed: Placed, restored: Placed, results: RowResults, n_output: int, seconds: StepSeconds
    ) -> StepResult:
        tiers = self._parts.tiers
        info = StepInfo(
            step=self._step,
            placed=placed,
            collected=results,
            n_output=n_output,
            n_waiting=len(self._queue),
            n_running=len(self._table.requests),
            free_pages=tiers.free_pages(),
            host_pages=tiers.host_pages(),
            moving_pages=tiers.moving_pages(),
            moves=(*placed.moves, *restored.moves),
            seconds=seconds,
        )
        result = StepResult(self._output_processor.take(self._step, self._mark.step), not self._is_busy, info)
        self._step += 1
        self._mark = Mark(self._call, info.step)
        return result
