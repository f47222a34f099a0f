"""Engines that are short of memory, and where the KV of their requests is."""

from __future__ import annotations

from typing import Any

from sparsespec.engine.engine import Engine
from sparsespec.engine.lazy import LazyDevice
from tests.engine.running import SPARSE, add, compose, sampled
from tests.quick import quick_last

PARAMS = sampled(16)
PAIR = sampled(16, n=2)
HOST = "host(victim=newest,low=0.1,high=0.2,chunk=2)"
TIERS = quick_last(("gpu", "host(victim=shortest,size=0.2,low=0.0,high=0.0)", "reserve", HOST))
TIGHT = 20
"""Pages for two requests of 20 + 16 tokens, and one of them more than half: three want to run."""
STATES = ("leaving", "out", "coming back")


def tight(tiers: str = HOST, loop: str = "sync", early: float = 0.3, seed: int = 0, **changes: Any) -> Engine:
    parts = {**SPARSE, "tiers": tiers, "loop": loop, "num_gpu_blocks": TIGHT, **changes}
    return compose(device=LazyDevice(early, seed), **parts)


def ask(engine: Engine, n: int = 4) -> None:
    add(engine, PARAMS, n)


def where(engine: Engine, seat: int) -> str:
    """Say in which state of transfer the KV of a seat is."""
    part: Any = engine._parts.tiers
    if seat in part._back:
        return "coming back"
    if seat not in part._out:
        return "here"
    leaving = {move.host_page for move in part._moving.values() if move.out}
    has_left = leaving.isdisjoint(page for (s, _), page in part._host_table.items() if s == seat)
    return "out" if has_left else "leaving"
