"""Draws rows of `sparsespec bench`: the time of each step, and where it went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsespec.benchmarks.breakdown import KINDS
from sparsespec.benchmarks.report import Row, dress, figure

STYLES = ("-", "--", ":", "-.")
HATCHES = ("", "////", "....", "xxxx", "", "\\\\\\\\")
GREYS = ("0.35", "0.95", "0.95", "0.95", "0.75", "1.0")


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the rows that were measured; bars below, where there is a breakdown."""
    drawn = [row for row in rows if "failed" not in row]
    broken = [row for row in drawn if row.get("breakdown")]
    height = 3.2 + 0.3 * len(drawn)
    bars = 1.2 + 0.5 * len(broken) if broken else 0.0
    with figure(path, (9, height + bars)) as drawing:
        if broken:
            steps, parts = drawing.subplots(2, 1, height_ratios=(height, bars))
            _bars(parts, broken)
        else:
            steps = drawing.subplots()
        _steps(steps, drawn)


def _steps(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the milliseconds of each step, a line for each row."""
    for i, row in enumerate(rows):
        times = row["step_ms"]
        label = f"{row['composition']}: p50 {times['p50']:.2f} ms, p95 / p50 {times['p95'] / times['p50']:.2f}"
        grey = str(0.55 * (i // len(STYLES)) / max(1, (len(rows) - 1) // len(STYLES)))
        axes.plot(row["steps_ms"], STYLES[i % len(STYLES)], color=grey, lw=1, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8)
    dress(axes, "y")


def _bars(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the milliseconds of a step by what they went into, a bar for each row."""
    for place, row in enumerate(rows):
        left = 0.0
        for kind, grey, hatch in zip(KINDS, GREYS, HATCHES, strict=True):
            ms = row["breakdown"]["ms"][kind]
            label = kind if not place else None
            axes.barh(place, ms, 0.62, left=left, color=grey, hatch=hatch, edgecolor="black", lw=0.8, label=label)
            left += ms
    axes.set_yticks(range(len(rows)), [row["composition"] for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("ms of a step")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(KINDS), frameon=False, fontsize=8)
    dress(axes, "x")
