"""What tests of Triton kernels share: proof that the kernel ran, and mutants of its source.

On a machine without a GPU the kernels run in Triton's interpreter, which must be switched on before triton is imported:
`room` does so.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.kernels.interpreter import quicken

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WHERE = pytest.mark.gpu if DEVICE == "cuda" else pytest.mark.slow
"""The mark of all tests of a Triton kernel: `-m gpu` runs all of them on a GPU."""
POISON = -7777777
"""What integer outputs hold before a launch; floats hold NaN."""


def room(op: str) -> ModuleType:
    """Return `sparsespec.kernels.<op>.triton`; skip the caller's module where triton is not installed."""
    if DEVICE == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    pytest.importorskip("triton")
    if DEVICE == "cpu":
        quicken()
    return importlib.import_module(f"sparsespec.kernels.{op}.triton")


def mutant(module: ModuleType, folder: Path, *changes: tuple[str, str]) -> ModuleType:
    """Return the module with every `old` of the changes (old, new) in its source replaced by `new`."""
    return mutants(folder, (module,), *((module, *change) for change in changes))[-1]


def mutants(folder: Path, parts: Sequence[ModuleType], *changes: tuple[ModuleType, str, str]) -> list[ModuleType]:
    """Return modules, each of which may import those before it, with changes (module, old, new) made.

    Only those that are changed, or import one that is, are there.
    """
    made: dict[str, ModuleType] = {}
    for part in parts:
        assert part.__file__ is not None
        source, name = Path(part.__file__).read_text("utf-8"), part.__name__.rpartition(".")[2]
        edits = [(old, new) for module, old, new in changes if module is part]
        lines = {f"from {part.__package__}.{other} import": f"from mutated_{other} import" for other in made}
        edits += [line for line in lines.items() if line[0] in source]
        if not edits:
            continue
        for old, new in edits:
            assert old in source, f"the mutant's {old!r} is gone from {part.__file__}"
            source = source.replace(old, new)
        path = folder / f"mutated_{name}.py"
        path.write_text(source, "utf-8")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        # the others import it, and dataclasses look it up
        made[name] = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made[name])
    return list(made.values())


class _Spy:
    def __init__(self, kernel: Any) -> None:
        self.kernel, self.launches = kernel, 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.launches += 1
        return self.kernel[grid]


@contextmanager
def poisoned() -> Iterator[pytest.MonkeyPatch]:
    """Fill what `torch.empty` gives meanwhile, so that nothing left unwritten can be right by chance."""
    empty, empty_like = torch.empty, torch.empty_like

    def poison(x: torch.Tensor) -> torch.Tensor:
        return x.fill_(torch.nan if x.is_floating_point() else POISON)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", lambda *a, **k: poison(empty(*a, **k)))
        patch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))
        yield patch


@contextmanager
def alone(api: Any, module: ModuleType | None = None) -> Iterator[pytest.MonkeyPatch]:
    """Put the reference out of reach of an op, and let its `triton` be `module` if there is one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "IMPLS", {} if module is None else {"triton": module})
        patch.setitem(sys.modules, f"{api.__package__}.reference", None)
        yield patch


@contextmanager
def launched(module: ModuleType, kernel: str, api: Any) -> Iterator[None]:
    """Fail unless the body launches `kernel`; block the reference and poison new tensors meanwhile."""
    with poisoned(), alone(api) as patch:
        spy = _Spy(getattr(module, kernel))
        patch.setattr(module, kernel, spy)
        yield
    assert spy.launches, f"{kernel} was not launched"
