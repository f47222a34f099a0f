"""The ops of `bench.cpu_cases` under pytest-benchmark; `python -m bench.kernels` runs them where there is no GPU.

    pytest bench/kernels_cpu.py --benchmark-only

A plain `pytest` does not collect this file.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.cpu_cases import CpuCase, Ready, cases


@pytest.fixture
def ready(case: CpuCase) -> Ready:
    """Return the op on its inputs, checked; what is red never reaches the timer."""
    made = case.make()
    wrong = made.check()
    if wrong:
        pytest.fail(wrong, pytrace=False)
    return made


@pytest.mark.parametrize("case", cases(), ids=str)
def test_op(ready: Ready, case: CpuCase, benchmark: Any) -> None:
    benchmark.group = case.op
    benchmark.extra_info = {"sizes": case.sizes}
    benchmark(ready.call)
