"""Every Triton kernel compiles to machine code for a Hopper GPU, without one; what it computes is told elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from tests.arch.layout import ROOT
from tests.kernels.launched import DEVICE

pytestmark = pytest.mark.slow


@pytest.mark.skipif(DEVICE == "cuda", reason="kernels are compiled and run here: see the tests with -m gpu")
def test_every_kernel_compiles_for_a_gpu() -> None:
    pytest.importorskip("triton")
    rest = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compiled"],
        cwd=ROOT,
        env=rest,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    compiled = json.loads(done.stdout.splitlines()[-1])
    sources = (p.read_text("utf-8") for p in (ROOT / "sparsespec" / "kernels").rglob("triton*.py"))
    launched = {name for source in sources for name in re.findall(r"\b(\w+)\[[^\]\n]*(?:grid|\()[^\n]*\]\(", source)}
    assert launched == set(compiled)
    assert compiled["attend"] == 3 * 3, "rows of few queries, of many, and sparse ones, of three shapes"
