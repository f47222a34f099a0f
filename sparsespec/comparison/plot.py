"""Draws the rows of a comparison: which drafts are accepted, and the throughput."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sparsespec.comparison.acceptance import WIDTH, Acceptance
from sparsespec.comparison.row import ComparisonRow
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
    points: Callable[[Sequence[ComparisonRow]], list[Point]]


def check_plot(path: str | Path) -> None:
    """Raise `BadOption` or `MissingPackage` where nothing could be drawn."""
    if Path(path).suffix != ".svg":
        raise BadOption(f"a plot is an SVG and needs a name that ends in .svg, got {str(path)!r}")
    if not importlib.util.find_spec("matplotlib"):
        raise MissingPackage("a plot needs: pip install matplotlib")


def plot(rows: Sequence[ComparisonRow], path: str | Path) -> None:
    """Draw acceptance by position, by context and by what drafts read, and throughput by `max_num_seqs`.

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


def by_position(rows: Sequence[ComparisonRow]) -> list[Point]:
    """Return the share of drafts that are accepted, by their position in the round."""
    counts = _summed(one for row in rows for one in row.by_position)
    return [Point(at, accepted / verified) for at, (verified, accepted) in sorted(counts.items())]


def by_context(rows: Sequence[ComparisonRow]) -> list[Point]:
    """Return the share of drafts that are accepted, by tokens of context, in at most ten equal parts."""
    counts = _summed(one for row in rows for one in row.by_context)
    if not counts:
        return []
    first = min(counts)
    # contexts are counted in pieces of `WIDTH`, and so are the parts
    width = WIDTH * -(-((max(counts) - first) // WIDTH + 1) // POINTS)
    merged = _summed(Acceptance((at - first) // width, *drafts) for at, drafts in counts.items())
    return [Point(first + (i + 0.5) * width, accepted / verified) for i, (verified, accepted) in sorted(merged.items())]


def by_budget(rows: Sequence[ComparisonRow]) -> list[Point]:
    """Return the share of drafts that are accepted, by the share of the context they read; a point for each budget."""
    budgets: dict[tuple[float | None, int | None], list[ComparisonRow]] = {}
    for row in rows:
        if row.draft_kv_share is not None and row.drafts:
            budgets.setdefault((row.budget, row.min_budget), []).append(row)
    return sorted(_read(group) for group in budgets.values())


def by_max_num_seqs(rows: Sequence[ComparisonRow]) -> list[Point]:
    """Return tokens per second by requests that run at once, of all other settings together."""
    sizes: dict[int, list[ComparisonRow]] = {}
    for row in rows:
        sizes.setdefault(row.setting.max_num_seqs, []).append(row)
    return [Point(size, _sum(ours, "tokens") / _sum(ours, "seconds")) for size, ours in sorted(sizes.items())]


PANELS = (
    Panel("Acceptance by position", "position in the round", "share of drafts accepted", by_position),
    Panel("Acceptance by context", "tokens of context", "share of drafts accepted", by_context),
    Panel("Acceptance by budget", "share of the context that drafts read", "share of drafts accepted", by_budget),
    Panel("Throughput", "requests at once", "tokens per second", by_max_num_seqs),
)


def _curves(rows: Sequence[ComparisonRow]) -> dict[str, list[ComparisonRow]]:
    """Return rows by composition, and by model where there are several."""
    several = len({row.setting.model for row in rows}) > 1
    curves: dict[str, list[ComparisonRow]] = {}
    for row in rows:
        if row.tokens:
            name = f"{row.setting.model}, {row.composition}" if several else row.composition
            curves.setdefault(name, []).append(row)
    return curves


def _summed(counts: Iterable[Acceptance]) -> dict[int, tuple[int, int]]:
    """Return verified and accepted drafts by where they were."""
    found: dict[int, tuple[int, int]] = {}
    for at, verified, accepted in ((one.at, one.verified, one.accepted) for one in counts):
        before = found.get(at, (0, 0))
        found[at] = before[0] + verified, before[1] + accepted
    return found


def _read(rows: Sequence[ComparisonRow]) -> Point:
    drafts = _sum(rows, "drafts")
    share = sum((row.draft_kv_share or 0.0) for row in rows) / len(rows)
    return Point(share, 1 - _sum(rows, "rejected") / drafts)


def _sum(rows: Sequence[ComparisonRow], name: str) -> float:
    return sum(getattr(row, name) for row in rows)
