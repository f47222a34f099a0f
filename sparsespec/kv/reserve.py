"""Tier manager `reserve`: a request is admitted only if all can grow to the end, so none ever gives way.

The control of `host` and `gpu`: what reserving the worst case costs, because few requests become as long as they may.
"""

from __future__ import annotations

from sparsespec.kv.paged import Paged


class ReserveTier(Paged):
    """Reserves, in numbers, as many pages as each request may ever need; they are handed out as they are needed."""

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

    def reset(self) -> None:
        """Forget all requests."""
        super().reset()
        self._reserved: dict[int, int] = {}

    def admit(self, seat: int, n_prompt: int, limit: int) -> bool:
        """Admit a request that fits beside all others, however long all of them get."""
        # the last token is never fed back, so its KV needs no place
        worst = self._blocks(limit - 1)
        if sum(self._reserved.values()) + worst > self._n_pages - 1:  # page 0 is never handed out
            return False
        self._reserved[seat] = worst
        return True

    def forget(self, seat: int) -> None:
        """Release everything a seat holds, and its reservation."""
        super().forget(seat)
        self._reserved.pop(seat, None)
