"""What a registered op is, and how one call of it is compared with the reference."""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.errors import BadOption
from sparsespec.testing.ops.bundles import copied, leaves

Args = dict[str, Any]
"""Arguments of an op by name, those of its function in `kernels/<op>/api.py` without `impl`."""
Sizes = dict[str, Any]
"""What a case is made of beside its seed, type and device: arguments of the op's `make`."""


_NONE = torch.zeros(0)


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """One tensor that a call gave, beside the expected one.

    Attributes:
        name: Which one.
        got: What the call gave.
        want: What the reference gives, in float64 where the op may round.
        off: How far each element is off, float64 on the CPU: 0 where both are NaN, infinite where one is.
        bound: How far it may be.
        note: What is wrong besides, a shape for example.
    """

    name: str
    got: Tensor
    want: Tensor
    off: Tensor
    bound: float
    note: str = ""

    @property
    def wrong(self) -> Tensor:
        """Return which elements are further off than allowed."""
        return ~(self.off <= self.bound)

    @property
    def is_right(self) -> bool:
        """Whether all of it is as it must be."""
        return not self.note and not bool(self.wrong.any())


@dataclass(frozen=True, slots=True)
class Bad:
    """Arguments with a mistake, and the error that must name it.

    Attributes:
        path: The part that is changed: "q", "rows.live", or "" for all arguments at once.
        change: What becomes of it.
        message: A pattern that the error's sentence has.
        error: The class of the error.
        impls: The implementations that must refuse it: all of them, or one that takes less than the op allows.
        options: More keyword arguments of the call.
        sizes: Sizes of the arguments, where not `fixed`.
    """

    path: str
    change: Callable[[Any], Any]
    message: str
    error: type[Exception] = BadOption
    impls: tuple[str, ...] = ("reference", "triton")
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sizes: Sizes | None = None


@dataclass(frozen=True, slots=True)
class KernelOp:
    """How to make arguments of one op of `sparsespec.kernels`, call an implementation, and compare with the reference.

    Attributes:
        name: The function, `top_positions` for example.
        folder: The folder in `kernels/` that has it.
        make: `(seed, *, dtype, device, **sizes)` to arguments.
        random_sizes: Draws sizes that a CPU and Triton's interpreter can run: odd lengths, empty rows and views among
            them.
        fixed: Sizes that give arguments of the same shapes whatever the seed.
        real: Sizes for a GPU, by name.
        judge: `(op, given, returned, after)` to what is compared: `given` are copies of the arguments before the call,
            `after` those that it was given, after it.
        dtypes: Float types that an implementation is expected to take.
        mutates: Names of what the op writes in place.
        bad: Mistakes by name, in arguments of the sizes `fixed` in float32.
        n_bytes: The fewest bytes that a call must read and write.
        n_flops: Floating-point operations of its products, where these bound it.
    """

    name: str
    folder: str
    make: Callable[..., Args]
    random_sizes: Callable[[random.Random], Sizes]
    fixed: Sizes
    real: Mapping[str, Sizes]
    judge: Callable[[KernelOp, Args, Any, Args], list[Compared]]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16)
    mutates: tuple[str, ...] = ()
    bad: Mapping[str, Bad] = field(default_factory=dict[str, Bad])
    n_bytes: Callable[[Args], int] | None = None
    n_flops: Callable[[Args], int] | None = None

    @property
    def api(self) -> Any:
        """The module that checks arguments and calls an implementation by its name."""
        return importlib.import_module(f"sparsespec.kernels.{self.folder}.api")

    def function(self, impl: str) -> Callable[..., Any]:
        """Return the op by one of its implementations."""
        return partial(getattr(self.api, self.name), impl=impl)

    def call(self, fn: Callable[..., Any], args: Args) -> Any:
        """Call fn as the op's function is called: positional arguments by position, the others by name."""
        bound = inspect.signature(getattr(self.api, self.name)).bind_partial(**args)
        return fn(*bound.args, **bound.kwargs)

    def reference(self, given: Args, *, device: str | None = "cpu", floats: torch.dtype | None = None) -> Any:
        """Return what the reference returns for copies of the arguments, and these after it.

        Args:
            given: The arguments.
            device: Where it computes, by default a CPU; None is where the arguments are.
            floats: The float type it computes in, by default that of the arguments.
        """
        args = copied(given, device, floats)
        return self.call(self.function("reference"), args), args

    def compare(self, given: Args, returned: Any, after: Args) -> list[Compared]:
        """Return what a call gave beside what it must give; arguments that changed and must not are among them.

        Args:
            given: Copies of the arguments, before the call.
            returned: What it returned.
            after: The arguments, after it.
        """
        before = dict(leaves(given))
        kept = [(name, x) for name, x in leaves(after) if not name.startswith(self.mutates or "?")]
        touched = [same_bits(f"argument {name}", x, before[name]) for name, x in kept]
        return [*self.judge(self, given, returned, after), *(one for one in touched if not one.is_right)]

    def run(self, fn: Callable[..., Any], args: Args) -> list[Compared]:
        """Call fn and compare."""
        given = copied(args)
        return self.compare(given, self.call(fn, args), args)

    def wrong(self, fn: Callable[..., Any], args: Args) -> list[str]:
        """Return the names of what fn gets wrong."""
        return [one.name for one in self.run(fn, args) if not one.is_right]


def exactly(name: str, got: Tensor, want: Tensor) -> Compared:
    """Compare element by element; any NaN equals any other."""
    if (unlike := unlike_in_shape(name, got, want, want.dtype)) is not None:
        return unlike
    got, want = got.detach().cpu(), want.cpu()
    differs = (got != want) & ~((got != got) & (want != want))
    gap = (got.double() - want.double()).abs().nan_to_num(nan=torch.inf)
    tiny = torch.finfo(torch.float64).tiny
    return Compared(name, got, want, torch.where(differs, gap.clamp(min=tiny), 0.0), 0.0)


def same_bits(name: str, got: Tensor, want: Tensor) -> Compared:
    """Compare bit by bit."""
    if (unlike := unlike_in_shape(name, got, want, want.dtype)) is not None:
        return unlike
    return exactly(name, _bits(got), _bits(want))


def closely(
    name: str, got: Tensor, want: Tensor, *, rtol: float, atol: float = 0.0, dtype: torch.dtype | None = None
) -> Compared:
    """Compare element by element; an error up to `atol` + `rtol` × |want| is allowed. `dtype` is the type of `got`."""
    if (unlike := unlike_in_shape(name, got, want, dtype or want.dtype)) is not None:
        return unlike
    got, want = got.detach().cpu(), want.cpu()
    size = want.double().abs() + atol / rtol
    return Compared(name, got, want, _off(got, want, size), rtol)


def by_largest(name: str, got: Tensor, want: Tensor, bound: float, dtype: torch.dtype) -> Compared:
    """Compare by the error of each element as a share of the largest number of its vector; `dtype` is that of `got`."""
    if (unlike := unlike_in_shape(name, got, want, dtype)) is not None:
        return unlike
    got, want = got.detach().cpu(), want.cpu()
    if not want.numel():
        return Compared(name, got, want, want.double(), bound)
    size = want.double().nan_to_num(nan=0.0).abs().amax(-1, keepdim=True)
    return Compared(name, got, want, _off(got, want, size), bound)


def all_exactly(op: KernelOp, given: Args, returned: Any, after: Args) -> list[Compared]:
    """Compare all that an op returns and writes with the reference, to the last bit."""
    wanted, wanted_after = op.reference(given)
    got, want = outputs(op, returned, after), outputs(op, wanted, wanted_after)
    if len(got) != len(want):
        note = f"it has {len(got)} tensors, must have {len(want)}"
        return [Compared("result", _NONE, _NONE, _NONE.double(), 0.0, note)]
    return [exactly(name, mine, theirs) for (name, mine), (_, theirs) in zip(got, want, strict=True)]


def outputs(op: KernelOp, returned: Any, after: Args) -> list[tuple[str, Tensor]]:
    """Return the tensors that an op gave, with their names: what it returned, and what it wrote in place."""
    written = [(name, x) for name, x in leaves(after) if name.startswith(op.mutates or "?")]
    return [*leaves(returned if not torch.is_tensor(returned) else {"result": returned}), *written]


def unlike_in_shape(name: str, got: Any, want: Tensor, dtype: torch.dtype) -> Compared | None:
    """Return what says that shape or type differ, if they do."""
    note, mine = "", got if torch.is_tensor(got) else _NONE
    if mine is not got:
        note = f"it is {type(got).__name__}, must be a tensor"
    elif got.shape != want.shape:
        note = f"its shape is {list(got.shape)}, must be {list(want.shape)}"
    elif got.dtype != dtype:
        note = f"its type is {got.dtype}, must be {dtype}"
    return Compared(name, mine, want, _NONE.double(), 0.0, note) if note else None


def strided(x: Tensor) -> Tensor:
    """Return x with another number between any two of its last axis."""
    return x.repeat_interleave(2, -1)[..., ::2]


def _off(got: Tensor, want: Tensor, size: Tensor) -> Tensor:
    got, want = got.double(), want.double()
    gap = torch.where((got == want) | (got.isnan() & want.isnan()), 0.0, (got - want).abs())
    # where one is NaN, or they are other infinities
    gap = gap.nan_to_num(nan=torch.inf, posinf=torch.inf)
    return torch.where(gap == 0, 0.0, gap / size)


def _bits(x: Tensor) -> Tensor:
    x = x.detach().cpu().contiguous()
    return x.reshape(-1).view(torch.uint8) if x.numel() else x
