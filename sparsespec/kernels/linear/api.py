"""The op `linear`: one matrix product with an optional bias.

`reference` is `F.linear` (on a GPU that is cuBLAS). `cpu` is the same product ordered for the few
rows of a decoding step on a CPU. Neither is batch-invariant: a row's last bits may depend on how
many rows go with it.
"""

from __future__ import annotations

from torch import Tensor

from sparsespec.core.errors import BadOption, unknown
from sparsespec.kernels.linear import cpu, reference

_IMPLS = {"reference": reference.linear, "cpu": cpu.linear}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, impl: str = "reference") -> Tensor:
    """Return `x @ weightᵀ (+ bias)`.

    Args:
        x: `[N, in]`.
        weight: `[out, in]`, the dtype of x.
        bias: `[out]` or None.
        impl: which implementation; never replaced by another one.

    Returns:
        `[N, out]`, the dtype of x.

    Raises:
        BadOption: if the inner sizes differ.
        UnknownName: if there is no such `impl`.
    """
    run = _IMPLS.get(impl)
    if run is None:
        raise unknown("impl", impl, _IMPLS)
    if x.shape[-1] != weight.shape[1]:
        raise BadOption(f"linear needs x of width {weight.shape[1]} for weight {list(weight.shape)}, got {x.shape[-1]}")
    return run(x, weight, bias)
