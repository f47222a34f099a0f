"""Benchmarks use an engine by what it offers: nothing private of it is read or rebound."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.arch.layout import ROOT

FOLDERS = ("sparsespec/benchmarks", "bench")


def private_names(source: str) -> Iterator[str]:
    """Yield private attributes of others than `self`, `cls` and `super()`; those of named tuples are public."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls", "super()") and node.attr not in ("_asdict", "_replace", "_make"):
                yield f"{owner}.{node.attr}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and str(name.value).startswith("_"):
                yield ast.unparse(node)


def test_no_benchmark_touches_what_is_private() -> None:
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 30
    found = {
        str(file.relative_to(ROOT)): names for file in files if (names := [*private_names(file.read_text("utf-8"))])
    }
    assert found == {}


@pytest.mark.parametrize(
    "line", ["engine._queue.add(1)", "engine._pool = 2", "setattr(engine, '_pool', 3)", "getattr(mover, '_host')"]
)
def test_what_is_private_is_seen(line: str) -> None:
    assert list(private_names(line))


@pytest.mark.parametrize("line", ["self._engine.step()", "super()._start()", "times._asdict()", "engine.pool"])
def test_what_is_public_is_not(line: str) -> None:
    assert not list(private_names(line))
