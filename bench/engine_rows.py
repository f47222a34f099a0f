"""The rows of `bench.engine`: what a line of the table shows, and the JSON lines that `--out` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.kernel_rows import ORIGIN
from bench.row_file import Pair, Row, read_rows
from sparsespec.core.errors import brief

HEAD = (
    f"{'context':>7} {'tokens/s':>9} {'±':>5} {'p50 ms':>8} {'p95':>8} {'idle':>6} {'host ms':>7} {'accepted':>8} "
    f"{'fwd/tok':>7} {'MB/tok':>8} {'roofline':>8} {'× dense':>7}  composition"
)
KEY = ("model", "dtype", "batch", "context", "output", "accept", "temperature")
"""Fields of a header that tell runs apart, besides the composition."""


def line_of(row: Row) -> str:
    """Return the row as the table shows it."""
    label = row["composition"]
    if "failed" in row:
        return f"{'—':>7} {label}: {brief(row['failed'])}"
    host, times, megabytes = row["host_ms"]["all"], row["step_ms"], row["kv_bytes_a_token"]
    cells = (
        _cell(row["context_mean"], "7.0f"),
        _cell(row["tokens_per_second"], "9.0f"),
        _cell(spread(row["windows"]), "5.1%"),
        *(_cell(times[name], "8.3f") for name in ("p50", "p95")),
        _cell(row["gpu_idle"], "6.1%"),
        _cell(host, "7.3f"),
        _cell(row["accepted_a_round"], "8.2f"),
        _cell(row["forwards_a_token"], "7.2f"),
        _cell(None if megabytes is None else 1e-6 * megabytes, "8.2f"),
        _cell(row["of_roofline"], "8.1%"),
        _cell(row["of_dense"], "7.2f"),
    )
    notes = [*(["synthetic"] if row["synthetic"] else []), *_oddities(row)]
    return f"{' '.join(cells)}  {label}{'  (' + ', '.join(notes) + ')' if notes else ''}"


def parts_of(row: Row) -> str | None:
    """Return where the time of a step went, in a line; None where nobody looked."""
    if not row.get("breakdown"):
        return None
    return "        " + "  ".join(f"{kind} {ms:.3f} ms" for kind, ms in row["breakdown"]["ms"].items())


def spread(windows: Sequence[float]) -> float:
    """Return half the distance between the fastest and the slowest part of a run, as a share of their mean."""
    return (max(windows) - min(windows)) * len(windows) / (2 * sum(windows) or 1)


def origin_of(header: Row) -> str:
    """Return what figures depend on, in a line."""
    keys = (*KEY, "weights", *ORIGIN)
    return "  ".join(f"{key}={header[key]}" for key in keys if header.get(key) is not None)


def read(path: Path) -> list[Pair]:
    """Return (header, row) pairs, the newest of each composition under each load; raises `BadOption`."""
    return read_rows(path, "bench.engine", key=_key, line_of=line_of, wrote=lambda header: header["bench"] == "engine")


def _key(header: Row, row: Row) -> str:
    return json.dumps([*(header.get(name) for name in KEY), row["composition"]])


def _cell(value: float | None, form: str) -> str:
    return format("—", ">" + form.partition(".")[0]) if value is None else format(value, form)


def _oddities(row: Row) -> Iterator[str]:
    """Yield what a reader of the figures should know."""
    if row["steps"] < row["load"]["steps"]:
        yield f"{row['steps']} steps"
    if row["preempted"]:
        yield f"{row['preempted']} preemptions"
    if round(row["running"]) < row["load"]["batch"]:
        yield f"{row['running']:.1f} requests ran"
