"""The op `rms_norm`: scale each vector to unit root mean square, then by a learned weight.

Used before attention, before the MLP, at the end of the model, and per head for q and k where the
family has q/k norm. Not layer norm: no mean is subtracted and there is no bias.
"""

from __future__ import annotations

from torch import Tensor

from sparsespec.core.errors import BadOption, unknown
from sparsespec.kernels.rms_norm import reference

_IMPLS = {"reference": reference.rms_norm}


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, impl: str = "reference") -> Tensor:
    """Normalise the last axis of x.

    Args:
        x: `[..., W]`, any float dtype.
        weight: `[W]`, the dtype of x.
        eps: added to the mean of squares.
        impl: which implementation; never replaced by another one.

    Returns:
        `[..., W]`, the dtype of x; x is left alone.

    Raises:
        BadOption: if the widths differ.
        UnknownName: if there is no such `impl`.
    """
    run = _IMPLS.get(impl)
    if run is None:
        raise unknown("impl", impl, _IMPLS)
    if x.shape[-1:] != weight.shape:
        raise BadOption(f"rms_norm needs weight of shape [{x.shape[-1]}], got {list(weight.shape)}")
    return run(x, weight, eps)
