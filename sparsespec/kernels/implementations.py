"""Finds the implementation of an op by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from sparsespec.core.errors import MissingPackage, unknown

FAST_TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Float types that all Triton kernels take; float64 is for proofs."""


def fastest(x: Tensor) -> str:
    """Return the implementation that suits what holds `x`: `triton` on a GPU, `reference` elsewhere and in float64.

    Ops on whole numbers are asked with one of these, and have no float type to be held back by.
    """
    return "triton" if x.is_cuda and (x.dtype in FAST_TYPES or not x.is_floating_point()) else "reference"


def implementation(
    op: str, impl: str, loaded: Mapping[str, ModuleType], lazy: Iterable[str] = (), *, what: str | None = None
) -> ModuleType:
    """Return the module that implements an op.

    Args:
        op: The op, named as its folder is.
        impl: Which implementation.
        loaded: Implementations that need no optional package.
        lazy: Those that need the package they are named after, imported when asked for.
        what: What an error says is not implemented; the op, if None.

    Raises:
        MissingPackage: if `impl` needs a package that is not installed.
        UnknownName: if there is no such `impl`.
    """
    if impl in loaded:
        return loaded[impl]
    if impl not in lazy:
        raise unknown(f"implementation of {what or op}", impl, (*loaded, *lazy))
    try:
        return import_module(f"sparsespec.kernels.{op}.{impl}")
    except ModuleNotFoundError as error:
        raise MissingPackage(f"{op} with impl={impl!r} needs: pip install 'sparsespec[{impl}]'") from error
