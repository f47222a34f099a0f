"""Imports point down, or inside a room."""

from __future__ import annotations

import pytest

from tests.arch.layout import FLOOR, imports, modules, violations

LAYOUT = {
    "sparsespec": "",
    "sparsespec.cli": "",
    "sparsespec.cli.app": "",
    "sparsespec.llm": "",
    "sparsespec.core": "",
    "sparsespec.core.spec": "",
    "sparsespec.core.registry": "",
    "sparsespec.kv": "",
    "sparsespec.kv.gpu": "",
    "sparsespec.kv.pages": "",
    "sparsespec.sched": "",
    "sparsespec.sched.lockstep": "",
    "sparsespec.engine": "",
    "sparsespec.engine.engine": "",
    "sparsespec.metrics": "",
    "sparsespec.metrics.table": "",
    "sparsespec.testing": "",
    "sparsespec.testing.chaos": "",
    "sparsespec.kernels": "",
    "sparsespec.kernels.shapes": "",
    "sparsespec.kernels.sample": "",
    "sparsespec.kernels.sample.api": "",
    "sparsespec.kernels.sample.reference": "",
    "sparsespec.kernels.sample.triton": "",
    "sparsespec.kernels.linear": "",
    "sparsespec.kernels.linear.api": "",
}


def test_no_import_points_up_or_sideways() -> None:
    known = modules()
    assert len(known) >= 40
    assert {name.split(".")[1] for name in known if "." in name} >= FLOOR.keys()
    assert sum(1 for name, source in known.items() for _ in imports(name, source, known)) >= 100
    assert violations(known) == []


@pytest.mark.parametrize(
    ("module", "line", "why"),
    [
        ("core.spec", "from sparsespec.kv.gpu import GpuTier", "points up"),
        ("core.spec", "import sparsespec", "points up"),
        ("core.spec", "from sparsespec import llm", "points up"),
        ("core.spec", "from sparsespec import LLM", "points up"),
        ("core.spec", "from ..kv import gpu", "points up"),
        ("core.spec", "import importlib\nimportlib.import_module('sparsespec.kv.gpu')", "up"),
        ("kv.gpu", "if TYPE_CHECKING:\n    from sparsespec.sched import lockstep", "sideways"),
        ("kv.gpu", "def f():\n    from ..sched.lockstep import Lockstep", "sideways"),
        ("kv.gpu", "import sparsespec.engine.engine", "points up"),
        ("kv", "from ..engine import engine", "points up"),
        ("engine.engine", "from sparsespec.testing import chaos", "points up"),
        ("engine.engine", "from sparsespec.llm import LLM", "points up"),
        ("llm", "from sparsespec.testing.chaos import Chaos", "points up"),
        ("metrics.table", "from sparsespec.kernels.sample.api import sample", "core only"),
        ("kv.gpu", "from sparsespec.metrics.table import Table", "sideways"),
        ("kernels.sample.api", "from sparsespec.kernels.linear.api import linear", "sideways"),
        ("kernels.sample.api", "from sparsespec.kv import pages", "points up"),
        ("kernels.sample.triton", "from .reference import sample", "neither another"),
        ("kernels.sample.triton", "from . import reference", "neither another"),
        ("kernels.sample.reference", "from .triton import sample", "oracle may import"),
        ("kernels.sample.reference", "import numpy", "oracle may import"),
        ("kernels.sample.reference", "from sparsespec.kernels.sample.api import x", "oracle may"),
    ],
)
def test_a_forbidden_import_is_seen(module: str, line: str, why: str) -> None:
    found = violations(LAYOUT | {f"sparsespec.{module}": line})
    assert len(found) == 1
    assert why in found[0]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("cli", "from sparsespec.llm import LLM"),
        ("cli", "from sparsespec import llm"),
        ("core.registry", "from .spec import SHELVES\nfrom sparsespec.core import spec"),
        ("kv.gpu", "from . import pages\nfrom sparsespec.core.spec import PartSpec\nimport torch"),
        (
            "engine.engine",
            "from sparsespec.kv.gpu import GpuTier\nfrom sparsespec.metrics import x",
        ),
        ("testing.chaos", "import sparsespec\nfrom sparsespec.engine.engine import Engine"),
        ("kernels.sample.api", "from . import reference, triton"),
        ("kernels.sample.api", "from sparsespec.kernels.shapes import check"),
        ("kernels.sample.reference", "import math\nimport torch\nfrom torch import Tensor"),
        ("kernels.sample.triton", "import triton\nimport triton.language as tl"),
        ("metrics.table", "from sparsespec.core import spec"),
    ],
)
def test_an_import_that_points_down_or_inside_is_allowed(module: str, line: str) -> None:
    assert violations(LAYOUT | {f"sparsespec.{module}": line}) == []
