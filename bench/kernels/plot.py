"""Draws rows of `bench.kernels`: how much of the read ceiling each case reaches, and how much FlashInfer does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.kernels.rows import Row, key_of_row
from bench.kernels.table import cases
from sparsespec.benchmarks.report import dress, figure, percent_axis
from sparsespec.core.errors import BadOption

OURS = "sparsespec"
"""The peer that is not FlashInfer: the project's kernel, beside a kernel that was given."""
PEERS = {"FlashInfer": "D", "the project's kernel": "o"}


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the rows that have a share, in the order of the table.

    Raises:
        BadOption: if there are none.
    """
    required = {case.key: case.share for case in cases()}
    order = list(required)
    drawn = [(key_of_row(row), row) for row in rows if "share" in row]
    if not drawn:
        raise BadOption("--plot draws shares of a GPU's read ceiling, and no row has one")
    drawn.sort(key=lambda one: order.index(one[0]) if one[0] in order else len(order))
    with figure(path, (9, 0.34 * len(drawn) + 1.6)) as drawing:
        axes = drawing.subplots()
        for i, (key, row) in enumerate(drawn):
            axes.barh(i, row["share"], 0.62, color="0.78", edgecolor="black", lw=0.8, label="this kernel")
            bar = required.get(key)
            if bar is not None:
                axes.plot(bar, i, "|", color="black", ms=19, mew=2.4, label="required", ls="none")
            for (label, marker), share in zip(PEERS.items(), _peers(row), strict=True):
                if share:
                    axes.plot(share, i, marker, color="black", mfc="white", ms=6, mew=1.3, label=label, ls="none")
            note = f"{row['share']:.0%}, {row['micros']['p50']:.1f} µs"
            axes.text(1.01, i, note, va="center", transform=axes.get_yaxis_transform())
        _label(axes, [f"{model}: {op}, {case}" for (model, op, case), _ in drawn])


def _peers(row: Row) -> tuple[float | None, float | None]:
    """Return the shares of FlashInfer's fastest way and of the project's kernel, where they were timed."""
    share = {name: row["share"] * row["micros"]["p50"] / t["p50"] for name, t in row.get("peers", {}).items()}
    ours = share.pop(OURS, None)
    return max(share.values(), default=None), ours


def _label(axes: Any, labels: Sequence[str]) -> None:
    """Name rows and axis, and put a legend of what was drawn below."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(0, max(1.0, axes.get_xlim()[1]))
    percent_axis(axes.xaxis)
    axes.set_xlabel("bytes per second, as a share of the read ceiling")
    dress(axes, "x")
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.75 / axes.figure.get_figheight())}
    axes.legend(handles.values(), handles, **below, ncols=4, frameon=False)
