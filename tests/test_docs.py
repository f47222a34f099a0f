"""What the documents show is run, and what they name exists."""

from __future__ import annotations

import importlib
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import sparsespec
from sparsespec import PRESETS, llm, testing
from sparsespec.cli.app import app, models_app
from sparsespec.core import protocols, registry
from sparsespec.core.spec import SHELVES
from sparsespec.models.catalog import load
from sparsespec.models.tokenizer import Tokenizer
from tests.arch.house import FLOOR, ROOT
from tests.folders import tiny_folder

DOCS = ROOT / "docs"
BUILT = DOCS / "_build"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(p for p in DOCS.rglob("*.md") if BUILT not in p.parents)]
)
HOW_TOS = {f"write-a-{kind}" for kind in ("selector", "proposer", "length", "scheduler", "tier")}
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"`(\w+)`")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text("utf-8"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    folder = tiny_folder(tmp_path_factory.mktemp("model") / "tiny")
    return load(folder), Tokenizer(folder)


def the_whole_of(page: str) -> dict[str, dict[str, list[str]]]:
    """Return module → name → members, as the tables of a page have them under `From <module>`."""
    parts = re.split(r"From `([\w.]+)`", page)
    found: dict[str, dict[str, list[str]]] = {}
    for module, text in zip(parts[1::2], parts[2::2], strict=True):
        section = text.partition("\n## ")[0]
        for names, members in re.findall(r"^\| (`[^|]*`) \| ([^|]*)\|", section, re.MULTILINE):
            found.setdefault(module, {}).update(dict.fromkeys(NAMED.findall(names), NAMED.findall(members)))
    return found


@pytest.fixture(scope="module")
def whole() -> dict[str, dict[str, list[str]]]:
    return the_whole_of((DOCS / "all-of-sparsespec.md").read_text("utf-8"))


def _run(page: Path) -> Any:
    """Return a page with Python as a parameter; those that decode for seconds are slow."""
    return pytest.param(page, id=page.stem, marks=() if page.stem == "README" else pytest.mark.slow)


@pytest.mark.parametrize("page", [_run(p) for p in PAGES if blocks(p)])
def test_the_python_of_a_page_runs(page: Path, small: tuple[Any, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    real = llm.load_model
    monkeypatch.setattr(llm, "load_model", lambda name, *a, **k: small if name == "smollm2" else real(name, *a, **k))
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)


def test_there_is_python_to_run() -> None:
    assert {p.stem for p in PAGES if blocks(p)} >= {"README", *HOW_TOS}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_law_is_in_the_table_and_every_file_of_the_table_exists() -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", (DOCS / "lossless.md").read_text("utf-8")))
    assert named == {p.name for p in (ROOT / "tests" / "laws").glob("test_*.py")}


def test_the_axes_name_every_member_of_every_shelf() -> None:
    page = (DOCS / "reference" / "axes.md").read_text("utf-8")
    for shelf in SHELVES:
        (row,) = re.findall(rf"^\| `{shelf}` \|.*$", page, re.MULTILINE)
        assert set(re.findall(r"`([\w-]+)`", row.rpartition("?")[2])) == set(registry._table(shelf)), shelf


def test_the_house_is_drawn_as_it_is_built() -> None:
    page = (DOCS / "house.md").read_text("utf-8")
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


@pytest.mark.parametrize("package", [sparsespec, testing], ids=lambda p: p.__name__)
def test_every_public_name_is_on_the_one_page_and_no_other(
    package: Any, whole: dict[str, dict[str, list[str]]]
) -> None:
    assert sorted(whole[package.__name__]) == sorted(package.__all__)


@pytest.mark.parametrize("package", [sparsespec, testing], ids=lambda p: p.__name__)
def test_every_public_name_is_in_the_reference(package: Any) -> None:
    text = "".join(p.read_text("utf-8") for p in (DOCS / "reference" / "api").glob("*.md"))
    listed = re.findall(rf"^\.\. (?:auto(?!module)|py:)\w+:: {package.__name__}\.(\w+)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(package.__all__)


def test_the_reference_of_parts_has_every_shelf() -> None:
    page = (DOCS / "reference" / "api" / "parts.md").read_text("utf-8")
    assert re.findall(r"^```\{shelf\} (\w+)$", page, re.MULTILINE) == list(SHELVES)


def test_what_the_one_page_names_exists(whole: dict[str, dict[str, list[str]]]) -> None:
    assert len(whole) >= 15
    for module, names in whole.items():
        home = importlib.import_module(module)
        for name, members in names.items():
            assert hasattr(home, name), f"{module} has no {name}"
            assert set(members) <= members_of(getattr(home, name)), f"{module}.{name}"


def test_the_one_page_names_every_promise(whole: dict[str, dict[str, list[str]]]) -> None:
    promised = whole["sparsespec.core.protocols"]
    every = {name: one for name, one in vars(protocols).items() if getattr(one, "_is_protocol", False)}
    assert promised.keys() == every.keys() - {"Protocol"}
    for name, members in promised.items():
        own = {member for member in (*vars(every[name]), *every[name].__annotations__) if not member.startswith("_")}
        assert set(members) == own, name


def test_a_stale_name_on_the_one_page_is_seen() -> None:
    page = "From `sparsespec.core.plan`:\n\n| `Row`, `Rowe` | `seat`, `chair` | a row |\n"
    assert the_whole_of(page) == {"sparsespec.core.plan": {"Row": ["seat", "chair"], "Rowe": ["seat", "chair"]}}


def members_of(value: Any) -> set[str]:
    """Return what may be asked of a value: attributes, and fields and those set by its constructor."""
    own = {f.name for f in fields(value)} if is_dataclass(value) else set[str]()
    written = re.findall(r"^ {8}(\w+): ", value.__doc__ or "", re.MULTILINE) if isinstance(value, type) else []
    return own | set(written) | set(dir(value)) | getattr(value, "__annotations__", {}).keys()


def test_the_page_names_every_command() -> None:
    page = (DOCS / "all-of-sparsespec.md").read_text("utf-8")
    section = page.partition("## The command line")[2].partition("\n## ")[0]
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    groups = {str(group.name) for group in app.registered_groups}
    subcommands = {f"models {command.name}" for command in models_app.registered_commands} - {"models list"}
    named = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert named == commands | groups
    assert all(f"`{name}`" in section for name in subcommands)
