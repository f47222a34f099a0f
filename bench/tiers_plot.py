"""Draws rows of `bench.tiers`: where the pages of the device were, step by step, and what the host held."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.row_file import Row


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw one picture a row, all of one width."""
    drawn = [row for row in rows if "failed" not in row and "by turns" not in row["composition"]]
    figure: Any = importlib.import_module("matplotlib.figure").Figure(figsize=(9, 0.6 + 1.7 * len(drawn)))
    for axes, row in zip(figure.subplots(len(drawn), 1, squeeze=False)[:, 0], drawn, strict=True):
        _pages(axes, row)
    figure.tight_layout()
    figure.savefig(path, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})


def _pages(axes: Any, row: Row) -> None:
    pages, over_time = row["pages"], row["over_time"]
    steps = range(len(over_time["free"]))
    free = [n / pages for n in over_time["free"]]
    moving = [n / pages for n in over_time["moving"]]
    held = [1 - f - m for f, m in zip(free, moving, strict=True)]
    axes.stackplot(steps, held, moving, free, colors=("0.75", "0.35", "1.0"), labels=("held", "being copied", "free"))
    axes.plot(steps, [n / pages for n in over_time["host"]], color="black", linestyle="--", label="on the host")
    axes.set_ylim(0, max(1.0, *(n / pages for n in over_time["host"])) * 1.02)
    axes.margins(x=0)
    axes.set_ylabel("pages")
    axes.set_xlabel("step")
    axes.yaxis.set_major_formatter(importlib.import_module("matplotlib.ticker").PercentFormatter(1.0))
    tiers = row["spec"]["tiers"]["name"] if isinstance(row["spec"]["tiers"], dict) else str(row["spec"]["tiers"])
    in_use = "" if row["in_use"] is None else f", {row['in_use']:.1%} in use while somebody waits"
    axes.set_title(
        f"{tiers}, demand {row['demand']:g} ×: {row['tokens_per_second']:.0f} tokens/s{in_use}", fontsize=9, loc="left"
    )
    axes.legend(fontsize=7, loc="lower right", ncols=4)
