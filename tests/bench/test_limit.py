"""The roofline, held to the figures that were measured on one H100."""

from __future__ import annotations

import numpy as np
import pytest

from sparsespec.benchmarks.limit import Machine, Round, limit

TOKENS = [1, 16, 64, 121, 128, 192, 256, 384, 512, 576, 1152]
LAYER = [146.6, 149.8, 151.2, 152.4, 153.1, 162.7, 178.6, 222.8, 284.9, 330.8, 669.4]
HEAD = [64, 128, 256, 576], [452.4, 461.5, 520.0, 1117.4]
H100 = Machine(
    layers=lambda n: 36e-6 * float(np.interp(n, TOKENS, LAYER)),
    head=lambda n: 1e-6 * float(np.interp(n, *HEAD)),
    token_bytes=36 * 4096,
    bytes_per_second=3.114e12,
)


@pytest.mark.parametrize(
    ("rows", "context", "accepted", "dense", "sparse"),
    [
        (64, 4096, 6.16, 3496, 6463),
        (64, 6000, 6.16, 2658, 5802),
        (64, 6000, 7.0, 2658, 6483),
        (32, 4096, 6.16, 2652, 3712),
    ],
)
def test_rates_of_the_table(rows: int, context: int, accepted: float, dense: int, sparse: int) -> None:
    assert limit(H100, Round(rows, context)) == pytest.approx(dense, abs=1)
    assert limit(H100, Round(rows, context, 8, 0, 0.05, 1 + accepted)) == pytest.approx(sparse, abs=1)


def test_guesses_widen_every_step_and_read_nothing_more() -> None:
    step = H100.layers(64 * 5) + H100.head(64 * 5) + 64 * 4096 * H100.token_bytes / H100.bytes_per_second
    assert limit(H100, Round(64, 4096, guess=4, mean_acceptance_length=2.1)) == pytest.approx(64 * 2.1 / step)
