"""Copies whole pages of all layers from one pool to another, or to other places of the same pool.

Which pages go where stands in device tensors, so the copy can be recorded in a CUDA graph and replayed with others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparsespec.core.errors import BadOption, MissingPackage, unknown
from sparsespec.kernels.copy_pages import reference

IMPLS = {"reference": reference.copy_pages}
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
    run = _implementation(impl)
    _check(source, target, pairs, count)
    if checked:
        _check_values(source, target, pairs, count)
    run(source, target, pairs, count)


def _check(source: Tensor, target: Tensor, pairs: Tensor, count: Tensor) -> None:
    if source.ndim != 5:
        raise BadOption(f"source must be [L, pages, P, Hkv, D], got {list(source.shape)}")
    if target.ndim != 5 or (target.shape[0], *target.shape[2:]) != (source.shape[0], *source.shape[2:]):
        layers, _, *page = source.shape
        sizes = ", ".join(str(n) for n in page)
        raise BadOption(f"target must be [{layers}, pages, {sizes}] as source is, got {list(target.shape)}")
    if target.dtype != source.dtype or target.device != source.device:
        raise BadOption(
            f"target must be {source.dtype} on {source.device} as source is, got {target.dtype} on {target.device}"
        )
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise BadOption(f"pairs must be [n, 2], from and to, got {list(pairs.shape)}")
    if count.numel() != 1:
        raise BadOption(f"count must be a single number, got {list(count.shape)}")
    for name, x in (("pairs", pairs), ("count", count)):
        if x.dtype != torch.int64 or x.device != source.device:
            raise BadOption(f"{name} must be int64 on {source.device} as source is, got {x.dtype} on {x.device}")


def _check_values(source: Tensor, target: Tensor, pairs: Tensor, count: Tensor) -> None:
    n = int(count)
    if not 0 <= n <= len(pairs):
        raise BadOption(f"count must be in 0 … {len(pairs)}, got {n}")
    pages, places = pairs[:n].unbind(1)
    for name, x, limit in (("pairs[:, 0]", pages, source.shape[1]), ("pairs[:, 1]", places, target.shape[1])):
        wrong = x[(x < 0) | (x >= limit)]
        if len(wrong):
            raise BadOption(f"{name} must be in 0 … {limit - 1}, got {int(wrong[0])}")
    if len(places.unique()) != n:
        raise BadOption("pairs[:, 1] must not name a page twice: which copy would stay is not known")
    if source.data_ptr() == target.data_ptr() and bool(torch.isin(pages, places).any()):
        raise BadOption("pairs must not read a page of the same pool that they write")


def _implementation(impl: str) -> Callable[[Tensor, Tensor, Tensor, Tensor], None]:
    if impl in IMPLS:
        return IMPLS[impl]
    if impl not in LAZY:
        raise unknown("copy_pages implementation", impl, (*IMPLS, *LAZY))
    try:
        from sparsespec.kernels.copy_pages import triton
    except ModuleNotFoundError as error:
        raise MissingPackage("copy_pages with impl='triton' needs: pip install 'sparsespec[triton]'") from error
    return triton.copy_pages
