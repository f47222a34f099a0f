"""Checks that ops share: each raises `BadOption` with the name of the argument."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparsespec.core.errors import BadOption


def check_kind(name: str, x: Tensor, fits: bool, wanted: object, device: torch.device, like: str = "q") -> None:
    """Raise unless x `fits` the `wanted` type and is on the device of the argument `like`."""
    if not fits or x.device != device:
        raise BadOption(f"{name} must be {wanted} on {device} as {like} is, got {x.dtype} on {x.device}")


def check_within(name: str, x: Tensor, low: int, high: int) -> None:
    """Raise unless all of x is in low … high; waits for the device."""
    wrong = x[(x < low) | (x > high)]
    if len(wrong):
        raise BadOption(f"{name} must be in {low} … {high}, got {int(wrong[0])}")


def check_launch(op: str, parts: Mapping[str, Tensor], *, compiled: bool) -> None:
    """Raise where a launch on `parts` would misread memory; `compiled` is False in Triton's interpreter."""
    device = next(iter(parts.values())).device
    for name, x in parts.items():
        if not x.is_contiguous():
            raise BadOption(f"{op} impl='triton' needs {name} to be contiguous, got strides {x.stride()}")
        if x.device != device or (compiled and not x.is_cuda):
            raise BadOption(f"{op} impl='triton' needs {name} on one CUDA device, got {x.device}")
