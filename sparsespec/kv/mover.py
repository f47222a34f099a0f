"""Carries out what the tier manager decided about pages, as launches in stream order.

The tier manager is integers; this is the only place that turns its words into work on the pool.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsespec.core.device import Device
from sparsespec.core.errors import ContractBroken
from sparsespec.core.plan import Move
from sparsespec.kv.pool import KVPool


class Mover:
    """Executes page moves and, in checked mode, poisons freshly allocated pages."""

    def __init__(self, device: Device, pool: KVPool, *, checked: bool) -> None:
        self._device = device
        self._pool = pool
        self._checked = checked

    def fresh(self, pages: Sequence[int]) -> None:
        """Take note of freshly allocated pages; their old content must not be read."""
        if self._checked and pages:
            self._device.launch(lambda: self._pool.poison(pages))

    def move(self, moves: Sequence[Move]) -> None:
        """Copy pages between tiers; raises `ContractBroken` on a tier this pool does not have."""
        for move in moves:
            raise ContractBroken(f"no tier holds {move}: this pool lives on the device only")
