"""The op `linear`: one matrix product with an optional bias.

`reference` is `F.linear` (on a GPU that is cuBLAS). `cpu` is the same product ordered for the few rows of a decoding
step on a CPU. A row's last bits may depend on how many rows go with it in both of them, and in `triton` they do not.
"""

from __future__ import annotations

from torch import Tensor

from sparsespec.core.errors import BadOption
from sparsespec.kernels.checks import check_kind
from sparsespec.kernels.implementations import implementation
from sparsespec.kernels.linear import cpu, reference

IMPLS = {"reference": reference, "cpu": cpu}
LAZY = ("triton",)
"""Implementations that need an optional package, imported when asked for."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, impl: str = "reference") -> Tensor:
    """Return `x @ weightᵀ (+ bias)`.

    Args:
        x: `[N, in]`; its rows, and those of the weight, may be apart in memory.
        weight: `[out, in]`, the dtype of x.
        bias: `[out]` or None, the dtype of x.
        impl: which implementation; never replaced by another one.

    Returns:
        `[N, out]`, the dtype of x.

    Raises:
        BadOption: if a size, type or device does not fit, or `impl` does not take it.
        MissingPackage: if `impl` needs a package that is not installed.
        UnknownName: if there is no such `impl`.
    """
    module = implementation("linear", impl, IMPLS, LAZY)
    if x.shape[-1] != weight.shape[1]:
        raise BadOption(f"linear needs x of width {weight.shape[1]} for weight {list(weight.shape)}, got {x.shape[-1]}")
    check_kind("weight", weight, weight.dtype == x.dtype, x.dtype, x.device, "x")
    if bias is not None:
        if bias.shape != weight.shape[:1]:
            raise BadOption(f"linear needs bias of shape {list(weight.shape[:1])}, got {list(bias.shape)}")
        check_kind("bias", bias, bias.dtype == x.dtype, x.dtype, x.device, "x")
    return module.linear(x, weight, bias)
