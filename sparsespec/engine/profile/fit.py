"""From samples to the numbers of a cost model: curves through points, lines by least squares of relative errors.

Numbers are rounded to what a measurement is worth.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sparsespec.core.cost import AttentionCost, FitError
from sparsespec.core.curve import Curve, Line
from sparsespec.engine.profile.sample import Sample

Floats = npt.NDArray[np.float64]


def curve(samples: Sequence[Sample]) -> tuple[Curve, FitError]:
    """Return the curve through all samples, and how far each inner one is from the line between its neighbours."""
    points = tuple((sample.sizes[0], rounded(sample.seconds)) for sample in samples)
    off: list[float] = []
    for i in range(1, len(points) - 1):
        guess = Curve((points[i - 1], points[i + 1]))(points[i][0])
        off.append(abs(guess / points[i][1] - 1))
    return Curve(points), _error(off)


def attention(samples: Sequence[Sample]) -> tuple[AttentionCost, FitError]:
    """Return a fixed time, and one each for a dense byte, a sparse byte and a pair of prefill."""
    columns = np.array([(1.0, *sample.sizes) for sample in samples])
    found, error = _fit(columns, samples)
    return AttentionCost(*found), error


def line(samples: Sequence[Sample]) -> tuple[Line, FitError]:
    """Return a fixed time and one for a byte."""
    columns = np.array([(1.0, sample.sizes[0]) for sample in samples])
    found, error = _fit(columns, samples)
    return Line(*found), error


def _fit(columns: Floats, samples: Sequence[Sample]) -> tuple[list[float], FitError]:
    """Return weights of `columns`, none below 0, that make the sum of squared relative errors least."""
    seconds = np.array([sample.seconds for sample in samples])
    relative = columns / seconds[:, None]
    # bytes are billions, and the fixed time is counted in ones
    scale = np.abs(relative).max(0)
    used = [i for i in range(columns.shape[1]) if scale[i] > 0]
    while True:
        found = np.linalg.lstsq(relative[:, used] / scale[used], np.ones(len(seconds)), rcond=None)[0]
        if found.min() >= 0:
            break
        used.pop(int(found.argmin()))
    weights = np.zeros(columns.shape[1])
    weights[used] = found / scale[used]
    off = np.abs(relative @ weights - 1)
    return [rounded(w) for w in weights], _error([float(x) for x in off])


def rounded(value: float) -> float:
    """Return four digits of a number."""
    return float(f"{value:.4g}")


def _error(off: Sequence[float]) -> FitError:
    if not off:
        return FitError(0.0, 0.0, 0)
    return FitError(rounded(max(off)), rounded(statistics.median(off)), len(off))
