"""What accepted counts say: means over texts, with intervals by resampling texts, because rounds of one are alike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

RESAMPLES = 10_000


class Estimate(NamedTuple):
    """A mean over texts, and the 95 % interval of its bootstrap."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def accepted(drafts: Tensor, truth: Tensor) -> npt.NDArray[np.int64]:
    """Return how many drafts stand in each round, [texts, rounds], of [texts, rounds, draft] both."""
    return (drafts == truth).long().cumprod(-1).sum(-1).numpy()


def estimate(per_text: npt.NDArray[np.float64], seed: int = 0) -> Estimate:
    """Return the mean of one number per text, and its interval; texts are drawn anew `RESAMPLES` times."""
    draw = np.random.default_rng(seed).integers(len(per_text), size=(RESAMPLES, len(per_text)))
    low, high = np.percentile(per_text[draw].mean(1), (2.5, 97.5))
    return Estimate(float(per_text.mean()), float(low), float(high))
