"""What an engine takes of memory, by component, and whether there is room for it before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.engine.state import make_state
from sparsespec.kv.pool import KVPool, pool_bytes

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Ledger:
    """Bytes by name, in the order in which they were counted; what two share counts for the first."""

    entries: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, holders: Mapping[str, object]) -> Ledger:
        """Count the tensors and arrays that each holder can reach, each piece of memory once."""
        seen: set[int] = set()
        return cls(tuple((name, sum(_pieces(holder, seen))) for name, holder in holders.items()))

    @property
    def total(self) -> int:
        """Return the bytes of all."""
        return sum(n for _, n in self.entries)

    def __str__(self) -> str:
        """Return a line for each entry that holds anything, and one for the sum."""
        held = [(name, n) for name, n in (*self.entries, ("all", self.total)) if n]
        return "\n".join(f"{name:12} {n / 2**20:10.1f} MiB" for name, n in held)


def _pieces(holder: object, seen: set[int]) -> Iterator[int]:
    """Yield the bytes of each piece of memory behind `holder` that is not in `seen`, and enter it."""
    todo = [holder]
    while todo:
        x = todo.pop()
        if isinstance(x, Tensor):
            storage = x.untyped_storage()
            if storage.data_ptr() not in seen and storage.nbytes():
                seen.add(storage.data_ptr())
                yield storage.nbytes()
        elif isinstance(x, np.ndarray):
            base = x if x.base is None else x.base
            if isinstance(base, np.ndarray | Tensor) and id(base) not in seen:
                seen.add(id(base))
                yield x.nbytes if base is x else base.nbytes
        elif id(x) not in seen and not isinstance(x, type | str | int | float | Geometry):
            seen.add(id(x))
            todo.extend(_held(x))


def _held(x: object) -> Iterable[Any]:
    if isinstance(x, Mapping):
        return x.values()
    if isinstance(x, list | tuple | set | frozenset):
        return x
    names = {*getattr(x, "__dict__", ())}
    for kind in type(x).__mro__:
        names.update(getattr(kind, "__slots__", ()))
    return [getattr(x, name) for name in names if hasattr(x, name)] if _is_ours(x) else ()


def _is_ours(x: object) -> bool:
    """Say whether to look into an object: not into modules, functions, streams and other libraries' machinery."""
    return not callable(x) and type(x).__module__.partition(".")[0] not in ("torch", "builtins", "random")


def check_room(geometry: Geometry, *, draft_logits: bool, pool: KVPool | None = None) -> None:
    """Raise `BadOption` if the state of the seats and the KV pool do not fit into what the device has free.

    A `pool` that is there already must have the engine's sizes.
    """
    if pool is not None and pool.n_bytes != pool_bytes(geometry):
        raise BadOption(
            f"the pool has {pool.n_bytes} bytes and the engine's KV takes {pool_bytes(geometry)}; "
            "give the pool of an engine of the same model and sizes, or None"
        )
    free = free_bytes(geometry.device)
    if free is None:
        return
    g = geometry
    one_seat = make_state(replace(g, n_seats=1, device="cpu"), draft_logits=draft_logits)
    state_bytes = g.n_seats * sum(x.nbytes for x in _held(one_seat) if isinstance(x, Tensor))
    kv_bytes = pool_bytes(g) if pool is None else 0
    if state_bytes + kv_bytes > free:
        raise BadOption(
            f"{g.n_seats} requests of up to {g.max_model_len} tokens take {state_bytes / GIB:.3g} GiB and the KV pool "
            f"of {g.num_gpu_blocks} pages {kv_bytes / GIB:.3g} GiB, "
            f"and {g.device} has {free / GIB:.3g} GiB free; lower num_gpu_blocks, max_num_seqs or max_model_len"
        )


@contextmanager
def within_memory(holders: Mapping[str, object]) -> Iterator[None]:
    """Raise `BadOption` with what each of `holders` has by then where a GPU runs out of memory inside."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        held = ", ".join(f"{name} {n / GIB:.3g} GiB" for name, n in Ledger.of(holders).entries if n)
        raise BadOption(
            f"the GPU ran out of memory while an engine was made, which had {held}; "
            "lower num_gpu_blocks, max_num_seqs or max_model_len"
        ) from error


def free_bytes(device: str) -> int | None:
    """Return how much memory can be had, None where nobody says."""
    if device != "cpu":
        # what torch holds and nobody uses is as good as free
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024 * kilobytes[0] if kilobytes else None
