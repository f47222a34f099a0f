"""What the documents show is run, and what they name exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sparsespec import PRESETS, llm
from sparsespec.core import registry
from sparsespec.core.spec import SHELVES
from sparsespec.models.catalog import load
from sparsespec.models.tokenizer import Tokenizer
from tests.arch.house import FLOOR, ROOT
from tests.folders import tiny_folder

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text("utf-8"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    folder = tiny_folder(tmp_path_factory.mktemp("model") / "tiny")
    return load(folder), Tokenizer(folder)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.stem)
def test_the_python_of_a_page_runs(page: Path, small: tuple[Any, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    real = llm.load_model
    monkeypatch.setattr(llm, "load_model", lambda name, *a, **k: small if name == "smollm2" else real(name, *a, **k))
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)


def test_there_is_python_to_run() -> None:
    assert {p.stem for p in PAGES if blocks(p)} >= {"README", "write-a-selector"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_law_is_in_the_table_and_every_file_of_the_table_exists() -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", (ROOT / "docs" / "lossless.md").read_text("utf-8")))
    assert named == {p.name for p in (ROOT / "tests" / "laws").glob("test_*.py")}


def test_the_axes_name_every_member_of_every_shelf() -> None:
    page = (ROOT / "docs" / "reference" / "axes.md").read_text("utf-8")
    for shelf in SHELVES:
        (row,) = re.findall(rf"^\| `{shelf}` \|.*$", page, re.MULTILINE)
        assert set(re.findall(r"`([\w-]+)`", row.rpartition("?")[2])) == set(registry._table(shelf)), shelf


def test_the_house_is_drawn_as_it_is_built() -> None:
    page = (ROOT / "docs" / "house.md").read_text("utf-8")
    drawing = page[page.index("```text") : page.index("```\n", page.index("```text") + 7)]
    floors = [line for line in drawing.splitlines() if line.startswith(" ") and "/" in line]
    height = {room: i for i, line in enumerate(floors) for room in re.findall(r"(\w+)/", line)}
    assert height.keys() >= FLOOR.keys() - {"sim"}
    for one in FLOOR.keys() & height.keys() - {"testing"}:
        for other in FLOOR.keys() & height.keys() - {"testing", "metrics"}:
            if FLOOR[one] > FLOOR[other]:
                assert height[one] < height[other], f"{one} is drawn below {other}"


def test_the_readme_names_every_preset() -> None:
    page = (ROOT / "README.md").read_text("utf-8")
    assert all(f"`{name}`" in page for name in PRESETS)
