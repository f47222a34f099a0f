"""What `bench.kernels` times where there is no GPU: the reference implementations in float32, on SmolLM2's shape.

Inputs are random, fixed and small, so most of them stay in a cache. A context is 1024 tokens, a batch four rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import exact
from bench.kernel_cases import PAGE, Rows, Shape, error
from bench.kernel_table import SMOLLM2
from sparsespec.core.noise import gumbel
from sparsespec.kernels.append_kv.api import append_kv
from sparsespec.kernels.attention.api import attention
from sparsespec.kernels.copy_pages.api import copy_pages
from sparsespec.kernels.sample.api import sample
from sparsespec.kernels.top_positions.api import top_positions

IMPL = "reference"
ROWS = 4
LENGTH = 1024
VOCAB = 49152
CLOSE = 1e-5
"""Largest relative error of float32 results; their rounding is a hundredth of it."""
EPS = 1e-5


class Ready(NamedTuple):
    """An op on its inputs."""

    call: Callable[[], Any]
    check: Callable[[], str]  # what is wrong, or ""


@dataclass(frozen=True)
class CpuCase:
    """A line of the table; `build` takes the shape and `sizes`."""

    op: str
    name: str
    build: Callable[..., Ready]
    sizes: dict[str, Any]
    shape: Shape = SMOLLM2

    def __str__(self) -> str:
        return f"{self.op}: {self.name}"

    def make(self) -> Ready:
        """Allocate, the same every time."""
        return self.build(self.shape, torch.Generator().manual_seed(0), **self.sizes)


def attend(shape: Shape, generator: torch.Generator, rows: int, length: int, queries: int, **how: Any) -> Ready:
    """Return rows that read everything, or a selection where `chosen` says how much."""
    case = Rows(((length, queries, "chosen" in how),) * rows, **how)
    pools = case.pools(shape, generator, torch.float32)
    q, these, chosen = case.inputs(shape, generator, torch.float32)
    scale = shape.head_dim**-0.5
    call = partial(attention, q, *pools, these, scale=scale, chosen=chosen, impl=IMPL)

    def check() -> str:
        out, lse, scores = exact.attention(q, *pools, these, scale, chosen)
        got = call()
        pairs = {"out": (got.out, out), "lse": (got.lse, lse)}
        if case.scored:
            if got.scores is None:
                return "it gives no scores"
            pairs["scores"] = (got.scores, scores)
        return off(pairs)

    return Ready(call, check)


def choose(_: Shape, generator: torch.Generator, layers: int, rows: int, length: int, k: int, pool: int) -> Ready:
    """Return lists of probabilities to choose from, for all layers."""
    scores = torch.softmax(3 * torch.randn(layers, 1, rows, length, generator=generator), -1)
    below, count = (torch.full((rows,), n) for n in (length, k))
    call = partial(top_positions, scores, below, count, k, pool=pool, impl=IMPL)
    return Ready(call, lambda: same("positions", call(), exact.top_positions(scores, k, pool)))


def append(shape: Shape, generator: torch.Generator, tokens: int) -> Ready:
    """Return tokens to norm, rotate and write."""
    real = partial(torch.randn, generator=generator)
    q = real(tokens, shape.heads, shape.head_dim)
    k, v = real(2, tokens, shape.kv_heads, shape.head_dim)
    k_pages, v_pages = real(2, 4 * tokens // PAGE + 1, PAGE, shape.kv_heads, shape.head_dim)
    angle = 6 * torch.rand(LENGTH, shape.head_dim // 2, generator=generator, dtype=torch.float64)
    positions = torch.randint(LENGTH, (tokens,), generator=generator)
    slots = PAGE + torch.randperm(4 * tokens // PAGE * PAGE, generator=generator)[:tokens]
    q_norm, k_norm = real(2, shape.head_dim)
    tables = {"positions": positions, "slots": slots, "cos": angle.cos().float(), "sin": angle.sin().float()}
    norms = {"q_norm": q_norm, "k_norm": k_norm, "eps": EPS}
    call = partial(append_kv, q, k, v, k_pages, v_pages, **tables, **norms, impl=IMPL)

    def check() -> str:
        want = [x.flatten(0, 1).double() for x in (k_pages, v_pages)]
        want[0][slots] = exact.rotated(k, angle[positions], k_norm, EPS)
        want[1][slots] = v.double()
        turned = call()
        written = [x.flatten(0, 1) for x in (k_pages, v_pages)]
        expected = exact.rotated(q, angle[positions], q_norm, EPS)
        return off({"q": (turned, expected), "k": (written[0], want[0]), "v": (written[1], want[1])})

    return Ready(call, check)


def copy(shape: Shape, generator: torch.Generator, pages: int) -> Ready:
    """Return a pool of keys, the pages to be read in its first half, and pairs in random order."""
    pool = torch.randn(shape.layers, 2 * pages, PAGE, shape.kv_heads, shape.head_dim, generator=generator)
    order = torch.randperm(pages, generator=generator), pages + torch.randperm(pages, generator=generator)
    pairs, count = torch.stack(order, 1), torch.tensor(pages)
    call = partial(copy_pages, pool, pool, pairs, count, impl=IMPL)

    def check() -> str:
        want = pool.clone()
        for source, target in pairs.tolist():
            want[:, target] = pool[:, source]
        call()
        return same("pages", pool, want)

    return Ready(call, check)


def sampling(_: Shape, generator: torch.Generator, rows: int, vocab: int, temperature: float, top_p: float) -> Ready:
    """Return logits to draw from."""
    logits = 3 * torch.randn(rows, vocab, generator=generator)
    full = partial(torch.full, (rows,), dtype=torch.float64)
    seed, zero = torch.arange(rows), torch.zeros(rows, dtype=torch.int64)
    key = (seed, zero, zero, zero)
    filters = (full(temperature), zero, full(top_p), full(0.0))
    call = partial(sample, logits, *filters, *key, impl=IMPL)

    def check() -> str:
        score = exact.perturbed(logits, temperature, top_p, gumbel(*key, vocab, torch.float32))
        lost = score.amax(-1) - score.gather(-1, call()[:, None])[:, 0]
        return "" if bool((lost < CLOSE * score.amax(-1)).all()) else f"a token is {lost.max():.2g} below the best"

    return Ready(call, check)


def off(pairs: dict[str, tuple[Tensor, Tensor]]) -> str:
    """Return which results are not close to what they should be."""
    errors = {name: error(got, want) for name, (got, want) in pairs.items()}
    return ", ".join(f"{name} errs by {e:.2g}" for name, e in errors.items() if not e < CLOSE)


def same(what: str, got: Tensor, want: Tensor) -> str:
    """Return whether `what` differs."""
    return "" if torch.equal(got, want) else f"{what} differ from the definition's"


def cases() -> list[CpuCase]:
    """Return the table; no name is a GPU case's, so that both fit into one file."""
    rows = {"rows": ROWS, "length": LENGTH}
    few = round(0.05 * LENGTH)
    sparse = {**rows, "queries": 1, "chosen": few}
    lists = {"layers": SMOLLM2.layers, **rows, "k": few}
    laws = {"rows": ROWS, "vocab": VOCAB, "temperature": 1.0}
    return [
        CpuCase("attention", f"decode at {LENGTH}", attend, {**rows, "queries": 1}),
        CpuCase("attention", f"verify at {LENGTH}, scores", attend, {**rows, "queries": 9, "scored": True}),
        *(
            CpuCase("attention", f"sparse {few} of {LENGTH}, groups {n}", attend, {**sparse, "groups": n})
            for n in (1, SMOLLM2.kv_heads)
        ),
        *(CpuCase("top_positions", f"{few} of {LENGTH}, pool {n}", choose, {**lists, "pool": n}) for n in (1, 5)),
        CpuCase("append_kv", f"{9 * ROWS} tokens", append, {"tokens": 9 * ROWS}),
        CpuCase("copy_pages", "16 pages", copy, {"pages": 16}),
        *(CpuCase("sample", f"vocabulary, top_p {p}", sampling, {**laws, "top_p": p}) for p in (1.0, 0.95)),
    ]
