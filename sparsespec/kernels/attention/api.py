"""Attention of rows of all phases over the paged cache, with scores on request.

A row reads all its KV, or a selection and a tail. As in FlashInfer, a step is planned once and run for every layer:
`plan` takes and checks what all layers share, `Plan.run` what belongs to one. `attention` is both in one call.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.core.errors import BadOption
from sparsespec.kernels.attention import reference
from sparsespec.kernels.attention.checked import check_chosen_values, check_row_values
from sparsespec.kernels.checks import check_kind
from sparsespec.kernels.implementations import implementation

IMPLS = {"reference": reference}
LAZY = ("triton",)
"""Implementations that need an optional package, imported when asked for."""
INTEGERS = (torch.int64, torch.int32)
INTEGER_NAMES = " or ".join(str(kind) for kind in INTEGERS)


class Attended(NamedTuple):
    """What attention returns."""

    out: Tensor  # [N, Hq, D]
    lse: Tensor  # [N, Hq], natural logarithm of the sum of exp(scale * q·k); 0 at dead queries
    scores: Tensor | None  # [groups, B, S] float, None if no row is scored; S is the longest row, or more


@dataclass(frozen=True, slots=True)
class Plan:
    """A step that is planned: `run` attends in one layer.

    Attributes:
        rows: The rows.
        scale: What products q·k are multiplied by.
        q_shape: [N, Hq, D], the shape of a layer's queries.
        seats: [seats], the shape of a selection's counts.
        pool_shape: [pages, P, Hkv, D], the shape of a layer's keys and of its values.
        dtype: Type of queries, keys and values.
        device: Where all tensors are.
        checked: Whether `run` looks at every chosen position first.
        module: The implementation.
        work: What it worked out for the step.
        scores_shape: The shape of a buffer for one layer's scores, None where `run` takes none.
    """

    rows: AttentionRows
    scale: float
    q_shape: torch.Size
    seats: torch.Size
    pool_shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    checked: bool
    module: ModuleType
    work: Any
    scores_shape: tuple[int, int, int] | None

    def run(
        self,
        q: Tensor,
        k_pages: Tensor,
        v_pages: Tensor,
        *,
        chosen: Chosen | None = None,
        scores: Tensor | None = None,
    ) -> Attended:
        """Attend q [N, Hq, D] to the pages [pages, P, Hkv, D] of one layer; causal within a row.

        A query at position t of a dense row reads positions 0 … t. A query of a sparse row reads the chosen positions
        of its list (one list for Hkv / groups heads) and tail_from … t. Scores are softmax probabilities, averaged over
        a scored row's scored queries and over the heads of each group; positions that no scored query can see are 0.

        Args:
            q: Queries of the layer.
            k_pages: Its keys.
            v_pages: Its values.
            chosen: Its selection; may be None only where no row is sparse.
            scores: Zeros of `scores_shape` to write scores into; by default `run` makes its own.

        Raises:
            BadOption: if a shape, type or layout does not fit the plan, or a chosen position where it is `checked`.
        """
        if not (
            q.shape == self.q_shape
            and k_pages.shape == v_pages.shape == self.pool_shape
            and q.dtype == k_pages.dtype == v_pages.dtype == self.dtype
            and q.device == k_pages.device == v_pages.device == self.device
        ):
            self._name_what_does_not_fit(q, k_pages, v_pages)
        if chosen is not None:
            positions, counts, tails = chosen
            seats = self.seats
            if not (
                positions.ndim == 3
                and positions.shape[:2] == (self.rows.groups, *seats)
                and counts.shape == tails.shape == seats
                and positions.dtype in INTEGERS
                and counts.dtype in INTEGERS
                and tails.dtype in INTEGERS
                and positions.device == counts.device == tails.device == self.device
            ):
                self._name_what_of_chosen_does_not_fit(chosen)
        if scores is not None and scores.shape != self.scores_shape:
            raise BadOption(f"scores must be {self.scores_shape} as Plan.scores_shape says, got {list(scores.shape)}")
        if self.checked:
            check_chosen_values(self.rows, chosen, self.pool_shape[1])
        return Attended(*self.module.run(self.work, self.rows, q, k_pages, v_pages, self.scale, chosen, scores))

    def _name_what_does_not_fit(self, q: Tensor, k_pages: Tensor, v_pages: Tensor) -> None:
        wanted = {"q": (q, self.q_shape), "k_pages": (k_pages, self.pool_shape), "v_pages": (v_pages, self.pool_shape)}
        for name, (x, shape) in wanted.items():
            if x.shape != shape:
                raise BadOption(f"{name} must be {list(shape)} as planned, got {list(x.shape)}")
            check_kind(name, x, x.dtype == self.dtype, self.dtype, self.device, "the planned pool")

    def _name_what_of_chosen_does_not_fit(self, chosen: Chosen) -> None:
        groups, (seats,) = self.rows.groups, self.seats
        if chosen.positions.ndim != 3 or chosen.positions.shape[:2] != (groups, seats):
            raise BadOption(
                f"chosen.positions must be [{groups}, {seats}, k_max], {groups} lists per seat, "
                f"got {list(chosen.positions.shape)}"
            )
        for name, x in chosen._asdict().items():
            if name != "positions" and x.shape != (seats,):
                raise BadOption(f"chosen.{name} must be [{seats}], got {list(x.shape)}")
            check_kind(f"chosen.{name}", x, x.dtype in INTEGERS, INTEGER_NAMES, self.device, "the planned pool")


def plan(
    rows: AttentionRows,
    pool: Tensor,
    *,
    n_tokens: int,
    n_heads: int,
    scale: float,
    impl: str,
    n_rows: int = 1,
    decode_queries: int | None = None,
    reuse: Plan | None = None,
    checked: bool = False,
) -> Plan:
    """Plan a step for all its layers.

    `reference` looks at the rows on the host. `triton` never does, so plan and runs can be recorded in a CUDA graph
    that serves every step which fits its buffers; its S is what the page table can hold, or more, and scores are None
    only where `rows.ends` is (0, 0).

    Args:
        rows: The rows; their tensors are read by every run.
        pool: Keys [pages, P, Hkv, D] of any layer, whose shape, type and device all layers' pages have.
        n_tokens: N, query tokens of the step, dead ones included.
        n_heads: Hq, query heads.
        scale: What products q·k are multiplied by.
        impl: Which implementation.
        n_rows: The most rows of a step that is to be planned in the same buffers.
        decode_queries: The most queries of a row that decodes, in this and every other step: sizes follow it, bits do
            not. None if it is not known.
        reuse: An earlier plan of the same pool, whose buffers serve again if the step fits. If it does not, they are
            replaced by larger ones and kept alive, because a CUDA graph may read and write them.
        checked: Look at every index before anything is read, here and in each run, so that one out of range is an error
            with a name instead of an illegal access. It waits for the device, so no CUDA graph takes it.

    Raises:
        BadOption: if a shape or type cannot work, or a value where `checked`.
        MissingPackage: if `impl` needs a package that is not installed.
        UnknownName: if there is no such `impl`.
    """
    module = implementation("attention", impl, IMPLS, LAZY)
    _check_pool(rows, pool, n_heads)
    _check_rows(rows, pool.shape[2])
    if reuse is not None and (reuse.pool_shape != pool.shape or reuse.dtype != pool.dtype):
        raise BadOption(f"reuse must be a plan of a pool {list(pool.shape)}, got one of {list(reuse.pool_shape)}")
    if checked:
        check_row_values(n_tokens, pool, rows)
    work = module.plan(rows, pool, n_tokens, n_heads, n_rows, decode_queries, None if reuse is None else reuse.work)
    return Plan(
        rows,
        scale,
        torch.Size((n_tokens, n_heads, pool.shape[3])),
        rows.table.shape[:1],
        pool.shape,
        pool.dtype,
        pool.device,
        checked,
        module,
        work,
        module.scores_shape(work),
    )


def attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    rows: AttentionRows,
    *,
    scale: float,
    chosen: Chosen | None = None,
    impl: str,
    checked: bool = False,
) -> Attended:
    """Plan a step and run one layer of it; see `plan` and `Plan.run`.

    Raises:
        BadOption: if a shape or type cannot work, or a value where `checked`.
        MissingPackage: if `impl` needs a package that is not installed.
        UnknownName: if there is no such `impl`.
    """
    if q.ndim != 3:
        raise BadOption(f"q must be [N, Hq, D], got {list(q.shape)}")
    planned = plan(rows, k_pages, n_tokens=len(q), n_heads=q.shape[1], scale=scale, impl=impl, checked=checked)
    return planned.run(q, k_pages, v_pages, chosen=chosen)


def check_sizes(pool: Tensor, n_heads: int, ends: tuple[int, int], *, impl: str) -> None:
    """Raise what `plan` would for these sizes, before there are rows.

    Args:
        pool: Keys [pages, P, Hkv, D] of any layer.
        n_heads: Query heads.
        ends: `AttentionRows.ends`.
        impl: Which implementation.

    Raises:
        BadOption: if the implementation does not take them.
        MissingPackage: if `impl` needs a package that is not installed.
        UnknownName: if there is no such `impl`.
    """
    implementation("attention", impl, IMPLS, LAZY).check(pool, n_heads, ends)


def _check_pool(rows: AttentionRows, pool: Tensor, n_heads: int) -> None:
    if pool.ndim != 4:
        raise BadOption(f"k_pages must be [pages, P, Hkv, D], got {list(pool.shape)}")
    check_kind("k_pages", pool, pool.is_floating_point(), "floats", rows.seat.device, "rows.seat")
    if n_heads % pool.shape[2]:
        raise BadOption(f"q must have a multiple of the {pool.shape[2]} KV heads, got {n_heads} heads")


def _check_rows(rows: AttentionRows, n_kv_heads: int) -> None:
    if rows.groups < 1 or n_kv_heads % rows.groups:
        raise BadOption(f"groups must divide the {n_kv_heads} KV heads, got {rows.groups}")
    if rows.table.ndim != 2:
        raise BadOption(f"rows.table must be [seats, blocks], got {list(rows.table.shape)}")
    for name in ("seat", "offset", "start", "live", "sparse", "scored", "table"):
        x = getattr(rows, name)
        if name != "table" and x.shape != rows.seat.shape:
            raise BadOption(f"rows.{name} must be [{len(rows.seat)}] as rows.seat is, got {list(x.shape)}")
        if name in ("sparse", "scored"):
            check_kind(f"rows.{name}", x, x.dtype == torch.bool, torch.bool, rows.seat.device, "rows.seat")
        else:
            check_kind(f"rows.{name}", x, x.dtype in INTEGERS, INTEGER_NAMES, rows.seat.device, "rows.seat")
