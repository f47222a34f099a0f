"""Times GPU work without host time: calls are captured in a CUDA graph, and replays of the graph are timed.

Calls rotate over buffers that together exceed the L2 cache, so that none finds its input there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from sparsespec.engine.profile.clock import Call, capture

REPLAYS = 40
GRAPH_MS = 3.0
"""Length of a graph, so that the time between an event and the first kernel is lost in it."""
READ_BYTES = 2**31


class Times(NamedTuple):
    """Microseconds of one call: percentiles over replays, each the mean of a graph's calls; on a CPU, over calls."""

    p20: float
    p50: float
    p80: float


def percentiles(micros: Sequence[float]) -> Times:
    """Return the percentiles of some times."""
    ordered = sorted(micros)
    return Times(*(ordered[int(q * (len(ordered) - 1))] for q in (0.2, 0.5, 0.8)))


def buffers_for(call_bytes: int) -> int:
    """Return how many sets of inputs exceed the L2 cache twice over, when a call reads `call_bytes`."""
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    return max(2, min(128, math.ceil(2 * l2 / max(1, call_bytes))))


def replayed(graph: torch.cuda.CUDAGraph, replays: int) -> list[float]:
    """Return the milliseconds of each replay."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(replays + 1)]
    events[0].record()
    for event in events[1:]:
        graph.replay()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in pairwise(events)]


def time_calls(calls: Sequence[Call]) -> Times:
    """Return the time of one call, over rotating `calls` that each use inputs of their own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            for call in calls:
                call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    once = min(replayed(capture(calls, 1), 5)[1:])
    rounds = max(1, min(200, math.ceil(GRAPH_MS / max(once, 1e-3))))
    graph = capture(calls, rounds)
    replayed(graph, 5)
    return percentiles([1000 * ms / (rounds * len(calls)) for ms in replayed(graph, REPLAYS)])


def read_ceiling() -> dict[str, float]:
    """Return bytes per second of three readers of 2 GiB: a sum, a maximum, a copy (read and written bytes)."""
    x = torch.randn(READ_BYTES // 4, device="cuda")
    y = torch.empty_like(x)
    readers: dict[str, tuple[Call, int]] = {
        "sum": (lambda: x.sum(), READ_BYTES),
        "max": (lambda: x.max(), READ_BYTES),
        "copy": (lambda: y.copy_(x), 2 * READ_BYTES),
    }
    return {name: n / (1e-6 * time_calls([call]).p50) for name, (call, n) in readers.items()}
