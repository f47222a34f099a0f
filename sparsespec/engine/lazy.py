"""The CPU's device: a launched function is queued, and runs when somebody waits for its event.

Nothing runs on its own, so host code that peeks at device state, or a copy without an event, fails in a test
instead of on a GPU. With `early`, launches sometimes run at once, as they may on a real device: both orders must
work.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence

from sparsespec.core.device import Event, Stream


class LazyEvent:
    """A queued function and whether it has run."""

    __slots__ = ("after", "done", "error", "fn", "stream")

    def __init__(self, fn: Callable[[], object], stream: Stream, after: Sequence[Event]) -> None:
        self.fn: Callable[[], object] | None = fn
        self.stream: Stream = stream
        self.after = tuple(after)
        self.done = False
        self.error: BaseException | None = None


class LazyDevice:
    """Two streams, main and side, that run as late as they may.

    Args:
        early: Chance that a launch runs everything queued before it and itself at once.
        seed: Seed of that chance.
    """

    def __init__(self, early: float = 0.0, seed: int = 0) -> None:
        self._queues: dict[Stream, deque[LazyEvent]] = {"main": deque(), "side": deque()}
        self._early = early
        self._random = random.Random(seed)

    def launch(self, fn: Callable[[], object], stream: Stream = "main", after: Sequence[Event] = ()) -> LazyEvent:
        """Queue `fn` at the end of `stream`, behind `after`, and return the event that follows it."""
        event = LazyEvent(fn, stream, after)
        self._queues[stream].append(event)
        if self._early and self._random.random() < self._early:
            self._run_through(event)
        return event

    def wait(self, event: Event) -> None:
        """Run everything up to `event`; raises what the launched function raised."""
        assert isinstance(event, LazyEvent), "an event of another device was waited for"
        self._run_through(event)
        if event.error is not None:
            raise event.error

    def poll(self, event: Event) -> bool:
        """Say whether `event` has run; with `early` it sometimes runs now, as if it had before."""
        assert isinstance(event, LazyEvent), "an event of another device was polled"
        if self._early and self._random.random() < self._early:
            self._run_through(event)
        return event.done

    def record(self, fn: Callable[[], object]) -> Callable[[], object]:
        """Return `fn`, which finds what it found when it was recorded: new arguments have no way in."""
        return fn

    @property
    def recorded_bytes(self) -> int:
        """Return 0."""
        return 0

    def _run_through(self, event: LazyEvent) -> None:
        queue = self._queues[event.stream]
        while not event.done:
            head = queue[0]
            for earlier in head.after:
                assert isinstance(earlier, LazyEvent)
                if not earlier.done:
                    self._run_through(earlier)
            if not head.done:
                self._run(head)
            queue.popleft()

    @staticmethod
    def _run(event: LazyEvent) -> None:
        assert event.fn is not None
        try:
            event.fn()
        except BaseException as error:
            # it belongs to whoever waits, as on a GPU; an interrupt is raised here too
            event.error = error
            event.done, event.fn = True, None
            if not isinstance(error, Exception):
                raise
        event.done, event.fn = True, None
