"""Draws rows of `bench.lengths`: a square for each cell, darker where the judged length loses more."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.row_file import Row

DARKEST = 0.7
"""A cell of this ratio, or below, is as dark as it gets."""


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw a table of batches and contexts for each acceptance, side by side."""
    drawn = [row for row in rows if "failed" not in row]
    accepts = list(dict.fromkeys(row["accept"] for row in drawn))
    figure: Any = importlib.import_module("matplotlib.figure").Figure(figsize=(4.2 * len(accepts), 3.2))
    for axes, accept in zip(figure.subplots(1, len(accepts), squeeze=False)[0], accepts, strict=True):
        _table(axes, [row for row in drawn if row["accept"] == accept])
        made_up = "" if accept is None else f", {accept:g} accepted"
        axes.set_title(f"{drawn[0]['judged']}{made_up}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})


def _table(axes: Any, rows: Sequence[Row]) -> None:
    batches, contexts = (sorted({row[name] for row in rows}) for name in ("batch", "context"))
    for row in rows:
        x, y = contexts.index(row["context"]), batches.index(row["batch"])
        shade = max(0.0, min(1.0, (row["ratio"] - DARKEST) / (1 - DARKEST)))
        axes.fill_between((x - 0.5, x + 0.5), y - 0.5, y + 0.5, color=str(0.35 + 0.65 * shade), lw=0)
        axes.text(x, y, f"{row['ratio']:.2f}\n{row['better']}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(contexts)), contexts)
    axes.set_yticks(range(len(batches)), batches)
    axes.set_xlim(-0.5, len(contexts) - 0.5)
    axes.set_ylim(-0.5, len(batches) - 0.5)
    axes.set_xlabel("context")
    axes.set_ylabel("batch")
