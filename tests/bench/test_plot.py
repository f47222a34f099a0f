"""`--plot`: what stands in the drawing, without a drawing library where there is none."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from sparsespec.benchmarks import throughput
from sparsespec.benchmarks.breakdown import KINDS

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
HEADER = {"kind": "header", "bench": "engine", "date": "2026-11-22", "device": "a GPU", "model": "qwen3-8b"}


def row(composition: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": "row",
        "composition": composition,
        "dense": composition == "dense",
        "simulated": False,
        "load": {"steps": 3, "batch": 2},
        "steps": 3,
        "running": 2.0,
        "preempted": 0,
        "context_mean": 6000.0,
        "tokens_per_second": 2000.0,
        "windows": [1900.0, 2100.0],
        "step_ms": {"mean": 10.0, "p50": 10.0, "p95": 11.0, "max": 12.0},
        "steps_ms": [10.0, 11.0, 9.0],
        "gpu_idle": 0.03,
        "host_ms": {"all": 0.5},
        "mean_acceptance_length": None,
        "forwards_per_token": 1.0,
        "kv_bytes_per_token": 8e8,
        "of_roofline": 0.9,
        "of_dense": 1.0,
        **more,
    }


def drawn(folder: Path, *rows: dict[str, Any]) -> list[str]:
    """Return what stands in the drawing."""
    results, svg = folder / "results.jsonl", folder / "results.svg"
    results.write_text("".join(json.dumps(line) + "\n" for line in (HEADER, *rows)), "utf-8")
    assert throughput.main(["--read", str(results), "--plot", str(svg)]) == 0
    # matplotlib draws letters as shapes, and leaves what they say in comments
    lines = map(str.strip, svg.read_text("utf-8").splitlines())
    return [line[5:-4] for line in lines if line.startswith("<!-- ")]


@needs_matplotlib
def test_every_composition_has_a_line_and_says_its_quantiles(tmp_path: Path) -> None:
    said = drawn(tmp_path, row("dense"), row("sparsespec"), {"kind": "row", "composition": "vegas", "failed": "why"})
    assert {"dense: p50 10.00 ms, p95 / p50 1.10", "sparsespec: p50 10.00 ms, p95 / p50 1.10", "step"} <= {*said}
    assert not [text for text in said if "vegas" in text or text in KINDS]


@needs_matplotlib
def test_breakdowns_are_bars_below(tmp_path: Path) -> None:
    ms = dict(zip(KINDS, (4.0, 3.0, 0.5, 0.5, 1.0, 1.0), strict=True))
    said = drawn(tmp_path, row("dense", breakdown={"ms": ms, "kernels": []}), row("sparsespec"))
    assert {*KINDS, "ms of a step"} <= {*said}


def test_a_row_with_everything_is_one_line_and_its_breakdown_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.jsonl"
    full = row("sparsespec", simulated=True, preempted=2, running=1.2, steps=2, breakdown={"ms": {"gemm": 4.0}})
    results.write_text(f"{json.dumps(HEADER)}\n{json.dumps(full)}\n", "utf-8")
    throughput.main(["--read", str(results)])
    _, head, line, parts = capsys.readouterr().out.splitlines()
    assert line.split()[:4] == ["6000", "2000", "5.0%", "10.000"]
    assert line.endswith("90.0%    1.00  sparsespec  (simulated, 2 steps, 2 preemptions, 1.2 requests ran)")
    assert line.index("sparsespec") == head.index("composition")
    assert parts.strip() == "gemm 4.000 ms"
