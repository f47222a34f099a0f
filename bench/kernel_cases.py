"""What `bench.kernels` times: inputs, the check that comes first, the bytes a call must move, and the bar."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench import flashinfer_peer
from bench.timing import Call, buffers_for
from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.kernels.append_kv.api import append_kv
from sparsespec.kernels.attention.api import attention
from sparsespec.kernels.copy_pages.api import copy_pages
from sparsespec.kernels.top_positions.api import top_positions

Kernel = Callable[..., Any]
"""An attention function: `(q, k_pages, v_pages, rows, *, scale, chosen)` to out, LSE and scores, as the op says."""
PAGE = 16
CLOSE = 1e-2
"""Largest relative error ‖x - y‖ / ‖y‖ of bf16 results; wrong kernels are off by far more."""


@dataclass(frozen=True)
class Shape:
    """A model's sizes."""

    name: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def token_bytes(self) -> int:
        """K and V of a token in one layer, bf16."""
        return 2 * 2 * self.kv_heads * self.head_dim


@dataclass
class Ready:
    """A case on the device."""

    calls: list[Call]
    bytes: int
    check: Callable[[], str]  # what is wrong, or ""
    peers: dict[str, Callable[[], list[Call]]] = field(default_factory=dict)
    agrees: Callable[[Any], bool] = lambda _: True  # whether what a peer's first call returned is the op's result


@dataclass(frozen=True)
class Case:
    """A line of the table, and its bars.

    `share` is of the read ceiling, `ratio` is time over the best peer's, `micros` is the time itself, and `beyond` is
    how many microseconds more than the best peer's.
    """

    op: str
    name: str
    shape: Shape
    make: Callable[[Shape], Ready]
    share: float | None = None
    ratio: float | None = None
    micros: float | None = None
    beyond: float | None = None


def error(got: Tensor, want: Tensor) -> float:
    """Return ‖got - want‖ / ‖want‖."""
    return float((got.double() - want).norm() / want.norm())


@dataclass(frozen=True)
class Rows:
    """Rows of an attention case: (length, queries, reads a selection) of each; `chosen` positions where it does.

    A `kernel` is timed in place of the project's, which is then one of its peers.
    """

    rows: tuple[tuple[int, int, bool], ...]
    scored: bool = False
    groups: int = 1
    chosen: int = 0
    pool_seed: int = 0
    kernel: Kernel | None = None

    def __call__(self, shape: Shape) -> Ready:
        """Allocate; all sets of inputs share one pool of pages and differ in queries, tables and selections."""
        generator = torch.Generator("cuda").manual_seed(self.pool_seed)
        k_pages, v_pages = self.pools(shape, generator, torch.bfloat16)
        n_bytes = self.bytes(shape)
        sets = [self.inputs(shape, generator, torch.bfloat16) for _ in range(buffers_for(n_bytes))]
        scale = shape.head_dim**-0.5
        ours = lambda: [self._call(q, k_pages, v_pages, rows, scale, chosen) for q, rows, chosen in sets]  # noqa: E731
        peers = flashinfer_peer.attention(self, shape, k_pages, v_pages, sets, scale)
        theirs = self.kernel
        if theirs is not None:
            peers = {"sparsespec": ours, **peers}
            calls = [partial(theirs, q, k_pages, v_pages, r, scale=scale, chosen=chosen) for q, r, chosen in sets]
        else:
            calls = ours()

        def agrees(got: Any) -> bool:
            out = got[0] if isinstance(got, tuple) else got
            return error(out.flatten(), calls[0]()[0].double().flatten()) < CLOSE

        wrong = partial(self._wrong, *sets[0], k_pages, v_pages, scale, calls[0])
        return Ready(calls, n_bytes, wrong, peers, agrees)

    def bytes(self, shape: Shape) -> int:
        """Return the fewest bytes of a call: KV read, queries and results, scores written."""
        read = sum(min(length, self.chosen + n) if sparse else length for length, n, sparse in self.rows)
        n_query = sum(n for _, n, _ in self.rows)
        scores = sum(4 * self.groups * length for length, _, sparse in self.rows if self.scored and not sparse)
        return read * shape.token_bytes + n_query * shape.heads * (4 * shape.head_dim + 4) + scores

    def pools(self, shape: Shape, generator: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return pages of keys and of values, on the generator's device."""
        size = (len(self.rows) * self._blocks + 1, PAGE, shape.kv_heads, shape.head_dim)
        k, v = (torch.randn(size, device=generator.device, generator=generator).to(dtype) for _ in range(2))
        return k, v

    def inputs(
        self, shape: Shape, generator: torch.Generator, dtype: torch.dtype
    ) -> tuple[Tensor, AttentionRows, Chosen | None]:
        """Return queries, rows and selections, on the generator's device."""
        b, device = len(self.rows), generator.device
        lengths, queries, sparse = (torch.tensor(x, device=device) for x in zip(*self.rows, strict=True))
        table = torch.randperm(b * self._blocks, device=device, generator=generator).view(b, -1) + 1
        scored = ~sparse if self.scored else torch.zeros_like(sparse)
        rows = AttentionRows(
            seat=torch.arange(b, device=device),
            offset=queries.cumsum(0) - queries,
            start=lengths - queries,
            live=queries,
            sparse=sparse,
            scored=scored,
            table=table,
            ends=(1, 1) if self.scored else (0, 0),
            groups=self.groups,
            widest=int(queries.max()),
        )
        size = (int(queries.sum()), shape.heads, shape.head_dim)
        q = torch.randn(size, device=device, generator=generator).to(dtype)
        if not self.chosen:
            return q, rows, None
        below = int(rows.start.min())
        noise = torch.rand(self.groups, b, below, device=device, generator=generator)
        positions = noise.topk(self.chosen, dim=-1).indices.sort(-1).values.to(torch.int32)
        counts = torch.full((b,), self.chosen, device=device)
        return q, rows, Chosen(positions, counts, rows.start.clone())

    @property
    def _blocks(self) -> int:
        """Pages of a row; all rows have as many."""
        return max(-(-length // PAGE) for length, _, _ in self.rows)

    def _call(
        self, q: Tensor, k: Tensor, v: Tensor, rows: AttentionRows, scale: float, chosen: Chosen | None
    ) -> Callable[[], Any]:
        # raises here, with a clear message, where the implementation is missing
        attention(q, k, v, rows, scale=scale, chosen=chosen, impl="triton")
        module: Any = importlib.import_module("sparsespec.kernels.attention.triton")
        # planned once for a step and run for every layer, as FlashInfer is; with the tiles that an engine takes
        packed = max(n for _, n, _ in self.rows) * (q.shape[1] // k.shape[2])
        work = module.plan(q, k, rows, tiling=module.tiling_for(k.dtype, k.shape[3], packed))
        return lambda: module.run(q, k, v, rows, work, scale=scale, chosen=chosen)

    def _wrong(
        self, q: Tensor, rows: AttentionRows, chosen: Chosen | None, k: Tensor, v: Tensor, scale: float, call: Call
    ) -> str:
        out, lse, scores = call()
        want = attention(q.double(), k.double(), v.double(), rows, scale=scale, chosen=chosen, impl="reference")
        errors = {"out": error(out, want.out), "lse": error(lse, want.lse)}
        if want.scores is not None:
            if scores is None:
                return "it gives no scores"
            errors["scores"] = error(scores[..., : want.scores.shape[-1]], want.scores)
        return ", ".join(f"{name} errs by {e:.2g}" for name, e in errors.items() if not e < CLOSE)


@dataclass(frozen=True)
class Top:
    """Lists to choose `k` of `length` positions from, for all layers."""

    rows: int
    groups: int
    length: int = 8192
    k: int = 410
    pool: int = 1

    def __call__(self, shape: Shape) -> Ready:
        """Allocate probabilities."""
        generator = torch.Generator("cuda").manual_seed(0)
        size = (shape.layers, self.groups, self.rows, self.length)
        lists = shape.layers * self.groups * self.rows
        n_bytes = lists * (4 * self.length + 8 * self.k)
        scores = [
            torch.softmax(3 * torch.randn(size, device="cuda", generator=generator), -1)
            for _ in range(buffers_for(n_bytes))
        ]
        below, count = (torch.full((self.rows,), n, device="cuda") for n in (self.length, self.k))

        def call(x: Tensor, impl: str) -> Tensor:
            return top_positions(x, below, count, self.k, pool=self.pool, impl=impl)

        def wrong() -> str:
            same = torch.equal(call(scores[0], "triton"), call(scores[0], "reference"))
            return "" if same else "positions differ from the reference's"

        def agrees(got: tuple[Tensor, Tensor]) -> bool:
            # by value, in no order: among equal scores a peer may choose others
            ours = scores[0].gather(-1, call(scores[0], "triton"))
            return torch.equal(got[0].sort(-1).values, ours.flatten(0, 2).sort(-1).values)

        peers = flashinfer_peer.top_k(scores, self.k) if self.pool == 1 else {}
        return Ready([lambda x=x: call(x, "triton") for x in scores], n_bytes, wrong, peers, agrees)


@dataclass(frozen=True)
class Append:
    """`tokens` tokens to norm, rotate and write."""

    tokens: int

    def __call__(self, shape: Shape) -> Ready:
        """Allocate projections, and a pool four times the tokens."""
        n, d = self.tokens, shape.head_dim
        parts = tuple(d * heads for heads in (shape.heads, shape.kv_heads, shape.kv_heads))
        real = lambda *size: torch.randn(size, device="cuda").bfloat16()  # noqa: E731
        # read and written: q, k and v
        n_bytes = 2 * 2 * n * sum(parts)
        pages = 4 * n // PAGE + 1
        k_pages, v_pages = real(2, pages, PAGE, shape.kv_heads, d)
        angle = 6 * torch.rand(8192, d // 2, device="cuda")
        shared = {
            "positions": torch.randint(0, 8192, (n,), device="cuda"),
            "cos": angle.cos().bfloat16(),
            "sin": angle.sin().bfloat16(),
            "q_norm": real(d),
            "k_norm": real(d),
            "eps": 1e-6,
        }
        sets = []
        for _ in range(buffers_for(n_bytes)):
            q, k, v = (x.unflatten(-1, (-1, d)) for x in real(n, sum(parts)).split(parts, -1))
            slots = PAGE + torch.randperm((pages - 1) * PAGE, device="cuda")[:n]
            sets.append((q, k, v, k_pages, v_pages, slots))

        def call(q: Tensor, k: Tensor, v: Tensor, kp: Tensor, vp: Tensor, slots: Tensor) -> Tensor:
            return append_kv(q, k, v, kp, vp, slots=slots, **shared, impl="triton")

        def wrong() -> str:
            exact = [x.double() for x in sets[0][:5]]
            wide = {
                name: x.double() if torch.is_tensor(x) and x.is_floating_point() else x for name, x in shared.items()
            }
            want = append_kv(*exact, slots=sets[0][5], **wide, impl="reference")
            errors = {"q": error(call(*sets[0]), want), "k": error(k_pages, exact[3]), "v": error(v_pages, exact[4])}
            return ", ".join(f"{name} errs by {e:.2g}" for name, e in errors.items() if not e < CLOSE)

        return Ready([lambda s=s: call(*s) for s in sets], n_bytes, wrong)


@dataclass(frozen=True)
class Copy:
    """`pages` pages of all layers to copy within a pool."""

    pages: int

    def __call__(self, shape: Shape) -> Ready:
        """Allocate a pool of keys, the pages to be read in its first half, and pairs in random order."""
        n = self.pages
        size = (shape.layers, 2 * n, PAGE, shape.kv_heads, shape.head_dim)
        pool = torch.randn(size, device="cuda", dtype=torch.bfloat16)
        count = torch.tensor(n, device="cuda")
        n_bytes = 2 * pool.numel() // 2 * pool.element_size()
        sets = [
            torch.stack((torch.randperm(n, device="cuda"), n + torch.randperm(n, device="cuda")), 1)
            for _ in range(buffers_for(n_bytes))
        ]

        def wrong() -> str:
            want = pool.clone()
            copy_pages(want, want, sets[0], count, impl="reference")
            copy_pages(pool, pool, sets[0], count, impl="triton")
            return "" if torch.equal(pool, want) else "pages differ from the reference's"

        calls = [lambda pairs=pairs: copy_pages(pool, pool, pairs, count, impl="triton") for pairs in sets]
        return Ready(calls, n_bytes, wrong)
