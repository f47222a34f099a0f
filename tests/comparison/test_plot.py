"""What is drawn of a comparison, and that curves are what the counts say."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from sparsespec.comparison import plot as drawing
from sparsespec.comparison.acceptance import Acceptance
from sparsespec.comparison.plot import Point, by_budget, by_context, by_max_num_seqs, by_position, plot
from sparsespec.comparison.row import ComparisonRow, Setting
from sparsespec.core.errors import BadOption, MissingPackage

SETTING = Setting("tiny", "generated", 2, 8, 0.0, None, 4)
ROW = ComparisonRow(
    SETTING,
    "sparsespec",
    0.05,
    16,
    None,
    "identical",
    tokens=30,
    seconds=2.0,
    drafts=20,
    rejected=5,
    draft_kv_share=0.1,
    by_position=(Acceptance(1, 10, 9), Acceptance(2, 10, 6)),
    by_context=(Acceptance(64, 8, 4), Acceptance(128, 12, 11)),
)
needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")


def test_shares_are_of_all_rows_together() -> None:
    other = replace(ROW, by_position=(Acceptance(1, 30, 11),), by_context=(Acceptance(64, 2, 1),))
    assert by_position([ROW, other]) == [Point(1, 0.5), Point(2, 0.6)]
    assert by_context([ROW, other]) == [Point(96, 0.5), Point(160, 11 / 12)]
    assert by_context([]) == by_position([]) == []


def test_long_contexts_are_drawn_in_ten_parts_at_most() -> None:
    row = replace(ROW, by_context=tuple(Acceptance(64 * i, 4, i % 5) for i in range(1, 101)))
    points = by_context([row])
    assert len(points) == 10
    assert all(y == pytest.approx(0.5) for _, y in points)


def test_a_budget_is_a_point_and_a_number_of_requests_is_one() -> None:
    wide = replace(ROW, min_budget=64, draft_kv_share=0.4, rejected=1)
    assert by_budget([wide, ROW, replace(ROW, draft_kv_share=None)]) == [Point(0.1, 0.75), Point(0.4, 0.95)]
    alone = replace(ROW, setting=replace(SETTING, max_num_seqs=1), seconds=6.0)
    assert by_max_num_seqs([ROW, alone, ROW]) == [Point(1, 5.0), Point(4, 15.0)]


@needs_matplotlib
@pytest.mark.slow
def test_every_composition_that_ran_is_a_curve(tmp_path: Path) -> None:
    failed = ComparisonRow(SETTING, "broken", None, None, None, "failed", error="why")
    rows = [replace(ROW, composition="dense", drafts=0, by_position=(), by_context=()), ROW, failed]
    plot(rows, tmp_path / "one.svg")
    said = _said(tmp_path / "one.svg")
    assert {"dense", "sparsespec", *(panel.title for panel in drawing.PANELS)} <= said
    assert "broken" not in said
    plot([*rows, replace(ROW, setting=replace(SETTING, model="other"))], str(tmp_path / "two.svg"))
    assert {"tiny, dense", "tiny, sparsespec", "other, sparsespec"} <= _said(tmp_path / "two.svg")
    plot([failed], tmp_path / "none.svg")


def _said(svg: Path) -> set[str]:
    # matplotlib draws letters as shapes, and leaves what they say in comments
    lines = map(str.strip, svg.read_text("utf-8").splitlines())
    return {line[5:-4] for line in lines if line.startswith("<!-- ")}


def test_what_cannot_be_drawn_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadOption, match="ends in .svg"):
        plot([ROW], tmp_path / "rows.png")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="pip install matplotlib"):
        plot([ROW], tmp_path / "rows.svg")
