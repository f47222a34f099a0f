"""What the documents show is run, and what they name exists."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sparsespec
from sparsespec import PRESETS, llm, testing
from sparsespec.cli.app import app, models_app
from sparsespec.core import protocols, registry
from sparsespec.core.spec import SHELVES
from sparsespec.models.catalog import load
from sparsespec.models.tokenizer import Tokenizer
from tests.arch.layout import FLOOR, ROOT

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
def small(folder: Path) -> tuple[Any, Tokenizer]:
    return load(folder), Tokenizer(folder)


@pytest.fixture(scope="module")
def conf() -> dict[str, Any]:
    """The names of `docs/conf.py`, which writes the index and the reference."""
    return runpy.run_path(str(DOCS / "conf.py"))


@pytest.fixture(scope="module")
def index(conf: dict[str, Any]) -> dict[str, list[str]]:
    """Path → members of each row of the API index, as it is built."""
    return rows_of(conf["filled"]((DOCS / "api-index.md").read_text("utf-8")))


def rows_of(page: str) -> dict[str, list[str]]:
    rows = re.findall(r"^\| \{py:obj\}`\w+ <([\w.]+)>` \| ([^|]*) \| (.*)\|$", page, re.MULTILINE)
    assert all(doc.strip() for _, _, doc in rows), "a name without a docstring"
    return {path: NAMED.findall(inside) for path, inside, _ in rows}


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


@pytest.mark.parametrize("page", [p for p in PAGES if "log" not in p.parts], ids=lambda p: p.stem)
def test_benchmarks_that_a_page_names_exist(page: Path) -> None:
    for module in re.findall(r"python -m (bench[\w.]*)", page.read_text("utf-8")):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{page.name} names {module}"


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


def test_the_architecture_is_drawn_as_it_is_built() -> None:
    page = (DOCS / "architecture.md").read_text("utf-8")
    drawing = page[page.index("```text") : page.index("```\n", page.index("```text") + 7)]
    floors = [line for line in drawing.splitlines() if line.startswith(" ") and "/" in line]
    height = {room: i for i, line in enumerate(floors) for room in re.findall(r"(\w+)/", line)}
    assert height.keys() >= FLOOR.keys()
    for one in FLOOR.keys() & height.keys() - {"testing"}:
        for other in FLOOR.keys() & height.keys() - {"testing", "metrics"}:
            if FLOOR[one] > FLOOR[other]:
                assert height[one] < height[other], f"{one} is drawn below {other}"


def test_the_readme_names_every_preset() -> None:
    page = (ROOT / "README.md").read_text("utf-8")
    assert all(f"`{name}`" in page for name in PRESETS)


@pytest.mark.parametrize("package", [sparsespec, testing], ids=lambda p: p.__name__)
def test_every_public_name_is_in_the_index(package: ModuleType, index: dict[str, list[str]]) -> None:
    listed = [path.rpartition(".")[2] for path in index if path.rpartition(".")[0] == package.__name__]
    assert sorted(listed) == sorted(package.__all__)


def test_every_promise_is_in_the_index(index: dict[str, list[str]]) -> None:
    every = {name: one for name, one in vars(protocols).items() if getattr(one, "_is_protocol", False)}
    del every["Protocol"]
    assert len(every) >= 9
    for name, one in every.items():
        own = {member for member in (*vars(one), *one.__annotations__) if not member.startswith("_")}
        assert set(index[f"sparsespec.core.protocols.{name}"]) == own, name


def test_the_index_has_the_fields_of_a_dataclass_and_the_methods_of_a_class(index: dict[str, list[str]]) -> None:
    assert {"temperature", "seed", "is_greedy"} <= set(index["sparsespec.SamplingParams"])
    assert {"step", "add", "abort"} <= set(index["sparsespec.Engine"])


def test_what_the_index_names_is_in_the_reference(conf: dict[str, Any], index: dict[str, list[str]]) -> None:
    pages = "".join(conf["filled"](p.read_text("utf-8")) for p in (DOCS / "reference").rglob("*.md"))
    documented = re.findall(r"^\.\. auto(?!module)\w+:: ([\w.]+)$", pages, re.MULTILINE)
    data = re.findall(r"^\.\. py:data:: (\w+)\n   :module: ([\w.]+)$", pages, re.MULTILINE)
    documented += [f"{module}.{name}" for name, module in data]
    assert len(documented) == len(set(documented))
    assert index.keys() <= set(documented)


def test_the_reference_of_parts_has_every_shelf() -> None:
    page = (DOCS / "reference" / "api" / "parts.md").read_text("utf-8")
    assert re.findall(r"^```\{shelf\} (\w+)$", page, re.MULTILINE) == list(SHELVES)


def test_a_name_without_a_docstring_is_seen() -> None:
    with pytest.raises(AssertionError, match="without a docstring"):
        rows_of("| {py:obj}`f <m.f>` | `a` |  |\n")


def test_every_command_is_in_the_index(conf: dict[str, Any]) -> None:
    page = conf["filled"]((DOCS / "api-index.md").read_text("utf-8"))
    section = page.partition("## The command line")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `([\w ]+)` \| .+ \|$", section, re.MULTILINE))
    assert {"generate", "compare", "chat", "doctor", "models pull"} <= named
    assert len(named) == len(app.registered_commands) + len(models_app.registered_commands)


def test_every_entry_of_the_log_has_a_finding_in_its_index() -> None:
    log = DOCS / "log"
    linked = set(re.findall(r"^\[[\w-]+\]: (\S+)$", (log / "index.md").read_text("utf-8"), re.MULTILINE))
    entries = {
        f"{page.name}#{re.sub(r'[^a-z0-9 -]', '', heading.lower()).replace(' ', '-')}"
        for page in log.glob("2*.md")
        for heading in re.findall(r"^## (.*)$", page.read_text("utf-8"), re.MULTILINE)
    }
    assert linked == entries
    for page in log.glob("2*.md"):
        assert len(page.read_text("utf-8").splitlines()) <= 400, f"{page.name} is long; begin another page"
