"""Every attention backend on the shelf, in every float type it takes; interpreted where there is no GPU for it."""

from __future__ import annotations

import pytest

from sparsespec.core import registry
from sparsespec.core.errors import BadOption
from sparsespec.testing import check_attention
from tests.arch import fresh
from tests.kernels.launched import DEVICE, room
from tests.quick import quick_last

GPU_ONLY = ("triton", "flashinfer")
"""Backends of the shelf that need a GPU, or something in place of one: an interpreter, a stand-in."""
ANYWHERE = [name for name in registry.names("attention") if name not in GPU_ONLY]
interpreted = pytest.mark.skipif(DEVICE == "cuda", reason="compiled here: see the tests with -m gpu")


@pytest.mark.parametrize("dtype", quick_last(["float32", "float16", "bfloat16", "float64"]))
@pytest.mark.parametrize("name", ANYWHERE)
def test_a_backend_computes_attention(name: str, dtype: str) -> None:
    check_attention(name, dtype=dtype, examples=20 if dtype == "float64" else 5, exact=True)


@interpreted
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, inside the interpreter
@pytest.mark.parametrize(("dtype", "seed"), [("float32", 49), ("float16", 927)])
def test_interpreted_triton_computes_attention(dtype: str, seed: int) -> None:
    room("attention")
    # of these seeds one small step has rows of all phases, scores, dead queries, and several lists a layer
    check_attention("triton", dtype=dtype, examples=1, seed=seed, exact=True)


@pytest.mark.gpu
@pytest.mark.parametrize("longest", [40, 5000])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", registry.names("attention"))
def test_on_a_gpu_a_backend_computes_attention(name: str, dtype: str, longest: int) -> None:
    head_dims = (16, 32) if longest == 40 else (64, 128, 256)
    if name == "flashinfer":
        pytest.importorskip("flashinfer")
        head_dims = (64, 128) if longest == 40 else (64, 128, 256)
        if dtype == "float32":
            pytest.skip("flashinfer takes half types only")
    exact = True if name == "triton" else None
    check_attention(name, dtype=dtype, device="cuda", head_dims=head_dims, longest=longest, examples=4, exact=exact)


@pytest.mark.slow
@interpreted
def test_without_a_gpu_the_error_says_what_would_work() -> None:
    code = """
import os
os.environ.pop("TRITON_INTERPRET", None)
from sparsespec.core.errors import SparseSpecError
from sparsespec.testing import check_attention

def said():
    try:
        check_attention("triton", dtype="float32", examples=1)
    except SparseSpecError as error:
        return str(error)

without = said()
sys.meta_path.pop(0)
result = [without, said()]
"""
    pytest.importorskip("triton")
    without, there = fresh.run(code, blocked=("triton",))
    assert "pip install 'sparsespec[triton]'" in without and "attention='reference'" in without
    assert "needs a CUDA device, got 'cpu'; use attention='reference'" in there


@interpreted
def test_a_float_type_that_triton_does_not_take_is_named() -> None:
    room("attention")
    with pytest.raises(BadOption, match="takes float16, bfloat16 or float32, got torch.float64"):
        check_attention("triton", dtype="float64", examples=1)
