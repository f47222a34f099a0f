"""The engine: one round is nine lines, whatever is plugged in and whichever loop runs.

The host says who and what, the device knows where. Whatever touches a device tensor is a launch; results are heard
when their flight has landed, and find their request by identity.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np

from sparsespec.core.device import Device
from sparsespec.core.errors import EngineClosed
from sparsespec.core.params import SamplingParams
from sparsespec.core.plan import Phase, Placed, StepPlan, check_plan
from sparsespec.core.result import RowResult
from sparsespec.core.seeds import derive_seed
from sparsespec.core.spec import SHELVES, EngineSpec
from sparsespec.engine.compose import check_company, compose, exact_of, spec_of
from sparsespec.engine.cuda import CudaDevice
from sparsespec.engine.deck import Deck
from sparsespec.engine.desk import Desk
from sparsespec.engine.flight import row_width
from sparsespec.engine.intake import check_request, params_of, tokens_of
from sparsespec.engine.lazy import LazyDevice
from sparsespec.engine.ledger import Ledger, check_room, within_memory
from sparsespec.engine.listener import Listener
from sparsespec.engine.loops import LOOPS
from sparsespec.engine.outputs import FinishReason, StepInfo, StepResult
from sparsespec.engine.parts import Parts
from sparsespec.engine.request import Request
from sparsespec.engine.roster import Roster
from sparsespec.engine.sizes import Options, geometry_of
from sparsespec.engine.speaker import Speaker
from sparsespec.engine.text import Decoder
from sparsespec.kv.mover import Mover
from sparsespec.kv.pool import KVPool
from sparsespec.metrics.seats import SeatCounts
from sparsespec.models.transformer import Transformer

_log = logging.getLogger(__name__)


class Engine:
    """Continuous batching with lossless self-speculation; make one with `Engine.compose`.

    Attributes:
        spec: The composition, as it can be stored and made again.
        geometry: The sizes all parts were bound to.
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
    ) -> None:
        self.geometry = geometry_of(model, parts, options)
        self.spec = spec_of(parts, loop, options)
        self._model = exact_of(model, parts) if options.exact else model
        self._parts, self._options, self._loop = parts, options, LOOPS[loop]
        self._decoder = decoder
        self._eos_ids = frozenset(model.config.eos_ids if eos_ids is None else eos_ids)
        self._device: Device = device or (CudaDevice(model.device) if model.device.type == "cuda" else LazyDevice())
        check_room(self.geometry, laws="draft_probs" in parts.verifier.needs)
        self._pool = KVPool(self.geometry)
        self._closed = False
        self._holders = {"weights": model, "KV": self._pool, **{shelf: getattr(parts, shelf) for shelf in SHELVES}}
        with within_memory(self._holders):
            parts.bind(self.geometry)
            parts.attention.bind(self.geometry, model, self._pool.k, self._pool.v)
            self._mover = Mover(self._device, self._pool, self.geometry, parts.tiers.host_free_pages())
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
        **changes: Any,
    ) -> Self:
        """Make an engine from a preset (or a whole spec) and what should be different.

        Args:
            model: The model; its dtype is the engine's.
            base: Name of a preset, or a spec.
            decoder: Makes a fresh token decoder; without one, outputs have no text and stop strings are refused.
            eos_ids: Tokens that end an output; None takes the model's.
            device: Where launches run; None is where the model is.
            **changes: Parts by shelf (name, compact string, spec or instance), `loop`, and the fields of `Options`.
        """
        check_company(model, decoder, eos_ids, device)
        return cls(model, *compose(base, changes, model), decoder=decoder, eos_ids=eos_ids, device=device)

    def add(self, prompt: Sequence[int], params: SamplingParams | None = None) -> int:
        """Queue a prompt and return its request id; raises `BadRequest` if it can never be served."""
        self._alive()
        params, prompt = params_of(params), tokens_of(prompt, self.geometry.vocab)
        has_text = self._decoder is not None
        limit = check_request(prompt, params, self.geometry, self._parts.verifier, has_text=has_text)
        group = self._n_groups
        seed = derive_seed(self._options.seed, group) if params.seed is None else params.seed
        stop_ids = frozenset(params.stop_token_ids)
        if not params.ignore_eos:
            stop_ids |= self._eos_ids
        for sample in range(params.n):
            number = self._n_requests + sample
            self._desk.waiting.append(Request(number, group, sample, prompt, params, seed, limit, stop_ids))
        self._n_groups += 1
        self._n_requests += params.n
        return group

    def step(self) -> StepResult:
        """Run one round and return what became known; lines 5 to 7 are `engine/round.py`."""
        self._alive()
        tiers = self._parts.tiers
        self._land()
        view = self._desk.view(self._step)
        plan = self._parts.scheduler.plan(view)
        check_plan(plan, view)
        placed = tiers.place(plan, view)
        self._account(plan, placed)
        restored = tiers.restore(view) if len(placed.rows) == len(plan.rows) else Placed()
        self._give(restored)
        with self._mover.moving((*placed.moves, *restored.moves)):
            if placed.rows:
                self._deck.launch(placed, self._desk.seated, self._step)
        # who launches nothing has nothing to overlap with, and hears one flight more
        heard = self._hear(self._loop.lag if placed.rows else max(0, self._deck.n_out - 1))
        self._stuck = not (placed.rows or heard)
        if self._options.checked:
            tiers.check()
        return self._result(placed, restored, heard)

    def warm_up(self, progress: Callable[[int, int], object] = lambda done, total: None) -> None:
        """Record the graphs of steps without prefill before they are met, if any are; `progress` hears (done, all)."""
        self._alive()
        if self._options.graphs:
            with within_memory(self._holders):
                self._deck.rehearse(progress)
                self._mover.rehearse()

    def abort(self, request_id: int) -> None:
        """End all samples of a request; what they have so far is their output. Unknown ids are ignored."""
        self._alive()
        for request in [*self._desk.waiting, *self._desk.seated.values()]:
            if request.group == request_id:
                self._end(request, "abort")

    def reset(self) -> None:
        """Forget all requests and start as if newly made; numbers and derived seeds begin again."""
        self._alive()
        self._deck.drain()
        self._mover.drain()
        self._start()

    def close(self) -> None:
        """Drop everything; calling it twice is fine, anything else afterwards raises `EngineClosed`."""
        if not self._closed:
            self._deck.drain()
            self._mover.drain()
            self._closed = True
            # the desk too: its callbacks hold the deck, and with it what graphs hold
            del self._pool, self._deck, self._desk, self._listener, self._mover, self._parts, self._model, self._holders

    @property
    def has_work(self) -> bool:
        """Whether anybody waits or runs, a result is unheard or untold, or a page is being copied."""
        self._alive()
        desk, out = self._desk, self._deck.n_out + self._mover.n_out
        return bool(desk.waiting or desk.seated or out or self._speaker.events)

    @property
    def ledger(self) -> Ledger:
        """What is allocated at present, by whom."""
        self._alive()
        mover = {"copies": self._mover.memory, "pinned host": self._mover.pinned}
        held = Ledger.of({**self._holders, **self._deck.memory, **mover})
        return Ledger((*held.entries, ("graphs", self._device.recorded_bytes)))

    def _start(self) -> None:
        """Begin with empty seats, empty books and number 0."""
        parts, sizes = self._parts, self.geometry
        parts.tiers.reset()
        self._stuck, self._n_failed = False, 0
        self._roster = Roster(sizes.n_seats)
        self._counts = SeatCounts(sizes.n_seats, row_width(sizes))
        lag, graphs = self._loop.lag, bool(self._options.graphs)
        self._deck = Deck(self._device, self._model, parts, sizes, self._roster, lag=lag, graphs=graphs)
        self._forget(range(sizes.n_seats))
        self._speaker = Speaker(self._decoder)
        self._desk = Desk(
            sizes,
            self._roster,
            self._counts,
            parts.tiers,
            parts.length,
            self._loop,
            seat=self._seat,
            share=self._deck.share,
            fail=self._fail,
        )
        self._listener = Listener(
            self._roster, self._counts, self._desk, self._speaker, parts, leave=self._leave, fail=self._fail
        )
        self._n_groups = self._n_requests = self._step = 0

    def _land(self) -> None:
        """Tell the tier manager which copies have ended, all of them if there was nothing else to wait for."""
        for moves, error in self._mover.ended(wait=self._stuck):
            if error is not None:
                self._n_failed += 1
                what = "a copy of %d KV pages failed (%s), the %d. so far; whose they are is computed again"
                _log.warning(what, len(moves), error, self._n_failed)
            self._parts.tiers.moved(moves, failed=error is not None)

    def _account(self, plan: StepPlan, placed: Placed) -> None:
        """Write down what placing did to requests, and tell the device about lost and fresh pages."""
        roster, rows = self._roster, placed.rows
        roster.starved[plan.rows.seat] = True
        roster.starved[rows.seat] = False
        roster.placed_at[rows.seat] = self._step
        self._give(placed)
        filling = rows.take(rows.phase == Phase.PREFILL)
        again = roster.reached[filling.seat] - (roster.n - 1 - roster.to_prefill)[filling.seat]
        self._counts.recomputed(filling.seat, np.clip(again, 0, filling.n_query))
        self._mover.fresh(placed.fresh)

    def _give(self, placed: Placed) -> None:
        """Write down who lost all pages, and enter those of restored requests."""
        lost = np.array(placed.preempted, dtype=np.int64)
        self._roster.preempted[lost] = True
        self._counts.preempted(lost)
        self._deck.lose(placed.preempted)
        if not placed.rows and placed.table:
            self._deck.enter(placed.table)

    def _hear(self, at_most: int) -> tuple[RowResult, ...]:
        """Hear flights until `at_most` are out."""
        return tuple(
            result for flight, landed in self._deck.hear(at_most) for result in self._listener.hear(flight, landed)
        )

    def _seat(self, request: Request) -> None:
        self._counts.clear(request.seat)
        self._deck.seat(request)
        self._forget([request.seat])

    def _forget(self, seats: Sequence[int]) -> None:
        """Let every policy forget `seats`."""
        self._parts.length.reset(seats)
        self._parts.scheduler.reset(seats)
        self._deck.forget(seats)

    def _fail(self, request: Request, error: Exception) -> None:
        if not request.finished:
            self._end(request, "error", f"{type(error).__name__}: {error}")

    def _end(self, request: Request, reason: FinishReason, error: str | None = None) -> None:
        self._speaker.end(request, reason, error)
        self._leave(request)

    def _leave(self, request: Request) -> None:
        request.finished = True
        if request.seat >= 0:
            self._counts.write(request.seat, request.metrics)
        self._desk.leave(request)

    def _alive(self) -> None:
        if self._closed:
            raise EngineClosed("the engine is closed; compose a new one")

    def _result(self, placed: Placed, restored: Placed, heard: tuple[RowResult, ...]) -> StepResult:
        tiers = self._parts.tiers
        info = StepInfo(
            step=self._step,
            placed=placed,
            heard=heard,
            n_waiting=len(self._desk.waiting),
            n_running=len(self._desk.seated),
            free_pages=tiers.free_pages(),
            host_pages=tiers.host_pages(),
            moving_pages=tiers.moving_pages(),
            moves=(*placed.moves, *restored.moves),
        )
        self._step += 1
        return StepResult(self._speaker.take(), not self.has_work, info)
