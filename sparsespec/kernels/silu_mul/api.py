"""The op `silu_mul`: the gate of a SwiGLU MLP, between its two matrix products.

Its input is the fused gate-up product, gate first. It is not the whole MLP: no weights are read.
"""

from __future__ import annotations

from torch import Tensor

from sparsespec.core.errors import BadOption
from sparsespec.kernels.implementations import implementation
from sparsespec.kernels.silu_mul import reference

IMPLS = {"reference": reference}
LAZY = ("triton",)
"""Implementations that need an optional package, imported when asked for."""


def silu_mul(gate_up: Tensor, *, impl: str = "reference") -> Tensor:
    """Return `silu(gate) * up`, silu rounded to the dtype before the product.

    Args:
        gate_up: `[..., 2 * I]`: gate in the first I columns, up in the last I; rows of `[N, 2 * I]` may be
            apart in memory.
        impl: which implementation; never replaced by another one.

    Returns:
        `[..., I]`, the dtype of the input.

    Raises:
        BadOption: if the last axis is odd, or `impl` does not take the type, device or layout.
        MissingPackage: if `impl` needs a package that is not installed.
        UnknownName: if there is no such `impl`.
    """
    module = implementation("silu_mul", impl, IMPLS, LAZY)
    if gate_up.shape[-1] % 2:
        raise BadOption(f"silu_mul needs an even last axis, gate then up, got {gate_up.shape[-1]}")
    return module.silu_mul(gate_up)
