"""Seconds by a size: `Curve`, through measured points, and `Line`, a fixed part and a rate. Numbers only."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from sparsespec.core.errors import BadOption, show


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds by a size, straight from each measured point to the next.

    Nothing takes no time. Below the first point it is flat, for weights are read whatever the size. Beyond the last it
    goes on as it went between the last two, and never falls: that is an extrapolation, and no measurement backs it.

    Args:
        points: (size, seconds), sizes above 0 and rising.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise BadOption("a curve needs points (size, seconds), got none")
        before = 0.0
        for size, seconds in self.points:
            if not (before < size < math.inf and 0 <= seconds < math.inf):
                raise BadOption(
                    "a curve has points (size, seconds) of rising sizes above 0 and finite seconds, "
                    f"got {show((size, seconds))} behind size {before:g}"
                )
            before = size

    def __call__(self, size: float) -> float:
        """Return the seconds of a size, which need not be whole."""
        points = self.points
        if size <= points[0][0]:
            return points[0][1] if size > 0 else 0.0
        if size > points[-1][0]:
            if len(points) == 1:
                return points[0][1]
            return max(_between(points[-2], points[-1], size), points[-1][1])
        i = bisect_left(points, (size,))
        return _between(points[i - 1], points[i], size)

    @classmethod
    def of(cls, value: object, what: str) -> Curve:
        """Read a list of pairs; `what` names it in the error."""
        try:
            pairs = cast("Sequence[Sequence[float]]", value)
            return cls(tuple((float(size), float(seconds)) for size, seconds in pairs))
        except (TypeError, ValueError) as error:
            raise BadOption(f"{what} must be a list of pairs [size, seconds] ({error})") from None


@dataclass(frozen=True, slots=True)
class Line:
    """A fixed time, and some for each byte; nothing takes no time."""

    seconds: float
    seconds_per_byte: float

    def __call__(self, n_bytes: float) -> float:
        """Return the seconds of some bytes."""
        return self.seconds + n_bytes * self.seconds_per_byte if n_bytes > 0 else 0.0


def _between(a: tuple[float, float], b: tuple[float, float], size: float) -> float:
    """Return the seconds at a size on the line through two points."""
    return a[1] + (b[1] - a[1]) * (size - a[0]) / (b[0] - a[0])
