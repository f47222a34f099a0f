"""Draws the rows of a comparison: which drafts stand, and what throughput becomes of it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sparsespec.comparison.rounds import WIDTH, Stood
from sparsespec.comparison.row import Row
from sparsespec.core.errors import BadOption, MissingPackage

STYLES = ("o-", "s--", "^:", "D-.", "v-", "x--", "*:", "P-.")
POINTS = 10
"""Points of a curve over contexts, at most."""


class Point(NamedTuple):
    """A point of a curve."""

    x: float
    y: float


class Panel(NamedTuple):
    """What one of the four drawings shows."""

    title: str
    x: str
    y: str
    points: Callable[[Sequence[Row]], list[Point]]


def check_plot(path: str | Path) -> None:
    """Raise `BadOption` or `MissingPackage` where nothing could be drawn."""
    if Path(path).suffix != ".svg":
        raise BadOption(f"a plot is an SVG and needs a name that ends in .svg, got {str(path)!r}")
    if not importlib.util.find_spec("matplotlib"):
        raise MissingPackage("a plot needs: pip install matplotlib")


def plot(rows: Sequence[Row], path: str | Path) -> None:
    """Draw acceptance by place in the round, by context and by what drafts read, and throughput by batch.

    A composition is a curve, over all settings of a model together.

    Args:
        rows: What `compare` returned; those that failed are left out.
        path: Where, a name that ends in .svg.

    Raises:
        BadOption: for another name.
        MissingPackage: without matplotlib.
    """
    check_plot(path)
    figure: Any = importlib.import_module("matplotlib.figure").Figure(figsize=(10, 8))
    curves = _curves(rows)
    for axes, panel in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for i, (name, ours) in enumerate(curves.items()):
            points = panel.points(ours)
            if points:
                grey = str(0.5 * (i // len(STYLES)))
                axes.plot(*zip(*points, strict=True), STYLES[i % len(STYLES)], color=grey, lw=1, ms=4, label=name)
        axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        axes.set_ylim(bottom=0)
        axes.grid(color="0.85", lw=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {label: handle for pair in drawn for handle, label in zip(*pair, strict=True)}
    names = [name for name in curves if name in handles]
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.legend([handles[name] for name in names], names, loc="upper center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})


def by_position(rows: Sequence[Row]) -> list[Point]:
    """Return the share of drafts that stand, by their place in the round."""
    counts = _summed(one for row in rows for one in row.by_position)
    return [Point(at, stood / judged) for at, (judged, stood) in sorted(counts.items())]


def by_context(rows: Sequence[Row]) -> list[Point]:
    """Return the share of drafts that stand, by tokens of context, in at most ten equal parts."""
    counts = _summed(one for row in rows for one in row.by_context)
    if not counts:
        return []
    first = min(counts)
    # contexts are counted in pieces of `WIDTH`, and so are the parts
    width = WIDTH * -(-((max(counts) - first) // WIDTH + 1) // POINTS)
    merged = _summed(Stood((at - first) // width, judged, stood) for at, (judged, stood) in counts.items())
    return [Point(first + (part + 0.5) * width, stood / judged) for part, (judged, stood) in sorted(merged.items())]


def by_budget(rows: Sequence[Row]) -> list[Point]:
    """Return the share of drafts that stand, by the share of the context that they read; a point for each budget."""
    budgets: dict[tuple[float | None, int | None], list[Row]] = {}
    for row in rows:
        if row.draft_kv_share is not None and row.drafts:
            budgets.setdefault((row.budget, row.min_budget), []).append(row)
    return sorted(_read(group) for group in budgets.values())


def by_batch(rows: Sequence[Row]) -> list[Point]:
    """Return tokens per second by batch, of all other settings together."""
    batches: dict[int, list[Row]] = {}
    for row in rows:
        batches.setdefault(row.setting.batch, []).append(row)
    return [Point(batch, _sum(ours, "tokens") / _sum(ours, "seconds")) for batch, ours in sorted(batches.items())]


PANELS = (
    Panel("Which drafts stand", "place in the round", "share that stands", by_position),
    Panel("Where they stand", "tokens of context", "share that stands", by_context),
    Panel("What they read", "share of the context that drafts read", "share that stands", by_budget),
    Panel("What becomes of it", "requests at once", "tokens per second", by_batch),
)


def _curves(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return rows by composition, and by model where there are several."""
    several = len({row.setting.model for row in rows}) > 1
    curves: dict[str, list[Row]] = {}
    for row in rows:
        if row.tokens:
            name = f"{row.setting.model}, {row.composition}" if several else row.composition
            curves.setdefault(name, []).append(row)
    return curves


def _summed(counts: Iterable[Stood]) -> dict[int, tuple[int, int]]:
    """Return judged and standing drafts by where they were."""
    found: dict[int, tuple[int, int]] = {}
    for at, judged, stood in ((one.at, one.judged, one.stood) for one in counts):
        before = found.get(at, (0, 0))
        found[at] = before[0] + judged, before[1] + stood
    return found


def _read(rows: Sequence[Row]) -> Point:
    drafts = _sum(rows, "drafts")
    share = sum((row.draft_kv_share or 0.0) for row in rows) / len(rows)
    return Point(share, 1 - _sum(rows, "rejected") / drafts)


def _sum(rows: Sequence[Row], name: str) -> float:
    return sum(getattr(row, name) for row in rows)
