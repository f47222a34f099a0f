"""Kernels with one line changed: each compiles, runs, gives finite numbers, and is caught by what is named beside it.

Each runs the plan of one step after that of another, over a pool that holds numbers everywhere, so that what is wrong
shows as a wrong number and not as a NaN.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsespec.testing.ops.attention import Row
from tests.kernels.attention_calls import SMALL, Call, kernels, random_call, who_owns_changes_bits, wrong
from tests.kernels.launched import DEVICE, WHERE, mutant

pytestmark = [
    WHERE,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy, inside the interpreter
]

EARLY = "a tile folded before its last split"
REUSED = "arrivals not counted anew in the next launch"
PARTS = {"kernel": ("attend",), "scores": ("reduce_scores",), "plan": ("Work",)}


@dataclass(frozen=True)
class Mutant:
    """Changes in the source of `triton_<part>`, and what must be wrong then."""

    name: str
    part: str
    shows: str
    changes: tuple[tuple[str, str], ...]
    direct: bool = False
    """Whether it is in what threads write by themselves, in assembly: the interpreter has no such path."""


def one(name: str, part: str, shows: str, old: str, new: str, *, direct: bool = False) -> Mutant:
    return Mutant(name, part, shows, ((old, new),), direct)


MUTANTS = [
    one("a query sees the next token", "kernel", "out", "<= now[:, None])", "<= now[:, None] + 1)"),
    one("first tail token twice, newest never", "kernel", "out",
        "tail + e - count)", "tail + tl.maximum(e - count - 1, 0))"),
    one("first of a list twice, last never", "kernel", "out",
        "tl.load(listed + e,", "tl.load(listed + tl.maximum(e - 1, 0),"),
    one("newest token not read by drafts", "kernel", "out",
        "n_seen if LIST == SPARSE else", "n_seen - 1 if LIST == SPARSE else"),
    one("lists of the first heads for all", "kernel", "out", "(head // LIST_HEADS)", "(head // HKV)"),
    one("last key of a split dropped", "kernel", "out", "s * SPLIT + SPLIT)", "s * SPLIT + SPLIT - 1)"),
    one("weights not rescaled", "kernel", "out", "acc = acc * alpha[:, None]", "acc = acc * 1.0"),
    one("sum not rescaled", "kernel", "lse", "lsum * alpha + tl.sum", "lsum + tl.sum"),
    one("K for V in the first page", "kernel", "out",
        "acc = tl.dot(p.to(v.dtype), v,", "acc = tl.dot(p.to(v.dtype), tl.where((e < PAGE)[:, None], k, v),"),
    Mutant("splits of one item read as one", "kernel", "bits", (
        ("tl.where(split < 0, n_splits,", "tl.where(split < 0, 1,"),
        ("            m2, l2, acc2 = one_split(",
         "            s = tl.where(split < 0, -1, s)\n            m2, l2, acc2 = one_split("),
        ("LIST == SPARSE else s * SPLIT", "LIST == SPARSE else tl.maximum(s, 0) * SPLIT"),
        ("n_seen, s * SPLIT + SPLIT)", "n_seen, tl.where(s < 0, n_seen, s * SPLIT + SPLIT))"),
    )),
    one("wide tiles unmasked up to their last query", "kernel", "out",
        "start + tl.min(i, 0) + 1) - lo", "start + tl.max(i, 0) + 1) - lo"),
    one(REUSED, "kernel", "out", "tl.store(arrived_ptr + first, 0)", "tl.store(arrived_ptr + first, 1)"),
    one(EARLY, "kernel", "out", "== (n_splits - 1) // run:", "== (n_splits - 2) // run:"),
    one("an item does its first split only", "kernel", "bits",
        "tl.minimum(split + run, n_splits)", "tl.minimum(split + 1, n_splits)"),
    one("last split dropped", "kernel", "out", "real & (s + 2 < n_splits)", "real & (s + 3 < n_splits)"),
    one("splits weighed alike", "kernel", "lse",
        "folded(m, lsum, acc, m2, l2, acc2)", "folded(m, lsum, acc, m2 * 0, l2, acc2)"),
    one("dead queries get ones", "kernel", "dead",
        "tl.zeros([HEADS_P, D], tl.float32).to(", "tl.full([HEADS_P, D], 1, tl.float32).to("),
    one("scores by the first query's LSE", "scores", "scores", "(first_token + i)", "(first_token + 0 * i)"),
    one("scores by the LSE of the next head", "scores", "scores",
        "* HKV + head) * G + h,", "* HKV + (HKV - 1 - head)) * G + h,"),
    one("scores summed, not averaged", "scores", "scores", "(n_scored * (", "(n_scored * 0 + ("),
    one("maximum of the first block for all", "scores", "scores",
        "p_max_ptr + at,", "p_max_ptr + at - block * SCORE_ROWS,"),
    one("columns left as kept", "scores", "scores", "[0, 2, 1, 3]", "[0, 1, 2, 3]", direct=True),
    one("neighbours of a quad write in each other's place", "kernel", "scores",
        "and.b32 l, l, 3;", "and.b32 l, l, 3; xor.b32 l, l, 1;", direct=True),
    one("the two rows of a thread exchanged", "kernel", "scores",
        "st.global.v4.b32 [a0], {$20, $22, $24, $26}; @w1 st.global.v4.b32 [a1], {$21, $23, $25, $27};",
        "st.global.v4.b32 [a0], {$21, $23, $25, $27}; @w1 st.global.v4.b32 [a1], {$20, $22, $24, $26};", direct=True),
    one("pages of the step before", "plan", "out", "self.table.copy_(", "self.table.any() or self.table.copy_("),
]  # fmt: skip


ROWS = (
    Row(70, 3, scored=True, gap=1),
    Row(40, 2),
    Row(50, 2, sparse=True, tail=45, count=10),
    Row(20, 12, scored=True),
)
"""Two rows to cut into splits, a sparse row, one to be wide, and a dead query; two are scored."""
SIZES = {"rows": ROWS, "heads": (2, 2), "groups": 2, "longest": 96, "blank": 0.5}
SMALL_CASE = torch.float32, SMALL, {**SIZES}
DIRECT_CASE = torch.bfloat16, None, {**SIZES, "head_dim": 128}
"""With the sizes that serve this type and head dimension: rows are not cut then, and none is wide."""
ON_A_GPU = pytest.mark.skipif(DEVICE == "cpu", reason="in assembly, which the interpreter does not run")


def after_another(call: Call) -> Sequence[Any]:
    """Run the call with buffers that another step was planned and run in before, over other pages."""
    before = call.plan(replace(call.rows, table=call.rows.table.flip(0), start=call.rows.start // 2))
    call.launch(before, blank=0.0)
    plan = call.plan(reuse=before)
    assert plan.work is before.work
    return call.launch(plan, blank=0.0)


def what_breaks(case: tuple[torch.dtype, Any, dict[str, Any]]) -> list[str]:
    """Return what a call shows to be wrong, bits included."""
    dtype, tiling, sizes = case
    call = random_call(0, dtype, tiling, **sizes)
    assert call.plan().work.direct == (case is DIRECT_CASE)
    results = after_another(call)
    assert all(x.isfinite().all() for x in results if x is not None), "a mutant must give finite numbers"
    found = wrong(call, lambda: results)
    return found or ["bits"] * who_owns_changes_bits(call)


@pytest.mark.parametrize(
    "case", [pytest.param(SMALL_CASE, id="small"), pytest.param(DIRECT_CASE, id="direct", marks=ON_A_GPU)]
)
def test_the_kernels_as_they_are_break_nothing(case: tuple[torch.dtype, Any, dict[str, Any]]) -> None:
    assert what_breaks(case) == []


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=ON_A_GPU if case.direct else ()) for case in MUTANTS]
)
def test_a_mutant_runs_and_is_caught(case: Mutant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.name in (EARLY, REUSED) and DEVICE == "cuda":
        pytest.skip("programs of a GPU arrive in any order, so that this one may be right")
    module: Any = importlib.import_module(f"sparsespec.kernels.attention.triton_{case.part}")
    mutated = mutant(module, tmp_path, *case.changes)
    for name in PARTS[case.part]:
        monkeypatch.setattr(kernels, name, getattr(mutated, name))
    assert case.shows in what_breaks(DIRECT_CASE if case.direct else SMALL_CASE)
