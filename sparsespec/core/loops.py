"""A loop is two numbers: how many steps late the host collects results, and whether rows of unknown outcome sit out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Loop:
    """How far the device runs ahead of the host.

    Attributes:
        lag: Steps that may be launched before the results of this one are collected.
        sit_out: Whether a row waits until its results are collected, if its outcome in flight has more than one
            possible size.
    """

    lag: int
    sit_out: bool


LOOPS: dict[str, Loop] = {
    "sync": Loop(0, False),
    "delayed": Loop(1, True),  # delayed verification: SparseSpec (arXiv 2512.01278, section 5)
    "resident": Loop(1, False),
}
"""The loops by name."""
