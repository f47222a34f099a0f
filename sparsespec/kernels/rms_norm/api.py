"""The op `rms_norm`: scale each vector to unit root mean square, then by a learned weight.

Used before attention, before the MLP, at the end of the model, and per head for q and k where the
family has q/k norm. `add_rms_norm` first adds what a projection gave to the residual stream: the two
steps between any two projections of a decoder. Not layer norm: no mean is subtracted and
there is no bias.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sparsespec.core.errors import BadOption
from sparsespec.kernels.checks import check_kind
from sparsespec.kernels.implementations import implementation
from sparsespec.kernels.rms_norm import reference

IMPLS = {"reference": reference}
LAZY = ("triton",)
"""Implementations that need an optional package, imported when asked for."""


class Normed(NamedTuple):
    """What `add_rms_norm` returns, two tensors of the shape and dtype of x."""

    out: Tensor  # the norm of the new residual
    residual: Tensor  # the new residual


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, impl: str = "reference") -> Tensor:
    """Normalise the last axis of x.

    Args:
        x: `[..., W]`, any float dtype; rows of `[N, W]` may be apart in memory.
        weight: `[W]`, the dtype of x.
        eps: added to the mean of squares.
        impl: which implementation; never replaced by another one.

    Returns:
        `[..., W]`, the dtype of x; x is left alone.

    Raises:
        BadOption: if a width, type or device does not fit, or `impl` does not take it.
        MissingPackage: if `impl` needs a package that is not installed.
        UnknownName: if there is no such `impl`.
    """
    module = implementation("rms_norm", impl, IMPLS, LAZY)
    _check_weight(x, weight)
    return module.rms_norm(x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float, *, impl: str = "reference") -> Normed:
    """Add x to the residual, and normalise the last axis of the sum.

    The sum is rounded to the dtype before it is normed, so this is `rms_norm(residual + x)` to the
    last bit of what `impl` gives.

    Args:
        x: `[..., W]`, any float dtype; rows of `[N, W]` may be apart in memory, those of the residual otherwise.
        residual: the shape and dtype of x.
        weight: `[W]`, the dtype of x.
        eps: added to the mean of squares.
        impl: which implementation; never replaced by another one.

    Returns:
        New tensors; x and residual are left alone.

    Raises:
        BadOption: if a shape, type or device does not fit, or `impl` does not take it.
        MissingPackage: if `impl` needs a package that is not installed.
        UnknownName: if there is no such `impl`.
    """
    module = implementation("rms_norm", impl, IMPLS, LAZY)
    _check_weight(x, weight)
    if residual.shape != x.shape:
        raise BadOption(f"residual must be {list(x.shape)} as x is, got {list(residual.shape)}")
    check_kind("residual", residual, residual.dtype == x.dtype, x.dtype, x.device, "x")
    return Normed(*module.add_rms_norm(x, residual, weight, eps))


def _check_weight(x: Tensor, weight: Tensor) -> None:
    if x.shape[-1:] != weight.shape:
        raise BadOption(f"rms_norm needs weight of shape {list(x.shape[-1:])}, got {list(weight.shape)}")
    check_kind("weight", weight, weight.dtype == x.dtype, x.dtype, x.device, "x")
