"""How a case on a GPU becomes a row; the clock is a fake, so that this runs anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.kernels import gpu
from bench.kernels.case import Case, Ready
from sparsespec.benchmarks import report
from sparsespec.benchmarks.timing import Times, percentiles
from sparsespec.core.errors import MissingPackage

Make = Callable[[], Ready]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a call take as many microseconds as it returns."""
    monkeypatch.setattr(gpu, "time_calls", lambda calls: Times(*[calls[0]()] * 3))


def case(make: Make) -> Case:
    return Case("smollm2-135m", "copy_pages", "a case", make, share=0.5, ratio=1.0)


def timed() -> Ready:
    peers = {"same": lambda: [lambda: 20.0], "other": lambda: [lambda: 5.0]}
    return Ready([lambda: 10.0], 1000, lambda: "", peers, agrees=lambda got: got == 20.0)


def red() -> Ready:
    return Ready([lambda: pytest.fail("timed")], 1000, lambda: "it errs")


def skipped() -> Ready:
    raise MissingPackage("it needs a package")


def failed() -> Ready:
    raise ValueError("no such device")


def test_a_timed_case_has_its_share_its_peers_and_its_bars() -> None:
    row = gpu.measure(case(timed), ceiling=1e9)
    assert row["share"] == pytest.approx(0.1)
    assert {name: times["p50"] for name, times in row["peers"].items()} == {"same": 20.0}
    assert row["peers_failed"] == {"other": "its result is not the op's"}
    assert row["bars"] == ["MISSES 50%", "meets 1.00 × peer"]


@pytest.mark.parametrize(("micros", "best"), [(45.0, None), (45.1, None), (45.0, 15.0), (45.0, 14.9)])
def test_a_bar_may_be_a_time_and_a_time_beyond_a_peer_s(micros: float, best: float | None) -> None:
    held = Case("smollm2-135m", "sample", "a case", timed, ratio=1.0, micros=45, beyond=30)
    verdicts = gpu.verdicts(held, 0.5, micros, best)
    alone = f"{'meets' if micros == 45 else 'MISSES'} 45 µs"
    beside = ["MISSES 1.00 × peer", alone, f"{'meets' if best == 15 else 'MISSES'} 30 µs beyond peer"]
    assert verdicts == (beside if best else [alone])


@pytest.mark.parametrize(
    ("make", "key", "why"),
    [
        (red, "red", "it errs"),
        (skipped, "skipped", "it needs a package"),
        (failed, "red", "it failed with ValueError: no such device"),
    ],
)
def test_what_cannot_be_timed_says_why(make: Make, key: str, why: str) -> None:
    row = gpu.measure(case(make), ceiling=1e9)
    assert (row[key], "micros" in row) == (why, False)


def test_a_run_writes_a_row_of_each_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "read_ceiling", lambda: {"sum": 1e9, "max": 5e8})
    monkeypatch.setattr(report, "gpu", lambda: {"date": "2026-11-22"})
    out = tmp_path / "results.jsonl"
    rows = gpu.run([case(timed), case(red)], out)
    header, *written = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert (header["ceiling"], header["readers"]["sum"]) == (1e9, "1 GB/s")
    assert written == [{"kind": "row", **row} for row in rows]
    assert ["red" in row for row in rows] == [False, True]


def test_percentiles_are_of_sorted_times() -> None:
    assert percentiles([float(n) for n in range(10, -1, -1)]) == Times(2.0, 5.0, 8.0)
