"""Times the references on a CPU with pytest-benchmark, and makes a row of what it measured in each of its tests."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.kernels.cpu_cases import IMPL, CpuCase
from bench.kernels.rows import HEAD, KEY, Row, line_of
from sparsespec.benchmarks.report import Report, machine, version_of
from sparsespec.benchmarks.timing import percentiles
from sparsespec.core.errors import MissingPackage

OPTIONS = (
    *("-p", "no:terminal", "-p", "no:cacheprovider"),
    *("--benchmark-only", "--benchmark-disable-gc", "--benchmark-min-rounds=20", "--benchmark-max-time=1"),
    *("--benchmark-warmup=on", "--benchmark-warmup-iterations=5"),
)


class RowPerTest:
    """A pytest plugin: reports each test as soon as it has run."""

    def __init__(self, report: Report) -> None:
        self.rows: list[Row] = []
        self._report = report

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        """Report what was measured, or why nothing was."""
        case: CpuCase = item.callspec.params["case"]
        key = {**dict(zip(KEY, case.key, strict=True)), "sizes": case.sizes}
        if call.excinfo is not None:
            # what pytest.fail says is the sentence of a check
            kind = "" if call.excinfo.typename == "Failed" else f"{call.excinfo.typename}: "
            row: Row = {**key, "red": f"{kind}{call.excinfo.value}"}
        elif call.when == "call":
            seconds = item.funcargs["benchmark"].stats.stats.data
            row = {**key, "micros": percentiles([1e6 * s for s in seconds])._asdict(), "rounds": len(seconds)}
        else:
            return
        self.rows.append(row)
        self._report.row(line_of(row), **row)


def run(cases: Sequence[CpuCase], out: Path | None) -> list[Row]:
    """Time `cases`; return their rows.

    Raises:
        MissingPackage: if pytest-benchmark is not installed.
    """
    if not importlib.util.find_spec("pytest_benchmark"):
        raise MissingPackage("timing ops on a CPU needs: pip install pytest-benchmark")
    pytest = importlib.import_module("pytest")
    file = importlib.import_module("bench.kernels.pytest_ops").__file__
    where = {**machine(), "pytest_benchmark": version_of("pytest-benchmark"), "impl": IMPL, "dtype": "float32"}
    with Report(out, **where) as report:
        print(HEAD)
        plugin = RowPerTest(report)
        code = pytest.main([*OPTIONS, *(f"{file}::test_op[{case}]" for case in cases)], plugins=[plugin])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest stopped with {code!r}")
    return plugin.rows
