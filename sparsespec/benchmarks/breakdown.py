"""Where the time of a step goes: kernels by name, under the profiler, and the host for what no kernel covers.

Kernels of this project are known by the folder they are in, so a new one is sorted by existing. The profiler slows the
host down and not the kernels: their sum is taken from it, and the time of a step from the run before.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from sparsespec import kernels

KINDS = ("gemm", "attention", "selection", "sampling", "other", "host")
_ROOMS = {
    "attention": "attention",
    "append_kv": "attention",
    "top_positions": "selection",
    "sample": "sampling",
    "verify_tokens": "sampling",
    "linear": "gemm",
}
_FOREIGN = (
    ("gemm", re.compile(r"gemm|gemv|nvjet|cutlass|cublas|splitk|_mma", re.IGNORECASE)),
    ("selection", re.compile(r"topk|radix|sort", re.IGNORECASE)),
)
SHOWN = 24
"""Kernels of the longest times that a row names."""


@functools.cache
def own_kernels() -> dict[str, str]:
    """Return the kind of each Triton kernel of the project, by its name."""
    found: dict[str, str] = {}
    for file in sorted(Path(kernels.__path__[0]).glob("*/triton*.py")):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list):
                found[node.name] = _ROOMS.get(file.parent.name, "other")
    return found


def kind_of(kernel: str) -> str:
    """Return which part of a step a kernel belongs to."""
    # Triton may write how it specialised a kernel behind its name
    own = own_kernels().get(re.sub(r"_\d[\da-z]*$", "", kernel))
    return own or next((kind for kind, pattern in _FOREIGN if pattern.search(kernel)), "other")


def summed(micros: Iterable[tuple[str, float]], steps: int, step_ms: float) -> dict[str, Any]:
    """Return the milliseconds of a step by kind, and those of the longest kernels.

    Args:
        micros: Kernels and their microseconds, all steps together.
        steps: How many those were.
        step_ms: What a step takes without a profiler.
    """
    by_name: dict[str, float] = {}
    for name, time in micros:
        by_name[name] = by_name.get(name, 0.0) + 1e-3 * time / steps
    kinds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    for name, ms in by_name.items():
        kinds[kind_of(name)] += ms
    kinds["host"] = max(0.0, step_ms - sum(by_name.values()))
    longest = sorted(by_name.items(), key=lambda item: -item[1])[:SHOWN]
    return {"ms": kinds, "kernels": [[name[:120], kind_of(name), round(ms, 5)] for name, ms in longest]}


def breakdown(step: Callable[[], object], steps: int, step_ms: float) -> dict[str, Any]:
    """Run `steps` steps under the profiler and sort their kernels."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    on_gpu = [e for e in profile.key_averages() if e.device_type.name == "CUDA"]
    return summed(((e.key, e.self_device_time_total) for e in on_gpu), steps, step_ms)
