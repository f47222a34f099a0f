"""Tier manager `gpu`: all KV lives on the device; out of pages, the youngest are preempted and recomputed."""

from __future__ import annotations

from sparsespec.kv.paged import Paged


class GpuTier(Paged):
    """All KV in one pool; whoever must give way is preempted and filled again."""

    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()
