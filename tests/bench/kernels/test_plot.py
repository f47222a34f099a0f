"""`--plot`: what stands in the drawing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from bench.kernels import __main__ as kernels
from sparsespec.core.errors import BadOption, MissingPackage
from tests.bench.kernels.results import header, peer, row, written

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")


def drawn(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "results.svg"
    kernels.main(["--read", str(written(folder, header(), *rows)), "--plot", str(path)])
    return path.read_text("utf-8")


@needs_matplotlib
def test_every_case_has_its_bar_and_the_legend_says_what_was_drawn(tmp_path: Path) -> None:
    svg = drawn(tmp_path, row("decode", 50.0), row("own case", peers={"fa2": peer(80.0), "fa3": peer(200.0)}))
    # matplotlib draws letters as shapes, and leaves what they say in comments
    said = [line.strip()[5:-4] for line in svg.splitlines() if line.strip().startswith("<!-- ")]
    assert {"qwen3-8b: attention, decode", "qwen3-8b: attention, own case", "50%, 50.0 µs", "50%, 100.0 µs"} <= {*said}
    # decode has a required share in the table, and the other case has FlashInfer
    assert {"this kernel", "required", "FlashInfer"} <= {*said}
    assert "the project's kernel" not in said


@needs_matplotlib
def test_the_mark_is_the_fastest_peers_and_the_tick_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    marks: dict[str, float] = {}
    plot = Axes.plot

    def spy(axes: Axes, x: float, y: float, marker: str, **how: Any) -> Any:
        marks[how["label"]] = x
        return plot(axes, x, y, marker, **how)

    monkeypatch.setattr(Axes, "plot", spy)
    peers = {"fa2": peer(80.0), "fa3": peer(200.0), "sparsespec": peer(100.0)}
    drawn(tmp_path, row("decode", 100.0, peers=peers))
    assert marks == pytest.approx({"required": 0.94, "FlashInfer": 0.625, "the project's kernel": 0.5})


@needs_matplotlib
def test_rows_without_a_share_have_no_drawing(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="^--plot draws shares of a GPU's read ceiling, and no row has one$"):
        drawn(tmp_path, {"kind": "row", "model": "a", "op": "b", "case": "c", "red": "wrong"})


def test_only_svg_is_drawn() -> None:
    with pytest.raises(BadOption, match=r"needs a name that ends in .svg, got 'a.png'$"):
        kernels.main(["--plot", "a.png"])


def test_a_missing_matplotlib_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="^--plot needs: pip install matplotlib$"):
        kernels.main(["--plot", "a.svg"])
