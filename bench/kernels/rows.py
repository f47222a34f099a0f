"""The rows of `bench.kernels`: what a line of the table shows, and the JSON lines that `--out` wrote."""

from __future__ import annotations

from pathlib import Path

from sparsespec.benchmarks.report import Pair, Row, cell, read_rows

HEAD = (
    f"{'model':13} {'op':15} {'case':30} {'p20':>8} {'p50':>8} {'p80':>8}  {'share':>6}  "
    "peers, and what the bars say (µs)"
)
Key = tuple[str, str, str]
KEY = ("model", "op", "case")


def key_of_row(row: Row) -> Key:
    """Return what tells a case from the others."""
    return row["model"], row["op"], row["case"]


def line_of(row: Row) -> str:
    """Return the row as the table shows it."""
    label = f"{row['model']:13} {row['op']:15} {row['case']:30}"
    if "skipped" in row:
        return f"{label} skipped: {row['skipped']}"
    if "red" in row:
        return f"{label} RED, not timed: {_brief(row['red'], 120)}"
    times = row["micros"]
    figures = " ".join(f"{times[p]:8.1f}" for p in ("p20", "p50", "p80"))
    notes = [
        *(f"{name} {t['p50']:.1f} µs ({times['p50'] / t['p50']:.2f} ×)" for name, t in row.get("peers", {}).items()),
        *(f"{name} was not timed ({_brief(why, 60)})" for name, why in row.get("peers_failed", {}).items()),
        *row.get("bars", ()),
    ]
    return f"{label} {figures}  {cell(row.get('share'), '6.1%')}  {', '.join(notes)}".rstrip()


def read(path: Path) -> list[Pair]:
    """Return (header, row) pairs, the newest of each model, op and case; raises `BadOption`."""
    return read_rows(path, "bench.kernels", key=lambda _, row: key_of_row(row), line_of=line_of)


def _brief(why: object, length: int) -> str:
    return " ".join(str(why).split())[:length]
