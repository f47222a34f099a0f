"""Copies whole pages of all layers from one pool to another, or to other places of the same pool.

Which pages go where is said by device tensors, so the copy can be recorded in a CUDA graph and replayed with others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.errors import BadOption
from sparsespec.kernels.checks import check_kind, check_within
from sparsespec.kernels.copy_pages import reference
from sparsespec.kernels.implementations import implementation

IMPLS = {"reference": reference}
LAZY = ("triton",)
"""Implementations that need an optional package, imported when asked for."""


def copy_pages(
    source: Tensor, target: Tensor, pairs: Tensor, count: Tensor, *, impl: str, checked: bool = False
) -> None:
    """Copy page `pairs[i, 0]` of `source` to page `pairs[i, 1]` of `target`, in every layer, for i below `count`.

    Copies have no order, so no page may be written twice, nor be read and written in one call.

    Args:
        source: A pool of keys or values, [L, pages, P, Hkv, D].
        target: A pool that differs at most in its number of pages; written in place. It may be `source`.
        pairs: (from, to), [n, 2] int64; those at and behind `count` are ignored.
        count: How many pairs count, a single int64.
        impl: Which implementation.
        checked: Look at every pair first, so that a page out of range is an error with a name. It waits for the device,
            so it cannot be recorded in a CUDA graph.

    Raises:
        BadOption: if a shape, type or device cannot work, or `checked` found something.
        MissingPackage: if `impl` needs a package that is not installed.
        UnknownName: if there is no such `impl`.
    """
    module = implementation("copy_pages", impl, IMPLS, LAZY)
    _check(source, target, pairs, count)
    if checked:
        _check_values(source, target, pairs, count)
    module.copy_pages(source, target, pairs, count)


def _check(source: Tensor, target: Tensor, pairs: Tensor, count: Tensor) -> None:
    if source.ndim != 5:
        raise BadOption(f"source must be [L, pages, P, Hkv, D], got {list(source.shape)}")
    if target.ndim != 5 or (target.shape[0], *target.shape[2:]) != (source.shape[0], *source.shape[2:]):
        layers, _, *page = source.shape
        sizes = ", ".join(str(n) for n in page)
        raise BadOption(f"target must be [{layers}, pages, {sizes}] as source is, got {list(target.shape)}")
    check_kind("target", target, target.dtype == source.dtype, source.dtype, source.device, "source")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise BadOption(f"pairs must be [n, 2], from and to, got {list(pairs.shape)}")
    if count.numel() != 1:
        raise BadOption(f"count must be a single number, got {list(count.shape)}")
    for name, x in (("pairs", pairs), ("count", count)):
        check_kind(name, x, x.dtype == torch.int64, "int64", source.device, "source")


def _check_values(source: Tensor, target: Tensor, pairs: Tensor, count: Tensor) -> None:
    check_within("count", count, 0, len(pairs))
    n = int(count)
    pages, places = pairs[:n].unbind(1)
    check_within("pairs[:, 0]", pages, 0, source.shape[1] - 1)
    check_within("pairs[:, 1]", places, 0, target.shape[1] - 1)
    if len(places.unique()) != n:
        raise BadOption("pairs[:, 1] must not name a page twice: which copy would stay is not known")
    if source.data_ptr() == target.data_ptr() and bool(torch.isin(pages, places).any()):
        raise BadOption("pairs must not read a page of the same pool that they write")
