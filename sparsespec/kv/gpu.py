"""Tier manager `gpu`: all KV lives on the device; out of pages, the youngest requests are preempted and recomputed."""

from __future__ import annotations

from sparsespec.kv.paged import Paged


class GpuTier(Paged):
    """All KV in one pool; a request that must give way is preempted and filled again."""

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
