"""Compiles Triton kernels for a GPU that is not there: run as a program, it prints what compiled, as JSON.

Launches are recorded, not made: each kernel is compiled for the arguments it would have been launched with. Says
nothing about results; a kernel that the interpreter runs may yet not compile, and this finds it without a GPU.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from sparsespec.core.batch import AttentionRows, Chosen, VerifyInputs, VerifyOutput
from sparsespec.core.noise import Key
from sparsespec.kernels.append_kv import triton as append_kv
from sparsespec.kernels.attention import triton as attention
from sparsespec.kernels.attention import triton_plan
from sparsespec.kernels.attention.api import plan
from sparsespec.kernels.copy_pages import triton as copy_pages
from sparsespec.kernels.lay_out import triton as lay_out
from sparsespec.kernels.linear import triton as linear
from sparsespec.kernels.linear import triton_tiles
from sparsespec.kernels.rms_norm import triton as rms_norm
from sparsespec.kernels.sample import triton as sample
from sparsespec.kernels.sample import triton_cut, triton_probs, triton_rows
from sparsespec.kernels.settle import triton as settle
from sparsespec.kernels.silu_mul import triton as silu_mul
from sparsespec.kernels.top_positions import triton as top_positions
from sparsespec.kernels.verify_inputs import triton as verify_inputs
from sparsespec.kernels.verify_tokens import triton as verify_tokens
from sparsespec.testing.ops.step import WIDTH, laid_out, random_step

HOPPER = GPUTarget("cuda", 90, 32)
TYPES = {
    torch.bool: "i1",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}
SAMPLE = (
    (triton_rows, "_peaks"),
    (triton_cut, "_cut"),
    (sample, "_pick"),
    (sample, "_scan"),
    (sample, "_decide"),
    (triton_probs, "_weights"),
    (triton_probs, "_invert"),
    (triton_probs, "_logprobs"),
    (triton_probs, "_masses"),
    (triton_probs, "_probs"),
)

AROUND = (
    (lay_out, "_lay_out_rows"),
    (lay_out, "_lay_out_tokens"),
    (verify_inputs, "_verify_inputs"),
    (verify_inputs, "_per_logit_row"),
    (verify_tokens, "_verify_tokens"),
    (settle, "_settle"),
)


class Recorder:
    """Stands for a kernel, and compiles it where it would be launched."""

    def __init__(self, kernel: Any, found: dict[str, int]) -> None:
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid: object) -> Any:
        return self._launch

    def _launch(self, *args: Any, **options: Any) -> None:
        parameters = {p.name: p for p in self.kernel.params}
        given = dict(zip(parameters, args, strict=False))
        given |= {name: options.pop(name) for name in list(options) if name in parameters}
        signature, constants, attributes = {}, {}, {}
        for i, name in enumerate(parameters):
            x, p = given[name], parameters[name]
            if p.is_constexpr or (type(x) is int and x == 1 and not p.do_not_specialize):
                signature[name], constants[name] = "constexpr", x
                continue
            signature[name] = _type(x)
            if not p.do_not_specialize and (torch.is_tensor(x) or (type(x) is int and x % 16 == 0)):
                attributes[(i,)] = [["tt.divisibility", 16]]
        source = ASTSource(fn=self.kernel, signature=signature, constexprs=constants, attrs=attributes)
        compiled = triton.compile(source, target=HOPPER, options=options)
        assert compiled.asm["cubin"]
        name = self.kernel.__name__
        if name in {name for _, name in SAMPLE}:
            # none with triton 3.7.1, up to 16 with 3.6.0
            n = _stack_bytes(compiled.asm["cubin"])
            assert n <= 16, f"{name} keeps {n} bytes a thread outside registers"
        self.found[name] = self.found.get(name, 0) + 1


def _stack_bytes(cubin: bytes) -> int:
    """Return the bytes of stack a thread needs: what it spills, mostly."""
    tools = Path(next(iter(triton.backends.nvidia.__path__))) / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.check_output([tools / "cuobjdump", "-res-usage", file.name], text=True)
    return int(re.findall(r"STACK:(\d+)", usage)[0])


def _type(x: Any) -> str:
    if torch.is_tensor(x):
        return f"*{TYPES[x.dtype]}"
    if isinstance(x, TensorDescriptor):
        return f"tensordesc<{TYPES[x.base.dtype]}{list(x.block_shape)}>"
    if isinstance(x, float):
        return "fp32"
    return "i32" if -(2**31) <= x < 2**31 else "i64"


@contextmanager
def recorded(found: dict[str, int], *kernels: tuple[ModuleType, str]) -> Iterator[None]:
    """Compile these kernels instead of launching them, and let CPU tensors pass for a GPU's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "check", lambda *_: None)
        for module, name in kernels:
            patch.setattr(module, name, Recorder(getattr(module, name), found))
        yield


def step(dtype: torch.dtype, heads: tuple[int, int, int], groups: int, ends: tuple[int, int]) -> None:
    """Plan and run one layer of a step with a dense and a sparse row of contexts of 4,096."""
    n_kv, group, head_dim = heads
    table = torch.arange(512).view(2, 256)
    pages = torch.empty(2, 513, 16, n_kv, head_dim, dtype=dtype)
    q = torch.empty(160, n_kv * group, head_dim, dtype=dtype)
    two = torch.tensor([9, 1])
    flags = torch.tensor([False, True])
    rows = AttentionRows(torch.arange(2), two, two, two, flags, ~flags, table, ends, groups)
    chosen = Chosen(torch.empty(groups, 2, 128, dtype=torch.int32), two, two)
    planned = plan(rows, pages[0], n_tokens=160, n_heads=n_kv * group, scale=0.1, impl="triton")
    planned.run(q, pages[0], pages[1], chosen=chosen)


def append(dtype: torch.dtype, heads: tuple[int, int, int], normed: bool) -> None:
    """Append 16 tokens."""
    n_kv, group, head_dim = heads
    q, k = (torch.empty(16, n, head_dim, dtype=dtype) for n in (n_kv * group, n_kv))
    pages = torch.empty(2, 9, 16, n_kv, head_dim, dtype=dtype)
    norm = torch.empty(head_dim, dtype=dtype) if normed else None
    angle = torch.empty(64, head_dim // 2, dtype=dtype)
    index = torch.zeros(16, dtype=torch.int64)
    append_kv.append_kv(
        q, k, k, *pages, positions=index, slots=index, cos=angle, sin=angle, q_norm=norm, k_norm=norm, eps=1e-6
    )


def sample_tokens(dtype: torch.dtype, vocab: int) -> None:
    """Sample four rows, and ask for their best probabilities."""
    logits = torch.empty(4, vocab, dtype=dtype)
    real, whole = torch.ones(4, dtype=torch.float64), torch.ones(4, dtype=torch.int64)
    sample.sample(logits, real, whole, real, real, Key(whole, whole, whole, whole))
    sample.top_probability(logits)
    sample.confidence(logits, whole, whole, whole)
    sample.logprobs(logits, whole, 5)
    sample.probs(logits, real, whole, real, real)


def round_of(n_rows: int, block_size: int) -> None:
    """Do what lies around a forward, for a step of many rows."""
    step = random_step(0, n_rows, block_size=block_size)
    lay_out.lay_out_rows(step.packed, step.state)
    batch = laid_out(step, 0)
    lay_out.lay_out_tokens(batch, step.n_tokens, block_size)
    rows = VerifyInputs(*verify_inputs.verify_inputs(batch, WIDTH))
    verify_inputs.per_logit_row(rows, step.n_logits)
    tokens, count = torch.zeros(step.n_logits, dtype=torch.int64), rows.count
    verify_tokens.verify_tokens(tokens, tokens == 0, rows.first, count, WIDTH)
    verified = VerifyOutput(*verify_tokens.match_tokens(tokens, tokens, rows.first, count, WIDTH))
    for kind in (torch.bfloat16, torch.float64):
        confidence = torch.zeros(n_rows, dtype=torch.promote_types(kind, torch.float32))
        settle.settle(batch, rows, verified, tokens.to(kind), confidence, torch.zeros(n_rows, dtype=torch.float64))


def multiply(dtype: torch.dtype, n: int, k: int, apart: int = 0) -> None:
    """Multiply few rows and many by a weight [n, k], with every setting that a number of rows brings about."""
    weight = torch.empty(n, k + apart, dtype=dtype)[:, :k]
    found = {triton_tiles.tiles_for(m, n, dtype.itemsize): m for m in (1, 65, 200, 512, 600, 1024, 4096)}
    for tiles, m in found.items():
        linear.product(torch.empty(m, k, dtype=dtype), weight, weight.new_empty(n), tiles)


def main() -> None:
    found: dict[str, int] = {}
    attend = [(attention, name) for name in ("attend", "reduce_scores")]
    with recorded(found, *attend, (triton_plan, "make_work")):
        step(torch.bfloat16, (8, 4, 128), 8, (1, 1))
        step(torch.float16, (3, 3, 64), 1, (0, 8))
        step(torch.float32, (1, 16, 256), 1, (1, 1))
    with recorded(found, (append_kv, "_append_kv")):
        append(torch.bfloat16, (8, 4, 128), normed=True)
        append(torch.float32, (3, 3, 64), normed=False)
    with recorded(found, (top_positions, "_top_positions"), (copy_pages, "_copy_pages")):
        for length, dtype in ((8192, torch.float32), (40001, torch.float16)):
            scores = torch.empty(2, 2, 2, length, dtype=dtype)
            two = torch.tensor([5, 6])
            top_positions.top_positions(scores, two, two, 410, 1 if length == 8192 else 5)
        pool = torch.empty(2, 8, 16, 8, 128, dtype=torch.bfloat16)
        copy_pages.copy_pages(pool, pool, torch.zeros(4, 2, dtype=torch.int64), torch.tensor(3))
    with recorded(found, (rms_norm, "_rms_norm"), (silu_mul, "_silu_mul")):
        for dtype, width in ((torch.bfloat16, 4096), (torch.float16, 577), (torch.float32, 576)):
            x = torch.empty(64, width, dtype=dtype)
            rms_norm.rms_norm(x, x[0], 1e-6)
            rms_norm.add_rms_norm(x, x, x[0], 1e-6)
            silu_mul.silu_mul(x[:, : width // 2 * 2])
    with recorded(found, (linear, "_multiply")):
        for n, k in ((4096, 4096), (4096, 12288), (6144, 4096), (24576, 4096)):
            multiply(torch.bfloat16, n, k)
        multiply(torch.float16, 577, 577)
        multiply(torch.bfloat16, 4096, 4097, apart=1)
        multiply(torch.float32, 4096, 4096)
    with recorded(found, *AROUND):
        round_of(128, 16)
    with recorded(found, *SAMPLE):
        for dtype in (torch.bfloat16, torch.float32):
            sample_tokens(dtype, 151_936)
    print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
