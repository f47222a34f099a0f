"""Times memory: reading a buffer from end to end, and copies between the host and a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from sparsespec.engine.profile.clock import Clock, stream_clock
from sparsespec.engine.profile.sample import MIB, Plan, Sample


def read_sample(device: torch.device, plan: Plan, clock: Clock) -> Sample:
    """Return what summing up a buffer takes."""
    n = plan.read_bytes
    buffer = torch.randn(n // 4, device=device)
    return Sample("read", f"{n // MIB} MiB", (n,), clock([buffer.sum]))


def copy_samples(device: torch.device, plan: Plan) -> Iterator[Sample]:
    """Yield what page-locked copies take, each way; none on a CPU."""
    if device.type != "cuda":
        return
    for n in plan.copies:
        here = torch.empty(n, dtype=torch.uint8, pin_memory=True)
        there = torch.zeros(n, dtype=torch.uint8, device=device)
        yield Sample("to_device", f"{n // MIB} MiB", (n,), stream_clock([_copy(there, here)]))
        yield Sample("to_host", f"{n // MIB} MiB", (n,), stream_clock([_copy(here, there)]))


def _copy(into: Tensor, source: Tensor) -> partial[Tensor]:
    return partial(into.copy_, source, non_blocking=True)
