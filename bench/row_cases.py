"""The ops of a decoder that see one row at a time, as cases of `bench.kernels`.

Widths are those of the model's residual stream and MLP. FlashInfer's norm overwrites its inputs: it is given copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench import flashinfer_peer
from bench.kernel_cases import CLOSE, Ready, Shape, error
from bench.timing import buffers_for
from sparsespec.kernels.rms_norm.api import add_rms_norm
from sparsespec.kernels.silu_mul.api import silu_mul

EPS = 1e-6


def _off(got: dict[str, tuple[Tensor, Tensor]]) -> str:
    errors = {name: error(x, want.double()) for name, (x, want) in got.items()}
    return ", ".join(f"{name} errs by {e:.2g}" for name, e in errors.items() if not e < CLOSE)


@dataclass(frozen=True)
class Norm:
    """`tokens` rows to add to a residual and to norm."""

    tokens: int
    hidden: int

    def __call__(self, _: Shape) -> Ready:
        """Allocate rows of both and a weight."""
        real = partial(torch.randn, device="cuda", dtype=torch.bfloat16)
        weight = real(self.hidden)
        # two tensors are read, and two written
        n_bytes = 2 * 4 * self.tokens * self.hidden
        sets = [(*real(2, self.tokens, self.hidden),) for _ in range(buffers_for(n_bytes))]
        calls = [partial(add_rms_norm, x, residual, weight, EPS, impl="triton") for x, residual in sets]

        def wrong() -> str:
            x, residual = sets[0]
            got = calls[0]()
            want = add_rms_norm(x.double(), residual.double(), weight.double(), EPS)
            return _off({"out": (got.out, want.out), "residual": (got.residual, want.residual)})

        def agrees(got: tuple[Tensor, Tensor]) -> bool:
            ours = calls[0]()
            return not _off({"out": (got[0], ours.out), "residual": (got[1], ours.residual)})

        return Ready(calls, n_bytes, wrong, flashinfer_peer.add_rms_norm(sets, weight, EPS), agrees)


@dataclass(frozen=True)
class Gate:
    """`tokens` rows of a gate and as wide a product to gate."""

    tokens: int
    width: int

    def __call__(self, _: Shape) -> Ready:
        """Allocate gate-up products."""
        # gate and up are read, and one is written
        n_bytes = 2 * 3 * self.tokens * self.width
        size = (self.tokens, 2 * self.width)
        sets = [torch.randn(size, device="cuda", dtype=torch.bfloat16) for _ in range(buffers_for(n_bytes))]
        calls = [partial(silu_mul, x, impl="triton") for x in sets]
        wrong = lambda: _off({"out": (calls[0](), silu_mul(sets[0].double()))})  # noqa: E731
        peers = flashinfer_peer.silu_mul(sets)
        return Ready(calls, n_bytes, wrong, peers, lambda got: not _off({"out": (got, calls[0]())}))
