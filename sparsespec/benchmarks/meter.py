"""Measures a running engine: what every step took, the host's part of it, when the GPU had work, what was collected.

The engine itself times its host; its device, given by the benchmark, notes when launches began and ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

from sparsespec.core.device import Event, Stream
from sparsespec.core.plan import DRAFT, VERIFY
from sparsespec.engine.cuda import CudaDevice, CudaEvent
from sparsespec.engine.lazy import LazyDevice, LazyEvent
from sparsespec.engine.outputs import StepResult

LINES = ("view", "plan", "place", "launch", "collect", "process")
"""Lines of a step that the engine times one by one."""
Span = tuple[torch.cuda.Event, torch.cuda.Event]
"""Before and after a launch."""


class TimedCuda(CudaDevice):
    """A CUDA device that puts an event before and one after every launch while `watching`.

    While `without_side` it leaves out what launches in the side stream would do: page copies.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.watching = self.without_side = False
        self.spans: list[Span] = []
        self.side_spans: list[Span] = []

    def launch(self, fn: Callable[[], object], stream: Stream = "main", after: Sequence[Event] = ()) -> CudaEvent:
        """Launch between two events."""
        if self.without_side and stream == "side":
            return super().launch(_nothing, stream, after)
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
    """The CPU's device; it cannot say when it was idle. `without_side` is as in `TimedCuda`."""

    def __init__(self) -> None:
        super().__init__()
        self.watching = self.without_side = False

    def launch(self, fn: Callable[[], object], stream: Stream = "main", after: Sequence[Event] = ()) -> LazyEvent:
        """Launch, or leave out what would be done."""
        return super().launch(_nothing if self.without_side and stream == "side" else fn, stream, after)

    def idle_share(self) -> None:
        """Return None: a CPU is host and device."""

    def overlap(self) -> None:
        """Return None, for the same reason."""


TimedDevice = TimedCuda | TimedLazy


def timed_device(device: torch.device) -> TimedDevice:
    """Return the timed device for where a model is."""
    return TimedCuda(device) if device.type == "cuda" else TimedLazy()


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
class Tally:
    """What was collected and launched in the measured steps: sums, and a number per step."""

    step_seconds: list[float] = field(default_factory=list[float])
    tokens: list[int] = field(default_factory=list[int])
    query_tokens: list[int] = field(default_factory=list[int])
    host_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LINES, 0.0))
    waited: float = 0.0
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
        info = result.info
        self.step_seconds.append(seconds)
        self.tokens.append(info.n_output)
        self.query_tokens.append(int(info.placed.rows.n_query.sum()))
        for line in LINES:
            self.host_seconds[line] += getattr(info.seconds, line)
        # collecting is the only line that waits for the device
        self.host_seconds["collect"] -= info.seconds.waited
        self.waited += info.seconds.waited
        self.rows += len(info.placed.rows)
        self.running += info.n_running
        self.empty += not info.placed.rows
        self.preempted += len(info.placed.preempted)
        self.finished += sum(event.completion is not None for event in result.events)
        rows = info.collected
        draft, verify = rows.phase == DRAFT, rows.phase == VERIFY
        self.kv_read += float(rows.kv_read.sum())
        self.drafts += int(np.count_nonzero(rows.live[draft]))
        self.kv_drafts += float(rows.kv_read[draft].sum())
        self.kv_drafts_full += float(rows.kv_full[draft].sum())
        self.verifications += int(np.count_nonzero(verify))
        self.kv_verify += float(rows.kv_full[verify].sum())
        self.rounds += int(np.count_nonzero(rows.n_candidates[verify]))
        self.accepted += int(rows.n_accepted[verify].sum())

    @property
    def launched(self) -> int:
        """Steps that launched something."""
        return len(self.step_seconds) - self.empty

    @property
    def mean_acceptance_length(self) -> float | None:
        """Tokens a round yields, accepted drafts and one more; None without rounds."""
        return 1 + self.accepted / self.rounds if self.rounds else None

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


def _nothing() -> None:
    """Do nothing, in place of a launch that is left out."""
