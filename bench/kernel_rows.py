"""The rows of `bench.kernels`: what a line of the table shows, and the JSON lines that `--out` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsespec.core.errors import BadOption

Row = dict[str, Any]
HEAD = (
    f"{'model':13} {'op':13} {'case':30} {'p20':>8} {'p50':>8} {'p80':>8}  {'share':>6}  "
    "peers, and what the bars say (µs)"
)
Key = tuple[str, str, str]
KEY = ("model", "op", "case")
ORIGIN = ("date", "device", "threads", "sparsespec", "torch", "cuda", "triton", "flashinfer")


def key_of_row(row: Row) -> Key:
    """Return what tells a case from the others."""
    return row["model"], row["op"], row["case"]


def line_of(row: Row) -> str:
    """Return the row as the table shows it."""
    label = f"{row['model']:13} {row['op']:13} {row['case']:30}"
    if "skipped" in row:
        return f"{label} skipped: {row['skipped']}"
    if "red" in row:
        return f"{label} RED, not timed: {_brief(row['red'], 120)}"
    times = row["micros"]
    figures = " ".join(f"{times[p]:8.1f}" for p in ("p20", "p50", "p80"))
    share = f"{row['share']:6.1%}" if "share" in row else f"{'—':>6}"
    notes = [
        *(f"{name} {t['p50']:.1f} µs ({times['p50'] / t['p50']:.2f} ×)" for name, t in row.get("peers", {}).items()),
        *(f"{name} was not timed ({_brief(why, 60)})" for name, why in row.get("peers_failed", {}).items()),
        *row.get("bars", ()),
    ]
    return f"{label} {figures}  {share}  {', '.join(notes)}".rstrip()


def origin_of(header: Row) -> str:
    """Return what figures depend on, in a line."""
    return "  ".join(f"{key}={header[key]}" for key in ORIGIN if header.get(key) is not None)


def read(path: Path) -> list[tuple[Row, Row]]:
    """Return (header, row) pairs, the newest of each model, op and case.

    Raises:
        BadOption: if the file cannot be read, or holds something else.
    """
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise _unfit(path, f"cannot be read: {error.strerror}") from error
    pairs = sorted(_pairs(path, lines), key=lambda pair: pair[0]["date"])
    if not pairs:
        raise _unfit(path, "has no rows")
    return list({key_of_row(row): (header, row) for header, row in pairs}.values())


def _pairs(path: Path, lines: list[str]) -> Iterator[tuple[Row, Row]]:
    header: Row | None = None
    for number, line in enumerate(lines, 1):
        values = _parsed(line)
        if values and values["kind"] == "header":
            header = values
        elif values and header:
            yield header, values
        else:
            raise _unfit(path, f"holds something else in line {number}")


def _unfit(path: Path, why: str) -> BadOption:
    return BadOption(f"--read takes a file that --out of bench.kernels wrote; {path} {why}")


def _parsed(line: str) -> Row | None:
    """Return a header or a row, None where the line is neither."""
    try:
        values = json.loads(line)
        if values["kind"] == "header":
            return values if isinstance(values["date"], str) else None
        line_of(values)
        return values
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _brief(why: object, length: int) -> str:
    return " ".join(str(why).split())[:length]
