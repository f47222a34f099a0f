"""The promise of a device: work is launched, and is only known to be done once its event was waited for.

Streams are first in, first out; `after` orders a launch behind events of the other stream. Host code touches no device
tensor: whatever it wants changed is a launch, and whatever it wants to know it reads from a host buffer after `wait`.
`engine/lazy.py` is the CPU's device, a CUDA device with streams and graphs stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

Stream = Literal["main", "side"]


@runtime_checkable
class Event(Protocol):
    """A point in a stream."""

    @property
    def stream(self) -> Stream:
        """The stream the event stands in."""
        ...


@runtime_checkable
class Device(Protocol):
    """Where launched functions run."""

    def launch(self, fn: Callable[[], object], stream: Stream = "main", after: Sequence[Event] = ()) -> Event:
        """Queue `fn` at the end of `stream`, behind `after`, and return the event that follows it."""
        ...

    def wait(self, event: Event) -> None:
        """Block until everything up to `event` has run; raises what the launched function raised."""
        ...

    def poll(self, event: Event) -> bool:
        """Say whether everything up to `event` has run, without blocking."""
        ...

    def record(self, fn: Callable[[], object]) -> Callable[[], object]:
        """Return what does on the device, when called in a launch, what `fn` does there: a CUDA graph.

        Called in a launch itself, after `fn` ran once. `fn` must be the same work each time, on tensors that stay
        where they are, and look at nothing on the host.
        """
        ...

    @property
    def recorded_bytes(self) -> int:
        """Memory that records hold."""
        ...
