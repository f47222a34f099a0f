"""Host memory that a device copies to and from: page-locked for a GPU, so that no copy keeps the host waiting."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def host_array(shape: tuple[int, ...], fill: float, dtype: type[np.generic], device: str) -> npt.NDArray[Any]:
    """Return an array full of `fill`, for copies from and to `device`."""
    array = np.full(shape, fill, dtype=dtype)
    return array if device == "cpu" else torch.from_numpy(array).pin_memory().numpy()


def upload(array: npt.NDArray[Any], device: str) -> Tensor:
    """Return a copy of `array` on `device`; the host does not wait for it."""
    return torch.from_numpy(array).to(device, copy=True, non_blocking=True)


def download(x: Tensor, array: npt.NDArray[Any]) -> None:
    """Begin to copy x into `array`; it is there after the event of the launch."""
    torch.from_numpy(array).copy_(x, non_blocking=True)
