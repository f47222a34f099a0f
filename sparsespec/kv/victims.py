"""Which request gives way when pages are short: the one for which a function of three numbers is largest.

The numbers are its order of arrival, the pages it holds, and the tokens it may still generate; none depends on what was
drafted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

Rank = tuple[int, ...]

VICTIMS: Mapping[str, Callable[[int, int, int], Rank]] = {
    "newest": lambda arrival, pages, left: (arrival,),
    "shortest": lambda arrival, pages, left: (-pages, arrival),
    "longest_remaining": lambda arrival, pages, left: (left, arrival),
}
"""By name; "shortest" is the original's (SparseSpec, arXiv 2512.01278)."""
