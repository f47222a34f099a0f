"""A CUDA device: launches run at once, on a stream, and are waited for by events.

The main stream is the one that was current when the device was made, so that what was allocated on it before is there.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import torch

from sparsespec.core.device import Event, Stream


class CudaEvent:
    """A point in a stream, and what went wrong while the launch before it was made."""

    __slots__ = ("error", "point", "stream")

    def __init__(self, stream: Stream, point: torch.cuda.Event, error: Exception | None) -> None:
        self.stream: Stream = stream
        self.point = point
        self.error = error


class CudaDevice:
    """Two streams of a GPU.

    Args:
        device: Such as "cuda" or "cuda:1".
    """

    def __init__(self, device: str | torch.device = "cuda") -> None:
        self._device = torch.device(device)
        self._streams: dict[Stream, torch.cuda.Stream] = {
            "main": torch.cuda.current_stream(self._device),
            "side": torch.cuda.Stream(self._device),
        }
        # graphs never run side by side, so what one needs for a while can be another's too
        self._graph_memory = torch.cuda.graph_pool_handle()
        self._recorded_bytes = 0

    def launch(self, fn: Callable[[], object], stream: Stream = "main", after: Sequence[Event] = ()) -> CudaEvent:
        """Run `fn`, whose work goes to the end of `stream`, behind `after`; return the event that follows it."""
        queue = self._streams[stream]
        for earlier in after:
            assert isinstance(earlier, CudaEvent), "an event of another device stands before a launch"
            queue.wait_event(earlier.point)
        error = None
        with torch.cuda.stream(queue):
            try:
                fn()
            except Exception as raised:  # it belongs to whoever waits
                error = raised
            point = torch.cuda.Event()
            point.record(queue)
        return CudaEvent(stream, point, error)

    def wait(self, event: Event) -> None:
        """Block until everything up to `event` has run; raises what the launched function raised."""
        assert isinstance(event, CudaEvent), "an event of another device was waited for"
        event.point.synchronize()
        if event.error is not None:
            raise event.error

    def poll(self, event: Event) -> bool:
        """Say whether everything up to `event` has run, without blocking."""
        assert isinstance(event, CudaEvent), "an event of another device was polled"
        return event.point.query()

    def record(self, fn: Callable[[], object]) -> Callable[[], object]:
        """Return a CUDA graph's replay; see `core/device.py`."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(self._device)
        # a forgotten engine whose graphs the collector takes apart meanwhile would spoil this one
        collects = gc.isenabled()
        gc.disable()
        try:
            with torch.cuda.graph(graph, pool=self._graph_memory):
                fn()
        finally:
            if collects:
                gc.enable()
        self._recorded_bytes += torch.cuda.memory_reserved(self._device) - before
        return graph.replay

    @property
    def recorded_bytes(self) -> int:
        """Memory that graphs hold for their intermediate results."""
        return self._recorded_bytes
