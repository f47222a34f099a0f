"""The cases of `bench.kernels.cpu_cases` under pytest-benchmark; `python -m bench.kernels` runs them without a GPU.

    pytest bench/kernels/pytest_ops.py --benchmark-only

A plain `pytest` does not collect this file.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.kernels.cpu_cases import CpuCase, Ready, cases


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
    benchmark.group = case.op.name
    benchmark.extra_info = {"sizes": case.sizes}
    benchmark(ready.call)
