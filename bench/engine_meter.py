"""Measures a running engine: what every step took, what the host did in it, when the GPU had work, what was heard.

Only this engine's own methods are wrapped, and its device is one that writes down what passes through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter
from typing import Any

import torch

from bench.engine_fill import Inside
from sparsespec.core.device import Event, Stream
from sparsespec.core.plan import Phase
from sparsespec.engine.cuda import CudaDevice, CudaEvent
from sparsespec.engine.engine import Engine
from sparsespec.engine.lazy import LazyDevice, LazyEvent
from sparsespec.engine.outputs import StepResult

LINES = ("view", "plan", "place", "launch")
"""Lines of the round that are timed one by one; what is left of a step is hearing, and waiting for the device."""


Span = tuple[torch.cuda.Event, torch.cuda.Event]
"""Before and behind a launch."""


class TimedCuda(CudaDevice):
    """A CUDA device that puts an event before and one after every launch while `watching`, and adds up waiting."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.watching = False
        self.waited = 0.0
        self.spans: list[Span] = []
        self.side_spans: list[Span] = []

    def launch(self, fn: Callable[[], object], stream: Stream = "main", after: Sequence[Event] = ()) -> CudaEvent:
        """Launch between two events."""
        if not self.watching:
            return super().launch(fn, stream, after)
        before, behind = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

        def spanned() -> None:
            before.record()
            try:
                fn()
            finally:
                behind.record()

        (self.spans if stream == "main" else self.side_spans).append((before, behind))
        return super().launch(spanned, stream, after)

    def wait(self, event: Event) -> None:
        """Wait, and add up how long."""
        start = perf_counter()
        try:
            super().wait(event)
        finally:
            self.waited += perf_counter() - start

    def idle_share(self) -> float | None:
        """Return which share of the time between the first launch and the last lay in no launch; None for too few."""
        torch.cuda.synchronize()
        if len(self.spans) < 2:
            return None
        whole = self.spans[0][0].elapsed_time(self.spans[-1][0])
        return 1 - sum(before.elapsed_time(behind) for before, behind in self.spans[:-1]) / whole

    def overlap(self) -> float | None:
        """Return which share of the time of side launches lay within launches of the main stream; None without any."""
        torch.cuda.synchronize()
        if not self.side_spans or not self.spans:
            return None
        zero = self.spans[0][0]
        main, side = (
            [(zero.elapsed_time(before), zero.elapsed_time(behind)) for before, behind in spans]
            for spans in (self.spans, self.side_spans)
        )
        return overlap(main, side)


class TimedLazy(LazyDevice):
    """The CPU's device; work is done while it is waited for, and nobody can say when a device was idle."""

    def __init__(self) -> None:
        super().__init__()
        self.watching = False
        self.waited = 0.0

    def wait(self, event: Event) -> None:
        """Wait, and add up how long."""
        assert isinstance(event, LazyEvent)
        start = perf_counter()
        try:
            super().wait(event)
        finally:
            self.waited += perf_counter() - start

    def idle_share(self) -> None:
        """Return None: a CPU is host and device."""

    def overlap(self) -> None:
        """Return None, for the same reason."""


TimedDevice = TimedCuda | TimedLazy


def overlap(main: Sequence[tuple[float, float]], side: Sequence[tuple[float, float]]) -> float:
    """Return which share of the spans `side` lies in the spans `main`, each in order and apart from one another."""
    shared, i = 0.0, 0
    for begin, end in side:
        while i < len(main) and main[i][1] <= begin:
            i += 1
        j = i
        while j < len(main) and main[j][0] < end:
            shared += max(0.0, min(end, main[j][1]) - max(begin, main[j][0]))
            j += 1
    return shared / sum(end - begin for begin, end in side)


@dataclass
class Clock:
    """Seconds of the host by line of the round, and of whole steps, since it was last started."""

    seconds: dict[str, float] = field(default_factory=dict)

    def wrap(self, owner: Any, name: str, line: str) -> None:
        """Add what `owner.name()` takes to `line`."""
        method = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            start = perf_counter()
            try:
                return method(*args, **options)
            finally:
                self.seconds[line] += perf_counter() - start

        setattr(owner, name, timed)

    @classmethod
    def of(cls, engine: Engine, inside: Inside) -> Clock:
        """Wrap the lines of an engine's round."""
        clock = cls()
        clock.start()
        clock.wrap(inside.queue, "view", "view")
        clock.wrap(inside.parts.scheduler, "plan", "plan")
        clock.wrap(inside.parts.tiers, "place", "place")
        clock.wrap(inside.executor, "launch", "launch")
        clock.wrap(engine, "step", "step")
        return clock

    def start(self) -> None:
        """Begin at 0."""
        self.seconds.update(dict.fromkeys((*LINES, "step"), 0.0))


@dataclass
class Tally:
    """What was heard and launched in the measured steps: sums, and a number per step."""

    step_seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    query_tokens: list[int] = field(default_factory=list)
    rows: int = 0
    running: int = 0
    empty: int = 0
    preempted: int = 0
    drafts: int = 0
    verifications: int = 0
    rounds: int = 0
    accepted: int = 0
    kv_read: float = 0.0
    kv_verify: float = 0.0
    kv_drafts: float = 0.0
    kv_drafts_full: float = 0.0
    finished: int = 0

    def add(self, result: StepResult, seconds: float) -> None:
        """Take in a step; kept short, because it runs between steps."""
        placed = result.info.placed
        self.step_seconds.append(seconds)
        self.tokens.append(sum(len(event.token_ids) for event in result.events))
        self.query_tokens.append(sum(row.n_query for row in placed.rows))
        self.rows += len(placed.rows)
        self.running += result.info.n_running
        self.empty += not placed.rows
        self.preempted += len(placed.preempted)
        self.finished += sum(event.completion is not None for event in result.events)
        for row in result.info.collected:
            self.kv_read += row.kv_read
            if row.phase is Phase.DRAFT:
                self.drafts += row.live > 0
                self.kv_drafts += row.kv_read
                self.kv_drafts_full += row.kv_full
            else:
                self.verifications += 1
                self.kv_verify += row.kv_full
                self.rounds += row.n_candidates > 0
                self.accepted += row.n_accepted

    @property
    def launched(self) -> int:
        """Steps that launched something."""
        return len(self.step_seconds) - self.empty

    @property
    def launched_seconds(self) -> list[float]:
        """Times between steps that launched something: one that did not belongs to the next."""
        times, carried = [], 0.0
        for seconds, n in zip(self.step_seconds, self.query_tokens, strict=True):
            carried += seconds
            if n:
                times.append(carried)
                carried = 0.0
        return times

    def parts(self, n: int, unit: int) -> list[tuple[int, float]]:
        """Return (tokens, seconds) of `n` consecutive parts, fewer if there is not enough for so many.

        A part launches a multiple of `unit` steps: where a batch commits once in so many steps, others would flatter.
        """
        ends = [i + 1 for i, launched in enumerate(self.query_tokens) if launched]
        ends = ends[unit - 1 :: unit] or ends[-1:]
        n = min(n, len(ends))
        edges = [0, *(ends[(i + 1) * len(ends) // n - 1] for i in range(n))]
        return [(sum(self.tokens[a:b]), sum(self.step_seconds[a:b])) for a, b in pairwise(edges)]
