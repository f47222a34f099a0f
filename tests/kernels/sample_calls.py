"""What tests of the Triton kernels of `draw` share: logits, filters and keys, and sizes that small rows exceed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.launched import mutant, room

ours: Any = room("sample")
blocks: Any = importlib.import_module("sparsespec.kernels.sample.triton_blocks")
cut: Any = importlib.import_module("sparsespec.kernels.sample.triton_cut")
probs: Any = importlib.import_module("sparsespec.kernels.sample.triton_probs")
noise: Any = importlib.import_module("sparsespec.kernels.sample.triton_noise")
rows: Any = importlib.import_module("sparsespec.kernels.sample.triton_rows")

Filters = tuple[float, int, float, float]

OFF: Filters = (1.0, 0, 1.0, 0.0)
KINDS: tuple[Filters, ...] = (
    OFF,
    (0.0, 3, 0.5, 0.5),
    (0.7, 1, 1.0, 0.0),
    (1.0, 5, 0.9, 0.0),
    (1.0, 44, 0.9999, 0.0),
    (1.3, 1000, 1.0, 0.05),
    (1.0, 0, 1e-9, 0.0),
    (1.0, 0, 0.0, 0.0),
    (3.0, 0, 0.5, 0.0),
    (1.0, 0, 0.95, 1.0),
    (1e-30, 2, 0.9, 0.1),
    (1e-300, 2, 0.9, 0.1),
    (1e6, 0, 0.5, 0.0),
)


SHIPPED = {
    "GROUP": cut.GROUP,
    "TILE": rows.TILE,
    "SPAN": rows.SPAN,
    "HEAD": cut.HEAD,
    "STREAMED_BLOCK": cut.STREAMED_BLOCK,
}
SMALL = {"GROUP": 4, "TILE": 16, "SPAN": 32, "HEAD": 4, "STREAMED_BLOCK": 64}


def mutants(folder: Path, *changes: tuple[Any, tuple[str, str]]) -> list[Any]:
    """Return `triton.py` and what it is made of, each (module, (old, new)) of the changes made; it comes last."""
    made: dict[str, Any] = {}
    for part in (cut, noise, blocks, ours):
        name = part.__name__.rpartition(".")[2]
        source = Path(part.__file__).read_text("utf-8")
        lines = {f"from {part.__package__}.{other} import": f"from mutated_{other} import" for other in made}
        edits = [change for module, change in changes if module is part]
        edits += [line for line in lines.items() if line[0] in source]
        if edits:
            (folder / name).mkdir()
            made[name] = sys.modules[f"mutated_{name}"] = mutant(part, folder / name, *edits)
    return list(made.values())


def resize(patch: pytest.MonkeyPatch, sizes: dict[str, int], *modules: Any) -> None:
    """Give these modules other sizes; all that have any, where none is named."""
    for module in modules or (ours, cut, probs, rows):
        for name, size in sizes.items():
            if hasattr(module, name):
                patch.setattr(module, name, size)


@contextmanager
def small_sizes() -> Iterator[None]:
    """Let vocabularies of some dozen tokens span several groups, tiles and spans."""
    with pytest.MonkeyPatch.context() as patch:
        resize(patch, SMALL)
        yield


def columns(*filters: Filters) -> list[Tensor]:
    temperature, top_k, top_p, min_p = zip(*filters, strict=True)
    real = [torch.tensor(part, dtype=torch.float64) for part in (temperature, top_p, min_p)]
    return [real[0], torch.tensor(top_k), real[1], real[2]]


def keys(n: int, position: int = 5) -> list[Tensor]:
    """Return keys whose words all differ and use their high bits."""
    row = torch.arange(n) + position
    return [row * 0x9E3779B97F4A7C1 - 3, row + 2**31, 2**32 - 1 - row, row * 977]


def logits_of(kind: str, n_rows: int, vocab: int, seed: int) -> Tensor:
    """Return logits that float16 holds too: numbers, few values that tie, equal ones, or one that stands out."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(n_rows, vocab, generator=generator)
    if kind == "ties":
        x = (x * 2).round() / 4
    if kind == "flat":
        x = torch.full_like(x, 1.5)
    if kind == "peak":
        x[:, seed % vocab] += 30
    masked = torch.rand(n_rows, vocab, generator=generator) < 0.2
    masked[:, seed % vocab] = False
    return x.masked_fill(masked, -torch.inf).half().float() if seed % 2 else x.half().float()
