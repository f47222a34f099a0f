"""Reads back what `--out` of a benchmark wrote: JSON lines, each run's header before its rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

from sparsespec.core.errors import BadOption

Row = dict[str, Any]
Pair = tuple[Row, Row]


def read_rows(
    path: Path,
    bench: str,
    *,
    key: Callable[[Row, Row], Hashable],
    line_of: Callable[[Row], str],
    wrote: Callable[[Row], bool] = lambda header: True,
) -> list[Pair]:
    """Return (header, row) pairs, the newest of each key.

    Args:
        path: The file.
        bench: Name of the benchmark, for errors.
        key: What tells a pair from others.
        line_of: What shows a row; a row that it cannot show is none.
        wrote: Whether a header is this benchmark's.

    Raises:
        BadOption: if the file cannot be read, or holds something else.
    """

    def unfit(why: str) -> BadOption:
        return BadOption(f"--read takes a file that --out of {bench} wrote; {path} {why}")

    def pairs(lines: list[str]) -> Iterator[Pair]:
        header: Row | None = None
        for number, line in enumerate(lines, 1):
            values = _parsed(line, line_of, wrote)
            if values and values["kind"] == "header":
                header = values
            elif values and header:
                yield header, values
            else:
                raise unfit(f"holds something else in line {number}")

    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise unfit(f"cannot be read: {error.strerror}") from error
    found = sorted(pairs(lines), key=lambda pair: pair[0]["date"])
    if not found:
        raise unfit("has no rows")
    return list({key(*pair): pair for pair in found}.values())


def _parsed(line: str, line_of: Callable[[Row], str], wrote: Callable[[Row], bool]) -> Row | None:
    """Return a header or a row, None where the line is neither."""
    try:
        values = json.loads(line)
        if values["kind"] == "header":
            return values if wrote(values) and isinstance(values["date"], str) else None
        line_of(values)
        return values
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
