"""How long a call takes on a device: on a GPU without the host's time, which graph replays leave out."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

Call = Callable[[], Any]
Clock = Callable[[Sequence[Call]], float]
"""`clock(calls) -> seconds` of one of them, the median; calls rotate, so each may have inputs of its own."""

GRAPH_SECONDS = 2e-3
"""A graph is at least so long, so that the time between two replays is lost in it."""
TOTAL_SECONDS = 0.15
"""Replays go on for so long, but are neither fewer nor more than these."""
REPLAYS = (5, 30)
STREAM_ROUNDS = 20
CPU_SECONDS = 0.02
CPU_REPEATS = (3, 50)


def clock_for(device: torch.device) -> Clock:
    """Return the clock of a device."""
    return cuda_clock if device.type == "cuda" else cpu_clock


def cpu_clock(calls: Sequence[Call]) -> float:
    """Time calls one by one."""
    for call in calls:
        call()
    took: list[float] = []
    while len(took) < CPU_REPEATS[0] or (sum(took) < CPU_SECONDS and len(took) < CPU_REPEATS[1]):
        start = time.perf_counter()
        calls[len(took) % len(calls)]()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def cuda_clock(calls: Sequence[Call]) -> float:
    """Record calls in a CUDA graph, and time its replays."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        # compiles, allocates what is kept, and lets libraries choose
        for call in (*calls, *calls):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    torch.cuda.synchronize()
    graph = capture(calls, 1)
    once = min(_replayed(graph, 3))
    rounds = math.ceil(GRAPH_SECONDS / max(once, 1e-6))
    if rounds > 1:
        graph = capture(calls, rounds)
    fewest, most = REPLAYS
    replays = min(most, max(fewest, math.ceil(TOTAL_SECONDS / (once * rounds))))
    return statistics.median(_replayed(graph, replays)) / (rounds * len(calls))


def stream_clock(calls: Sequence[Call]) -> float:
    """Time calls that the host makes faster than a GPU does them, such as large copies, one behind the other."""
    for call in calls:
        call()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    for _ in range(STREAM_ROUNDS):
        for call in calls:
            call()
    last.record()
    torch.cuda.synchronize()
    return 1e-3 * first.elapsed_time(last) / (STREAM_ROUNDS * len(calls))


def capture(calls: Sequence[Call], rounds: int) -> torch.cuda.CUDAGraph:
    """Return a graph of all `calls`, `rounds` times over; they must have run before."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for call in calls:
                call()
    return graph


def _replayed(graph: torch.cuda.CUDAGraph, replays: int) -> list[float]:
    """Return the seconds of each replay, the first of all left out."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(replays + 1)]
    graph.replay()
    for event in events[:-1]:
        event.record()
        graph.replay()
    events[-1].record()
    torch.cuda.synchronize()
    return [1e-3 * a.elapsed_time(b) for a, b in pairwise(events)]
