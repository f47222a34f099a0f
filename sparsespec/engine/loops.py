"""A loop is two numbers: how many steps late the host hears, and whether rows of unknown outcome sit out."""

from __future__ import annotations

from dataclasses import dataclass

from sparsespec.core.errors import unknown


@dataclass(frozen=True, slots=True)
class Loop:
    """How far the device runs ahead of the host.

    Attributes:
        lag: Steps that may be launched before the host has heard this one.
        sit_out: Whether a row whose unheard outcome has more than one possible size waits until it is heard.
    """

    lag: int
    sit_out: bool


LOOPS: dict[str, Loop] = {
    "sync": Loop(0, False),
    "delayed": Loop(1, True),  # delayed verification: SparseSpec (arXiv 2512.01278, section 5)
    "resident": Loop(1, False),
}


def loop(name: str) -> Loop:
    """Return the loop called `name`; raises `UnknownName`."""
    if name not in LOOPS:
        raise unknown("loop", name, LOOPS)
    return LOOPS[name]
