from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from sparsespec.core import registry
from sparsespec.core.errors import BadOption, ContractBroken, MissingPackage, UnknownName
from sparsespec.core.spec import SHELVES, PartSpec


class Toy:
    """A toy part.

    With a second paragraph.
    """

    needs = frozenset({"scores"})
    provides = frozenset({"capturable"})

    def __init__(self, size: int, budget: float = 0.5, scored: tuple[int, int] = (1, 1)) -> None:
        self.size, self.budget, self.scored = size, budget, scored


class Forgetful:
    def __init__(self, size: int = 1) -> None:
        self.other = size


class Loose:
    def __init__(self, **options: object) -> None:
        self.options = options


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", {})
    registry._installed.cache_clear()
    yield
    registry._installed.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a distribution with one module and one entry point on the path."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(dist: str, shelf: str, name: str, code: str) -> None:
        module = f"{dist}_module"
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{dist}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[sparsespec.{shelf}]\n{name} = {module}:Part\n")
        registry._installed.cache_clear()

    return put


def test_every_shelf_lists_its_names_without_importing_them() -> None:
    for shelf in SHELVES:
        assert registry.names(shelf) == sorted(registry.names(shelf))
    assert registry.names("verifier") == ["greedy", "rejection", "shared-noise"]
    assert {"none", "full", "window", "random", "oracle", "pillar"} <= set(registry.names("selector"))


def test_a_registered_part_is_found_made_and_named() -> None:
    registry.register("selector", "toy", Toy)
    assert registry.lookup("selector", "toy") is Toy
    assert registry.name_of("selector", Toy) == "toy"
    made = registry.make("selector/toy(size=3)", budget=0.25)
    assert (made.size, made.budget) == (3, 0.25)


def test_a_lazy_part_is_imported_when_looked_up() -> None:
    registry.register("selector", "lazy", "fractions:Fraction")
    assert registry.lookup("selector", "lazy") is Fraction
    assert registry.name_of("selector", Fraction) == "lazy"
    assert registry.name_of("selector", Toy) == "Toy"


def test_every_form_of_a_spec_makes_the_same_part() -> None:
    registry.register("selector", "toy", Toy)
    forms = [
        "selector/toy(size=3,scored=[0,8])",
        PartSpec("selector", "toy", {"size": 3, "scored": (0, 8)}),
        {"shelf": "selector", "name": "toy", "options": {"size": 3, "scored": [0, 8]}},
    ]
    specs = {registry.spec_of("selector", registry.make(form)) for form in forms}
    specs.add(registry.spec_of("selector", registry.make("toy", shelf="selector", size=3, scored=(0, 8))))
    assert {str(spec) for spec in specs} == {"toy(budget=0.5,scored=[0,8],size=3)"}


def test_an_instance_is_returned_as_it_is() -> None:
    toy = Toy(1)
    assert registry.make(toy, shelf="selector") is toy


def test_options_are_checked_against_the_constructor() -> None:
    registry.register("selector", "toy", Toy)
    with pytest.raises(
        UnknownName,
        match=r"unknown option of selector/toy 'budgt'; did you mean 'budget'\? have: budget, sco",
    ):
        registry.make("selector/toy", size=1, budgt=2)
    with pytest.raises(BadOption, match="selector/toy needs a value for 'size'"):
        registry.make("selector/toy")
    registry.register("selector", "loose", Loose)
    assert registry.make("selector/loose(anything=1)").options == {"anything": 1}


def test_a_part_that_forgets_its_options_has_no_spec() -> None:
    with pytest.raises(ContractBroken, match="does not store its option 'size'"):
        registry.spec_of("selector", Forgetful())


def test_the_name_of_a_registered_part_is_taken() -> None:
    registry.register("selector", "toy", Toy)
    with pytest.raises(BadOption, match="selector 'toy' is taken"):
        registry.register("selector", "toy", Toy)


def test_a_module_of_ours_that_is_missing_is_a_bug_and_not_a_missing_package() -> None:
    registry.register("attention", "toy", "sparsespec.nowhere:Part")
    with pytest.raises(ModuleNotFoundError, match="sparsespec.nowhere") as caught:
        registry.lookup("attention", "toy")
    assert not isinstance(caught.value, MissingPackage)


def test_a_part_of_another_distribution_is_found(install) -> None:
    install("quest_dist", "selector", "toyquest", "class Part:\n    '''Theirs.'''\n")
    assert "toyquest" in registry.names("selector")
    assert registry.make("selector/toyquest").__doc__ == "Theirs."
    row = next(row for row in registry.describe("selector") if row.name == "toyquest")
    assert (row.origin, row.doc, row.error) == ("quest_dist", "Theirs.", None)


def test_a_broken_distribution_breaks_its_own_name_only(install) -> None:
    install("broken_dist", "selector", "broken", "1 / 0\n")
    registry.register("selector", "toy", Toy)
    assert registry.lookup("selector", "toy") is Toy
    with pytest.raises(BadOption, match="'broken' of broken_dist cannot be loaded .ZeroDivision"):
        registry.lookup("selector", "broken")
    rows = {row.name: row for row in registry.describe("selector")}
    assert "ZeroDivisionError" in (rows["broken"].error or "")
    assert rows["toy"].error is None


def test_an_entry_point_that_is_no_class_is_refused(install) -> None:
    install("odd_dist", "selector", "odd", "Part = 3\n")
    with pytest.raises(BadOption, match="must be a class"):
        registry.lookup("selector", "odd")


def test_a_name_from_two_distributions_raises_when_looked_up(install) -> None:
    install("thief_dist", "selector", "pillar", "class Part: pass\n")
    registry.register("selector", "toy", Toy)
    assert registry.lookup("selector", "toy") is Toy
    with pytest.raises(BadOption, match="comes from sparsespec and from thief_dist"):
        registry.lookup("selector", "pillar")


def test_a_missing_dependency_of_a_lazy_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lazy_part_module.py").write_text("import surely_not_installed\n")
    registry.register("attention", "toy", "lazy_part_module:Part")
    with pytest.raises(MissingPackage, match="needs the package 'surely_not_installed'.*reference"):
        registry.lookup("attention", "toy")


def test_describe_says_what_a_part_takes_needs_and_gives() -> None:
    registry.register("selector", "toy", Toy)
    row = next(row for row in registry.describe("selector") if row.name == "toy")
    assert row.options == {"size": ..., "budget": 0.5, "scored": (1, 1)}
    assert (row.needs, row.provides) == (Toy.needs, Toy.provides)
    assert (row.origin, row.doc) == ("registered", "A toy part.")
