"""`import sparsespec` does nothing, and the optional packages are not needed for it."""

from __future__ import annotations

import re

import pytest

import sparsespec
from tests.arch.fresh import run

HEAVY = ("torch", "triton", "flashinfer", "transformers", "numpy")


def test_importing_the_package_loads_nothing_heavy_and_reads_no_environment() -> None:
    loaded, read = run(
        """
import importlib, os
read = []
kind = type(os.environ)
get = kind.__getitem__
kind.__getitem__ = lambda self, key: (read.append(key), get(self, key))[1]
has = kind.__contains__
kind.__contains__ = lambda self, key: (read.append(key), has(self, key))[1]
os.getenv("SEEN")
assert read == ["SEEN"], "the recorder does not record"
import sparsespec
seen = read[1:]
sparsespec.SamplingParams(), sparsespec.PRESETS["dense"], sparsespec.SparseSpecError
assert callable(sparsespec.make)
result = [sorted(set(sys.modules) & set(HEAVY)), seen]
""",
        blocked=("triton", "flashinfer"),
        HEAVY=HEAVY,
    )
    assert loaded == []
    assert read == []


def test_listing_every_shelf_imports_no_part() -> None:
    loaded = run(
        """
from sparsespec.core import registry
from sparsespec.core.spec import SHELVES
assert all(registry.names(shelf) for shelf in SHELVES)
result = [name for name in sys.modules if name.startswith("sparsespec.")]
"""
    )
    assert loaded
    assert {name.split(".")[1] for name in loaded} == {"core"}


@pytest.mark.slow
def test_no_module_needs_triton_or_flashinfer_to_be_imported_except_its_own_backend() -> None:
    failed, seen, rows = run(
        """
import importlib, pathlib
failed, seen = [], 0
for path in sorted(pathlib.Path(ROOT, "sparsespec").rglob("*.py")):
    if path.stem.startswith(("triton", "flashinfer", "__main__")):
        continue
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    seen += 1
    try:
        importlib.import_module(name)
    except ImportError as error:
        if "is blocked" in str(error):
            failed.append(f"{name}: {error}")
from sparsespec.core import registry
result = [failed, seen, {row.name: [row.error, sorted(row.provides)] for row in registry.describe("attention")}]
""",
        blocked=("triton", "flashinfer"),
    )
    assert failed == []
    assert seen >= 40
    # nor does their shelf to be described
    assert rows["triton"] == [None, ["batch_invariant", "capturable", "scores", "step_query"]]
    assert rows["flashinfer"] == [None, ["scores", "step_query"]]
    assert all(error is None for error, _ in rows.values())


def test_the_public_names_are_listed_before_they_are_loaded() -> None:
    assert set(sparsespec.__all__) <= set(dir(sparsespec))
    assert {"LLM", "Engine", "make", "EngineSpec", "SamplingParams"} <= set(dir(sparsespec))
    assert set(sparsespec._HOMES) == set(sparsespec.__all__) - {"__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", sparsespec.__version__)
