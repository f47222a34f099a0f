"""Calls to policies on the host, each for all rows of a step at once.

A policy that raises is asked again row by row, so that only the requests of the rows for which it raises fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from sparsespec.core.plan import Lengths
from sparsespec.core.protocols import Length
from sparsespec.core.result import RowResults
from sparsespec.core.view import Ints, View

Failures = list[tuple[int, Exception]]
"""(seat, what was raised)."""


def propose(length: Length, view: View, index: Ints) -> tuple[list[tuple[Ints, Lengths]], Failures]:
    """Ask for the lengths of the rounds that the rows `index` begin; return answers by rows, and who has none."""
    if not len(index):
        return [], []
    try:
        return [(index, length.propose(view, index))], []
    except Exception:
        answers, failures = list[tuple[Ints, Lengths]](), Failures()
        for one in np.split(index, len(index)):
            try:
                answers.append((one, length.propose(view, one)))
            except Exception as error:
                failures.append((int(view.seat[one[0]]), error))
        return answers, failures


def observe(observers: Iterable[Callable[[RowResults], None]], results: RowResults) -> Failures:
    """Show results to policies; return the seats of the rows for which one raised."""
    failures = Failures()
    for one in observers if len(results) else ():
        try:
            one(results)
        except Exception as error:
            failures += _singly(one, results, error)
    return failures


def _singly(one: Callable[[RowResults], None], results: RowResults, error: Exception) -> Failures:
    if len(results) == 1:
        return [(int(results.seat[0]), error)]
    failures = Failures()
    for i in range(len(results)):
        try:
            one(results[i : i + 1])
        except Exception as own:
            failures.append((int(results.seat[i]), own))
    return failures
