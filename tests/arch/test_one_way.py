"""Data goes down and results come back: no component of the engine is handed a bound method of another."""

from __future__ import annotations

import ast
from types import MethodType
from typing import Any

import pytest

from sparsespec.engine.engine import Engine
from tests.arch.layout import modules
from tests.engine.running import SPARSE, compose, greedy, prompt_of, run

COMPONENTS = ("_queue", "_table", "_executor", "_output_processor", "_counts")


def held_methods(root: Any) -> list[str]:
    """Return the methods of other objects of the package that are reachable as attributes from `root`."""
    found, seen, todo = list[str](), set[int](), [(type(root).__name__, root)]
    while todo:
        path, x = todo.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        for name, value in getattr(x, "__dict__", {}).items():
            here = f"{path}.{name}"
            items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            for item in items:
                if isinstance(item, MethodType) and type(item.__self__).__module__.startswith("sparsespec."):
                    found.append(here)
                elif type(item).__module__.startswith("sparsespec.engine"):
                    todo.append((here, item))
    return found


@pytest.mark.parametrize("composition", [{}, SPARSE, {**SPARSE, "tiers": "host", "loop": "resident"}])
def test_no_component_holds_a_method_of_another(composition: dict[str, Any]) -> None:
    engine = compose(**composition)
    engine.add(prompt_of(20), greedy(6))
    run(engine)
    for name in COMPONENTS:
        assert held_methods(getattr(engine, name)) == []


def test_a_held_method_is_seen() -> None:
    engine = compose()
    engine._table.leave_later = engine._queue.add  # type: ignore[attr-defined]
    assert held_methods(engine._table) == ["RequestTable.leave_later"]


def method_arguments(source: str) -> list[str]:
    """Return calls in the engine that pass a method of one of its components, or of the engine, as an argument."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                text = ast.unparse(argument)
                owner, _, name = text.removeprefix("self.").rpartition(".")
                target = getattr(Engine, name, None) if text == f"self.{name}" else None
                if callable(target) or (owner in COMPONENTS and name in METHODS):
                    found.append(ast.unparse(node))
    return found


def methods_of(source: str) -> set[str]:
    """Return the names of what is defined in classes and is no property."""
    return {
        node.name
        for one in ast.walk(ast.parse(source))
        if isinstance(one, ast.ClassDef)
        for node in one.body
        if isinstance(node, ast.FunctionDef) and "property" not in map(ast.unparse, node.decorator_list)
    }


METHODS = set[str]().union(*(methods_of(source) for name, source in modules().items() if ".engine." in name))


def test_the_engine_hands_no_method_down() -> None:
    assert method_arguments(modules()["sparsespec.engine.engine"]) == []


def test_a_method_that_is_handed_down_is_seen() -> None:
    source = "class E:\n    def s(self):\n        self._table.view(self._fail)\n        f(self._executor.seat)\n"
    assert len(method_arguments(source)) == 2
