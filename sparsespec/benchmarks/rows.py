"""The rows of `sparsespec bench`: what a line of the table shows, and the JSON lines that `--out` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from sparsespec.benchmarks import report
from sparsespec.benchmarks.report import Pair, Row, cell, read_rows
from sparsespec.core.errors import brief

HEAD = (
    f"{'context':>7} {'tokens/s':>9} {'±':>5} {'p50 ms':>8} {'p95':>8} {'idle':>6} {'host ms':>7} {'length':>8} "
    f"{'fwd/tok':>7} {'MB/tok':>8} {'roofline':>8} {'× dense':>7}  composition"
)
KEY = ("model", "dtype", "batch", "context", "output", "accept", "temperature")
"""Fields of a header that tell runs apart, besides the composition."""


def line_of(row: Row) -> str:
    """Return the row as the table shows it."""
    label = row["composition"]
    if "failed" in row:
        return f"{'—':>7} {label}: {brief(row['failed'])}"
    host, times, megabytes = row["host_ms"]["all"], row["step_ms"], row["kv_bytes_per_token"]
    cells = (
        cell(row["context_mean"], "7.0f"),
        cell(row["tokens_per_second"], "9.0f"),
        cell(spread(row["windows"]), "5.1%"),
        *(cell(times[name], "8.3f") for name in ("p50", "p95")),
        cell(row["gpu_idle"], "6.1%"),
        cell(host, "7.3f"),
        cell(row["mean_acceptance_length"], "8.2f"),
        cell(row["forwards_per_token"], "7.2f"),
        cell(None if megabytes is None else 1e-6 * megabytes, "8.2f"),
        cell(row["of_roofline"], "8.1%"),
        cell(row["of_dense"], "7.2f"),
    )
    notes = [*(["simulated"] if row["simulated"] else []), *_oddities(row)]
    return f"{' '.join(cells)}  {label}{'  (' + ', '.join(notes) + ')' if notes else ''}"


def parts_of(row: Row) -> str | None:
    """Return where the time of a step went, in a line; None without a breakdown."""
    if not row.get("breakdown"):
        return None
    return "        " + "  ".join(f"{kind} {ms:.3f} ms" for kind, ms in row["breakdown"]["ms"].items())


def spread(windows: Sequence[float]) -> float:
    """Return half the distance between the fastest and the slowest part of a run, as a share of their mean."""
    return (max(windows) - min(windows)) * len(windows) / (2 * sum(windows) or 1)


def origin_of(header: Row) -> str:
    """Return what figures depend on, in a line."""
    return report.origin_of(header, *KEY, "weights")


def read(path: Path) -> list[Pair]:
    """Return (header, row) pairs, the newest of each composition under each load; raises `BadOption`."""
    return read_rows(
        path, "sparsespec bench", key=_key, line_of=line_of, wrote=lambda header: header["bench"] == "engine"
    )


def _key(header: Row, row: Row) -> str:
    return json.dumps([*(header.get(name) for name in KEY), row["composition"]])


def _oddities(row: Row) -> Iterator[str]:
    """Yield what a reader of the figures should know."""
    if row["steps"] < row["load"]["steps"]:
        yield f"{row['steps']} steps"
    if row["preempted"]:
        yield f"{row['preempted']} preemptions"
    if round(row["running"]) < row["load"]["batch"]:
        yield f"{row['running']:.1f} requests ran"
