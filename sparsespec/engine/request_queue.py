"""Requests that wait for a seat, first come first served."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from time import perf_counter

from sparsespec.core.protocols import Tiers
from sparsespec.engine.request import Request


class RequestQueue:
    """Waiting requests, oldest first."""

    def __init__(self, waiting: Iterable[Request] = ()) -> None:
        self._waiting = deque(waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def waiting(self) -> tuple[Request, ...]:
        """Who waits, oldest first."""
        return tuple(self._waiting)

    def add(self, requests: Iterable[Request]) -> None:
        """Queue requests."""
        self._waiting.extend(requests)

    def remove(self, request: Request) -> None:
        """Take a request out of the queue."""
        self._waiting.remove(request)

    def admit(self, tiers: Tiers, free_seats: list[int]) -> list[Request]:
        """Give `free_seats` to the oldest requests while `tiers` has room for them; return those that got one."""
        admitted: list[Request] = []
        for seat in free_seats:
            if not self._waiting:
                break
            request = self._waiting[0]
            if not tiers.admit(seat, len(request.known), request.limit):
                break
            request.seat, request.seated_at = seat, perf_counter()
            admitted.append(self._waiting.popleft())
        return admitted
