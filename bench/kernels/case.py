"""A line of `bench.kernels`: arguments from the registry of ops, the check that comes first, the bytes, the bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsespec.benchmarks.timing import buffers_for
from sparsespec.engine.profile.clock import Call
from sparsespec.kernels.implementations import fastest
from sparsespec.testing.ops.bundles import copied, leaves
from sparsespec.testing.ops.op import Args, KernelOp, Sizes, outputs

DEVICE = "cuda"
CLOSE = 1e-2
"""Largest relative error ‖x - y‖ / ‖y‖ of bf16 results; wrong kernels are off by far more."""
Check = Callable[[KernelOp, Args, Any, Args], str]
"""(op, arguments before a call, what it returned, arguments after it) to what is wrong, or ""."""
Peers = dict[str, Callable[[], list[Call]]]
"""Makes calls of others that do the same, by name."""


@dataclass
class Ready:
    """A case on the device.

    Attributes:
        calls: The op on sets of arguments, which take turns.
        bytes: The fewest bytes that a call must move.
        check: Returns what is wrong, or "".
        peers: Others that do the same.
        agrees: Whether what a peer's first call returned is the op's result.
    """

    calls: list[Call]
    bytes: int
    check: Callable[[], str]
    peers: Peers = field(default_factory=dict)
    agrees: Callable[[Any], bool] = lambda _: True


@dataclass(frozen=True)
class Case:
    """A line of the table, and its bars.

    `share` is of the read ceiling, `ratio` is time over the best peer's, `micros` is the time itself, and `beyond` is
    how many microseconds more than the best peer's.
    """

    model: str
    op: str
    name: str
    make: Callable[[], Ready]
    share: float | None = None
    ratio: float | None = None
    micros: float | None = None
    beyond: float | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells a case from the others."""
        return self.model, self.op, self.name


def own_call(op: KernelOp, args: Args) -> Call:
    """Return the op's call by the implementation that suits the arguments."""
    return bound(op, op.function(fastest(next(x for _, x in leaves(args) if x.is_floating_point()))), args)


def bound(op: KernelOp, fn: Callable[..., Any], args: Args) -> Call:
    """Return a call of fn with arguments that were put in their places beforehand."""
    return op.call(partial(partial, fn), args)


def by_norm(op: KernelOp, given: Args, returned: Any, after: Args) -> str:
    """Compare with the reference in float64 by ‖x - y‖ / ‖y‖; what stands in a pool as NaN is to stay."""
    want, written = op.reference(given, device=None, floats=torch.float64)
    return off(outputs(op, returned, after), outputs(op, want, written), CLOSE)


def by_bits(op: KernelOp, given: Args, returned: Any, after: Args) -> str:
    """Compare with the reference bit by bit."""
    want, written = op.reference(given, device=None)
    pairs = zip(outputs(op, returned, after), outputs(op, want, written), strict=True)
    return ", ".join(f"{name} differs" for (name, x), (_, y) in pairs if not torch.equal(_bits(x), _bits(y)))


def judged(op: KernelOp, given: Args, returned: Any, after: Args) -> str:
    """Compare as tests of the op do."""
    found = [one for one in op.judge(op, given, returned, after) if not one.is_right]
    return ", ".join(one.note or f"{one.name} is off by {float(one.off.max()):.2g}" for one in found)


def off(got: Sequence[tuple[str, Tensor]], want: Sequence[tuple[str, Tensor]], close: float) -> str:
    """Return which tensors are not close to what they should be."""
    if len(got) < len(want):
        return f"it gives no {want[len(got)][0]}"
    wrong: list[str] = []
    for (_, x), (name, y) in zip(got, want, strict=False):
        # scores may be longer than the longest row
        e = error(x[..., : y.shape[-1]], y)
        if not e < close:
            wrong.append(f"{name} errs by {e:.2g}")
    return ", ".join(wrong)


def error(got: Tensor, want: Tensor) -> float:
    """Return ‖got - want‖ / ‖want‖; infinite where only one of two numbers is NaN."""
    got, want = got.double(), want.double()
    if not torch.equal(got.isnan(), want.isnan()):
        return float("inf")
    return float((got - want).nan_to_num(0).norm() / want.nan_to_num(0).norm())


def is_close(got: Any, ours: Any, _: Args) -> bool:
    """Whether what a peer returned is close to what the op did, as far as the peer returns it."""
    theirs, own = (list(leaves(x if isinstance(x, tuple) else (x,))) for x in (got, ours))
    return all(error(x.flatten(), y.flatten()) < CLOSE for (_, x), (_, y) in zip(theirs, own, strict=False))


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8)


@dataclass(frozen=True)
class OnGpu:
    """An op of the registry on a GPU, with arguments that together exceed the L2 cache.

    Attributes:
        op: The op.
        sizes: What its arguments are made of.
        dtype: Their float type.
        check: What is looked at before anything is timed.
        change: (arguments, seed) to those that are used.
        call: From arguments to what is timed; the op itself by default.
        peers: Others that do the same, on the same sets of arguments.
        agrees: Whether a peer's first result is that of the op, given (peer's, op's, arguments).
    """

    op: KernelOp
    sizes: Sizes
    dtype: torch.dtype = torch.bfloat16
    check: Check = by_norm
    change: Callable[[Args, int], Args] = lambda args, seed: args
    call: Callable[[KernelOp, Args], Call] = own_call
    peers: Callable[[Sequence[Args]], Peers] = lambda sets: {}
    agrees: Callable[[Any, Any, Args], bool] = is_close

    def __call__(self) -> Ready:
        """Allocate."""
        assert self.op.n_bytes is not None, f"the registry does not say how many bytes {self.op.name} moves"
        first = self._args(0)
        n_bytes = self.op.n_bytes(first)
        sets = [first, *(self._args(seed) for seed in range(1, buffers_for(n_bytes)))]
        calls = [self.call(self.op, args) for args in sets]

        def wrong() -> str:
            given = copied(first) if self.op.mutates else first
            return self.check(self.op, given, calls[0](), first)

        return Ready(calls, n_bytes, wrong, self.peers(sets), lambda got: self.agrees(got, calls[0](), first))

    def _args(self, seed: int) -> Args:
        return self.change(self.op.make(seed, dtype=self.dtype, device=DEVICE, **self.sizes), seed)
