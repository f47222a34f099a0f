"""What tests of the Triton kernels of `sample` share: their modules, and sizes that small rows exceed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.launched import mutants, room

ours: Any = room("sample")
cut, noise, blocks, probs, rows = (
    importlib.import_module(f"sparsespec.kernels.sample.triton_{part}")
    for part in ("cut", "noise", "blocks", "probs", "rows")
)
parts: tuple[Any, ...] = (cut, noise, blocks, ours)
"""`triton.py` and what it is made of, each of which imports those before it."""
SMALL: dict[str, int] = importlib.import_module("tests.kernels.mutants").SMALL_SAMPLE
SHIPPED = {name: getattr(module, name) for module in (cut, rows) for name in SMALL if hasattr(module, name)}


def mutated(folder: Path, *changes: tuple[Any, tuple[str, str]]) -> list[Any]:
    """Return the modules of `sample` that changes (module, (old, new)) touch; `triton.py` comes last."""
    return mutants(folder, parts, *((module, *change) for module, change in changes))


def resize(patch: pytest.MonkeyPatch, sizes: dict[str, int], *modules: Any) -> None:
    """Give these modules other sizes; all that have any, where none is named."""
    for module in modules or (ours, cut, probs, rows):
        for name, size in sizes.items():
            if hasattr(module, name):
                patch.setattr(module, name, size)


@contextmanager
def small_sizes() -> Iterator[None]:
    """Let vocabularies of some dozen tokens span several groups, tiles and spans."""
    with pytest.MonkeyPatch.context() as patch:
        resize(patch, SMALL)
        yield
