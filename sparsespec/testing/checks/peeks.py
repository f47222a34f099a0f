"""`without_peeks`: code that says it can be captured must not look at a value from the host.

On a GPU such a look waits for the device, and it cannot be recorded in a CUDA graph at all. On a CPU it costs nothing
and would go unnoticed, so it raises here: reading a tensor's value, and operations whose results are as many as values
are true.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sparsespec.core.errors import ContractBroken

_READS = {"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__", "equal", "allclose"}
_SIZED_BY_VALUES = {"nonzero", "masked_select", "unique", "unique_consecutive", "_unique2", "bincount", "is_nonzero"}
_NAMES = _READS | _SIZED_BY_VALUES | {"_local_scalar_dense"}


def kept_promise(part: object) -> AbstractContextManager[object]:
    """Return a guard around a part's device code if it gives `capturable`, else one that does nothing."""
    who = type(part)
    return without_peeks(who.__name__) if "capturable" in getattr(who, "provides", ()) else nullcontext()


class Guard:
    """Who is watched, and whether anybody watches just now."""

    def __init__(self, who: str) -> None:
        self._who, self._on_duty = who, True

    @contextmanager
    def off_duty(self) -> Iterator[None]:
        """Let code inside look where it likes."""
        self._on_duty = False
        try:
            yield
        finally:
            self._on_duty = True

    def refuse(self, what: str) -> None:
        """Raise `ContractBroken` for a look by way of `what`."""
        if self._on_duty:
            raise ContractBroken(
                f"{self._who} looks at a tensor's value from the host ({what}), so it cannot be captured; use masks "
                "and fixed shapes, or do not give 'capturable'"
            )


@contextmanager
def without_peeks(who: str) -> Iterator[Guard]:
    """Raise `ContractBroken`, naming `who`, where code inside looks at a value of a tensor."""
    guard = Guard(who)
    with _Functions(guard), _Operations(guard):
        yield guard


class _Functions(TorchFunctionMode):
    """Sees calls on tensors as they are written, also those that read memory without an operation."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READS:
            self._guard.refuse(name)
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    """Sees operations, also those inside others."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        kwargs = kwargs or {}
        if name in _NAMES or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self._guard.refuse(name)
        if name in ("index", "index_put", "index_put_") and any(_is_mask(index) for index in args[1]):
            self._guard.refuse("a mask as an index")
        return func(*args, **kwargs)


def _is_mask(index: object) -> bool:
    return torch.is_tensor(index) and index.dtype in (torch.bool, torch.uint8)
