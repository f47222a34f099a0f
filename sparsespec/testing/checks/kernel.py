"""`check_kernel`: does this function compute an op of `sparsespec.kernels`? Its reference says what is right."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.batch import float_type
from sparsespec.core.errors import ContractBroken, unknown
from sparsespec.testing.checks.stage import rounds
from sparsespec.testing.op_cases import kernel_ops
from sparsespec.testing.ops.bundles import copied, copy_into, leaves
from sparsespec.testing.ops.op import Args, Compared, KernelOp, Sizes, outputs


def check_kernel(
    op: str,
    fn: Callable[..., Any],
    *,
    examples: int = 30,
    seed: int = 0,
    dtypes: Sequence[str] | None = None,
    device: str | None = None,
) -> None:
    """Raise `ContractBroken` if a function does not compute an op as its reference does.

    The function is called as the op's function in `kernels/<op>/api.py`, without `impl`. Arguments are random: odd
    lengths, empty rows, rows of one page, ties, and views where the op allows them, with NaN wherever nothing may be
    read. Results must have the reference's shapes and types, and its bits or an error that the float type explains;
    what the op does not write must not change. On a GPU the function is recorded in a CUDA graph as well, whose replays
    must follow their inputs.

    Args:
        op: The op: "top_positions", "rms_norm", "attention" and so on; `kernel_ops()` has all of them.
        fn: The function.
        examples: Random calls.
        seed: Seed of the first call; the next ones have those behind it.
        dtypes: Float types to take turns with, by default those that the op's kernels take.
        device: Where arguments are; by default a GPU if there is one.

    Raises:
        ContractBroken: It says what is wrong, by how much, and how to make the same call again.
        UnknownName: There is no such op.
    """
    ops = kernel_ops()
    if op not in ops:
        raise unknown("op", op, ops)
    one = ops[op]
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    types = one.dtypes if dtypes is None else tuple(float_type(name) for name in dtypes)
    for at in (seed + example for example in rounds(examples)):
        dtype = types[at % len(types)]
        args = one.make(at, dtype=dtype, device=device, **one.random_sizes(random.Random(at)))
        call = _Call(one, fn, copied(args), (at, dtype, device))
        call.require_right(call.compared(args))
    if torch.device(device).type == "cuda":
        for dtype in types:
            for at, (given, compared, _) in zip(
                (seed, seed + 1), replayed(one, fn, one.fixed, (seed, seed + 1), dtype, device), strict=True
            ):
                _Call(one, fn, given, (at, dtype, device)).require_right(compared, "replayed from a CUDA graph, ")


def replayed(
    op: KernelOp, fn: Callable[..., Any], sizes: Sizes, seeds: Sequence[int], dtype: torch.dtype, device: str
) -> Iterator[tuple[Args, list[Compared], list[tuple[str, Tensor]]]]:
    """Record a call in a CUDA graph, and replay it with other arguments of the same shapes.

    Yields:
        Copies of the arguments, what is compared, and what the replay gave.

    Raises:
        ContractBroken: if the call cannot be recorded.
    """
    first = op.make(seeds[0] + 1000, dtype=dtype, device=device, **sizes)
    held = copied(first)
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        op.call(fn, held)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            returned = op.call(fn, held)
    except RuntimeError as error:
        raise ContractBroken(f"{op.name}: the call cannot be recorded in a CUDA graph: {error}") from error
    for seed in seeds:
        args = op.make(seed, dtype=dtype, device=device, **sizes)
        copy_into(held, args)
        graph.replay()
        torch.cuda.synchronize(device)
        gave = [(name, x.clone()) for name, x in outputs(op, returned, held)]
        yield args, op.compare(args, returned, held), gave


@dataclass(frozen=True)
class _Call:
    """One call, as a sentence says it."""

    op: KernelOp
    fn: Callable[..., Any]
    given: Args
    case: tuple[int, torch.dtype, str]  # seed, type and device

    def compared(self, args: Args) -> list[Compared]:
        """Return what is compared; what breaks off the call, or cannot be compared, breaks the contract."""
        try:
            returned = self.op.call(self.fn, args)
        except Exception as error:
            raise ContractBroken(f"{self.op.name}: {self._name} raised {error!r}; {self._again()}") from error
        wanted, _ = self.op.reference(self.given)
        if isinstance(wanted, tuple) and not (isinstance(returned, tuple) and len(returned) == len(wanted)):
            got = f"{len(returned)} parts" if isinstance(returned, tuple) else type(returned).__name__
            raise ContractBroken(
                f"{self.op.name}: {self._name} returned {got}, must be a tuple of {len(wanted)}; {self._again()}"
            )
        return self.op.compare(self.given, returned, args)

    def require_right(self, compared: list[Compared], how: str = "") -> None:
        """Raise for the first of what is compared that is not right."""
        for one in compared:
            if not one.is_right:
                raise ContractBroken(
                    f"{self.op.name}: {how}{one.name} of {self._name} is not that of the reference: "
                    f"{one.note or _numbers(one)}; {self._again()}"
                )

    @property
    def _name(self) -> str:
        return getattr(self.fn, "__name__", type(self.fn).__name__)

    def _again(self) -> str:
        """Return the shapes, and the line that makes the call again."""
        seed, dtype, device = self.case
        kind = str(dtype).removeprefix("torch.")
        shapes = ", ".join(f"{path} {list(x.shape)}" for path, x in leaves(self.given))
        return (
            f"shapes: {shapes}; {kind}, seed {seed}; again: check_kernel({self.op.name!r}, {self._name}, examples=1, "
            f"seed={seed}, dtypes=({kind!r},), device={device!r})"
        )


def _numbers(one: Compared) -> str:
    """Return where an output is worst, and how much of it is wrong."""
    worst = int(one.off.nan_to_num(nan=torch.inf).flatten().argmax())
    at = [int(i) for i in torch.unravel_index(torch.tensor(worst), one.off.shape)]
    got, want = (x[tuple(at)].item() for x in (one.got, one.want))
    share = float(one.wrong.double().mean())
    return (
        f"at {at} it is {got}, expected {want}; its worst error is {float(one.off.flatten()[worst]):.3g}, allowed "
        f"{one.bound:.3g}; {share:.1%} of {one.off.numel()} numbers are wrong"
    )
