"""What `bench.kernels` times where there is no GPU: the reference implementations in float32, on SmolLM2's shape.

Inputs are random, fixed and small, so most of them stay in a cache. A context is 1024 tokens, a batch four rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from bench.kernels import definitions
from bench.kernels.cache import append_sizes, as_in_a_model, attention_sizes, copy_sizes, drafting, each_once, verifying
from bench.kernels.case import Check, bound, judged
from bench.kernels.definitions import best_tokens, by_definition, same_positions
from bench.kernels.table import SMOLLM2
from sparsespec.engine.profile.clock import Call
from sparsespec.testing.ops.attention import ATTENTION
from sparsespec.testing.ops.bundles import copied
from sparsespec.testing.ops.cache import APPEND_KV, COPY_PAGES
from sparsespec.testing.ops.choice import TOP_POSITIONS
from sparsespec.testing.ops.op import Args, KernelOp, Sizes
from sparsespec.testing.ops.sampling import SAMPLE

IMPL = "reference"
ROWS = 4
LENGTH = 1024
VOCAB = 49152


class Ready(NamedTuple):
    """An op on its inputs, and what says what is wrong with it, or ""."""

    call: Call
    check: Callable[[], str]


@dataclass(frozen=True)
class CpuCase:
    """A line of the table; `sizes` are what its rows in a file say of it."""

    op: KernelOp
    name: str
    made_of: Sizes
    check: Check
    sizes: dict[str, Any]
    change: Callable[[Args, int], Args] = lambda args, seed: args
    model: str = SMOLLM2.name

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells a case from the others."""
        return self.model, self.op.name, self.name

    def __str__(self) -> str:
        return f"{self.op.name}: {self.name}"

    def make(self) -> Ready:
        """Allocate, the same every time."""
        args = self.change(self.op.make(0, dtype=torch.float32, device="cpu", **self.made_of), 0)
        call = bound(self.op, self.op.function(IMPL), args)

        def wrong() -> str:
            given = copied(args)
            return self.check(self.op, given, call(), args)

        return Ready(call, wrong)


def cases() -> list[CpuCase]:
    """Return the table; no name is a GPU case's, so that both fit into one file."""
    shape, few = SMOLLM2, round(0.05 * LENGTH)
    verify, sparse = verifying(LENGTH, 9, scored=True), drafting(LENGTH, few)

    def attention(name: str, row: Any, groups: int = 1) -> CpuCase:
        made_of = attention_sizes(shape, (row,) * ROWS, groups)
        sizes = {"rows": ROWS, "length": LENGTH, "queries": row.live, "chosen": row.count, "groups": groups}
        return CpuCase(ATTENTION, name, made_of, by_definition(definitions.attention), sizes, as_in_a_model)

    def chosen(pool: int) -> CpuCase:
        lists = (shape.layers, 1, ROWS, LENGTH)
        made_of = {"shape": lists, "k_max": few, "pool": pool, "below": (LENGTH,) * ROWS, "count": (few,) * ROWS}
        sizes = {"layers": shape.layers, "rows": ROWS, "length": LENGTH, "k": few, "pool": pool}
        return CpuCase(TOP_POSITIONS, f"{few} of {LENGTH}, pool {pool}", made_of, same_positions, sizes)

    def sampled(top_p: float) -> CpuCase:
        made_of = {"filters": ((1.0, 0, top_p, 0.0),) * ROWS, "vocab": VOCAB}
        sizes = {"rows": ROWS, "vocab": VOCAB, "temperature": 1.0, "top_p": top_p}
        return CpuCase(SAMPLE, f"vocabulary, top_p {top_p}", made_of, best_tokens, sizes)

    tokens, appended = 9 * ROWS, by_definition(definitions.append_kv)
    return [
        attention(f"decode at {LENGTH}", verifying(LENGTH, 1)),
        attention(f"verify at {LENGTH}, scores", verify),
        *(attention(f"sparse {few} of {LENGTH}, groups {n}", sparse, n) for n in (1, shape.kv_heads)),
        chosen(1),
        chosen(5),
        CpuCase(APPEND_KV, f"{tokens} tokens", append_sizes(shape, tokens), appended, {"tokens": tokens}),
        CpuCase(COPY_PAGES, "16 pages", copy_sizes(shape, 16), judged, {"pages": 16}, each_once),
        sampled(1.0),
        sampled(0.95),
    ]
