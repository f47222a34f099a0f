"""Calls of the op `attention` whose plan and tiles a test has in hand, and what is wrong with a call's results.

Outputs and workspaces are NaN before the launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.kernels.attention import api
from sparsespec.testing.op_cases import kernel_ops
from sparsespec.testing.ops.attention import SCALE, make_attention
from sparsespec.testing.ops.op import Args
from tests.kernels.launched import DEVICE, poisoned, room

kernels: Any = room("attention")

SMALL = kernels.Tiling(
    tile=16, block=16, split=32, wide_tile=16, sparse_tile=16, sparse_block=16,
    own_tiles=2, own_busy=1000,
)  # fmt: skip
NAMES = ("seat", "offset", "start", "live", "sparse", "scored")


@contextmanager
def tiled(tiling: Any) -> Iterator[None]:
    """Let steps be planned with these tiles; with those that serve, if None."""
    with pytest.MonkeyPatch.context() as patch:
        if tiling is not None:
            patch.setattr(kernels, "tiling_for", lambda *_: tiling)
        yield


@dataclass(slots=True)
class Call:
    """One call of the op."""

    args: Args
    tiling: Any

    @property
    def q(self) -> Tensor:
        return self.args["q"]

    @property
    def rows(self) -> AttentionRows:
        return self.args["rows"]

    @property
    def chosen(self) -> Chosen:
        return self.args["chosen"]

    def plan(self, rows: AttentionRows | None = None, reuse: api.Plan | None = None) -> api.Plan:
        sizes = {"n_tokens": len(self.q), "n_heads": self.q.shape[1]}
        with tiled(self.tiling):
            return api.plan(
                rows or self.rows, self.args["k_pages"], **sizes, scale=SCALE, impl="triton", reuse=reuse
            )  # fmt: skip

    def launch(self, plan: api.Plan, *, blank: float = torch.nan) -> api.Attended:
        """Run with what was planned; results are NaN before, and the workspace `blank`."""
        for x in (plan.work.part_acc, plan.work.part_m, plan.work.part_l, plan.work.p, plan.work.p_max):
            if x is not None:
                x.fill_(blank)
        with poisoned():
            return plan.run(self.q, self.args["k_pages"], self.args["v_pages"], chosen=self.chosen)

    def run(self, rows: AttentionRows | None = None) -> api.Attended:
        return self.launch(self.plan(rows))

    def only(self, b: int, first: int = 0, n: int | None = None) -> AttentionRows:
        """Return row b alone, or n of its queries from `first` on."""
        one = {name: getattr(self.rows, name)[b : b + 1] for name in NAMES}
        n = int(one["live"]) - first if n is None else n
        moved = {
            "offset": one["offset"] + first,
            "start": one["start"] + first,
            "live": torch.full_like(one["live"], n),
        }
        return replace(self.rows, **(one | moved))

    def span(self, b: int) -> slice:
        offset, live = int(self.rows.offset[b]), int(self.rows.live[b])
        return slice(offset, offset + live)


def random_call(seed: int, dtype: torch.dtype, tiling: Any = SMALL, **sizes: Any) -> Call:
    """Return a call of 1 to 5 random rows, or of those that are given."""
    return Call(make_attention(seed, dtype=dtype, device=DEVICE, **sizes), tiling)


def wrong(call: Call, run: Callable[[], Sequence[Any]] | None = None) -> list[str]:
    """Return which results are not what the reference gives in float64; nothing if all are."""
    found = kernel_ops()["attention"].compare(call.args, (run or call.run)(), call.args)
    return [one.name for one in found if not one.is_right]


def same(a: Sequence[Any], b: Sequence[Any], at: slice) -> bool:
    """Say whether two calls gave the queries `at` the same bits."""
    return torch.equal(a[0][at], b[0][at]) and torch.equal(a[1][at], b[1][at])


def who_owns_changes_bits(call: Call) -> bool:
    """Say whether bits change with which program does which splits, and which folds them."""
    folded, found = call.run(), False
    tiling = call.tiling or kernels.tiling_for(call.q.dtype, call.q.shape[2])
    for change in ({"own_tiles": 1}, {"own_tiles": 99}, {"own_busy": 0}):
        found |= not same(Call(call.args, replace(tiling, **change)).run(), folded, slice(None))
    return found or not same(several(call, replace(tiling, start=50)), folded, slice(None))


def several(call: Call, tiling: Any) -> Sequence[Any]:
    """Run a call as if there were eight programs: where one split an item took them two rounds, items do two."""
    plan = Call(call.args, tiling).plan()
    plan.work.programs = 8
    plan.work.fill(call.rows, len(call.q))
    return call.launch(plan)
