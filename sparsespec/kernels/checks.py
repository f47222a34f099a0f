"""Checks that ops share: each raises `BadOption` with the name of the argument."""

from __future__ import annotations

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
