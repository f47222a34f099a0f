"""The books of the KV pool: which pages are free, and how many owners each of the others has.

Integers only; the pages' contents live in `kv/pool.py`. Page 0 has no owner: dead queries write there. A page has more
than one owner only while samples of one prompt share it, or a copy reads or writes it.

The lowest free page is handed out first. For host pages that matters: a request that leaves and comes back in parts
gets neighbours, which one copy takes, and memory behind the last host page ever used is never taken.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence

from sparsespec.core.errors import ContractBroken


class PageBook:
    """A heap of free pages with reference counts over pages 1 … n_pages - 1."""

    def __init__(self, n_pages: int) -> None:
        self._n_pages = n_pages
        self._free = list(range(1, n_pages))
        self._owners = [0] * n_pages

    @property
    def n_free(self) -> int:
        """Pages without an owner, page 0 excluded."""
        return len(self._free)

    def owners(self, page: int) -> int:
        """Return how many owners `page` has."""
        return self._owners[page]

    def take(self, n: int) -> list[int]:
        """Return `n` free pages, now owned once; the caller has made sure that there are as many."""
        assert n <= len(self._free), "pages were taken that are not free"
        pages = [heapq.heappop(self._free) for _ in range(n)]
        for page in pages:
            self._owners[page] = 1
        return pages

    def retain(self, pages: Iterable[int]) -> None:
        """Add an owner to each of `pages`, which must have one already."""
        for page in pages:
            assert self._owners[page], f"page {page} has no owner to share it"
            self._owners[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """Take an owner from each of `pages`; a page without owners is free."""
        for page in pages:
            assert self._owners[page], f"page {page} is released twice"
            self._owners[page] -= 1
            if not self._owners[page]:
                heapq.heappush(self._free, page)

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise `ContractBroken` unless free and owned pages add up and `tables` are exactly the owners."""
        held = Counter(page for table in tables for page in table)
        free = set(self._free)
        if 0 in held or 0 in free or self._owners[0]:
            raise ContractBroken("page 0 is owned or free; it is never handed out")
        if len(free) != len(self._free):
            raise ContractBroken("a page stands in the free list twice")
        if len(free) + len(held) + 1 != self._n_pages or free & held.keys():
            raise ContractBroken(
                f"{len(free)} free and {len(held)} held pages and page 0 do not add up to {self._n_pages}"
            )
        wrong = [page for page, n in held.items() if self._owners[page] != n]
        if wrong:
            raise ContractBroken(f"pages {wrong} have other owners than their counts say")
