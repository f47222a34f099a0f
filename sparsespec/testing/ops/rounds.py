"""Cases of the ops around a forward: `lay_out_*`, `verify_inputs`, `per_logit_row`, `*_tokens`, `settle`."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.core.errors import ContractBroken
from sparsespec.kernels.verify_inputs import reference as verify_inputs
from sparsespec.kernels.verify_tokens import reference as verify_tokens
from sparsespec.testing.ops.bundles import copied
from sparsespec.testing.ops.op import Args, Bad, Compared, KernelOp, Sizes, all_exactly, exactly, strided
from sparsespec.testing.ops.step import (
    MOST_QUERIES,
    PAGE,
    WIDTH,
    Step,
    laid_out,
    random_step,
    sampled_of,
)

_ANY = (torch.float32,)
"""There is no float type to choose."""
_NOT_CONTIGUOUS = ("triton",)


def _step_sizes(dice: random.Random) -> Sizes:
    return {"n_rows": dice.choice((1, 2, 3, 5, 9)), "block_size": dice.choice((1, 3, 4, 16))}


_FIXED = {"n_rows": 64, "n_tokens": 64 * MOST_QUERIES, "n_logits": 64 * WIDTH}
_REAL = {f"{n} rows": {"n_rows": n} for n in (1, 16, 17, 127, 128, 129)}


def _step_of(seed: int, sizes: Sizes) -> Step:
    return random_step(seed, **{name: x for name, x in sizes.items() if name not in ("dtype", "device")})


def _make_rows(seed: int, **sizes: Any) -> Args:
    step = _step_of(seed, sizes)
    return copied({"packed": step.packed, "state": step.state}, sizes["device"])


def _make_tokens(seed: int, **sizes: Any) -> Args:
    step = _step_of(seed, sizes)
    args = {"batch": laid_out(step, seed), "n_tokens": step.n_tokens, "block_size": sizes.get("block_size", PAGE)}
    return copied(args, sizes["device"])


LAY_OUT_ROWS = KernelOp(
    name="lay_out_rows",
    folder="lay_out",
    make=_make_rows,
    random_sizes=_step_sizes,
    fixed=_FIXED,
    real=_REAL,
    judge=all_exactly,
    dtypes=_ANY,
    mutates=("state.stop_below",),
    bad={
        "transposed": Bad("packed", lambda x: x.T, r"a packed step must be \[7, B\], got \[64, 7\]", ContractBroken),
        "strides": Bad("packed", lambda x: x[:, ::2], "packed to be contiguous", impls=_NOT_CONTIGUOUS),
    },
)
LAY_OUT_TOKENS = KernelOp(
    name="lay_out_tokens",
    folder="lay_out",
    make=_make_tokens,
    random_sizes=_step_sizes,
    fixed=_FIXED,
    real=_REAL,
    judge=all_exactly,
    dtypes=_ANY,
    bad={"strides": Bad("batch.offset", strided, "offset to be contiguous", impls=_NOT_CONTIGUOUS)},
)


def _make_inputs(seed: int, *, width: int = WIDTH, near_the_end: int = 0, **sizes: Any) -> Args:
    """Return a batch; with `near_the_end`, candidates reach behind the token array."""
    step = _step_of(seed, sizes)
    if near_the_end:
        step.state.n_committed[:] = near_the_end
    if width == 1:
        # no row drafts
        step.state.n_drafted.zero_()
        step.packed[2].clamp_(max=1)
        step.packed[4] = step.packed[2].cumsum(0) - step.packed[2]
    return copied({"batch": laid_out(step, seed), "width": width}, sizes["device"])


def _make_per_logit_row(seed: int, *, width: int = WIDTH, shuffled: bool = False, extra: int = 0, **sizes: Any) -> Args:
    """Return what is judged: in another order if asked to, dead rows then pointing anywhere; `extra` rows of logits."""
    step = _step_of(seed, sizes)
    rows = VerifyInputs(*verify_inputs.verify_inputs(laid_out(step, seed), width))
    # a narrower verifier judges fewer
    rows = replace(rows, count=rows.count.clamp(max=width - 1))
    if shuffled:
        order = torch.randperm(len(rows.first), generator=torch.Generator().manual_seed(seed))
        rows = VerifyInputs(*(getattr(rows, name)[order] for name in VerifyInputs.__slots__))
        rows = replace(rows, first=torch.where(rows.count < 0, 10_000, rows.first))
    return copied({"rows": rows, "n_logits": step.n_logits + extra}, sizes["device"])


VERIFY_INPUTS = KernelOp(
    name="verify_inputs",
    folder="verify_inputs",
    make=_make_inputs,
    random_sizes=lambda dice: {
        **_step_sizes(dice),
        "width": dice.choice((1, WIDTH, WIDTH, WIDTH)),
        "near_the_end": dice.choice((0, 0, 0, 76)),
    },
    fixed=_FIXED,
    real=_REAL,
    judge=all_exactly,
    dtypes=_ANY,
    bad={
        "no width": Bad("width", lambda _: 0, "at least one query token", ContractBroken),
        "strides": Bad("batch.live", strided, "live to be contiguous", impls=_NOT_CONTIGUOUS),
    },
)
PER_LOGIT_ROW = KernelOp(
    name="per_logit_row",
    folder="verify_inputs",
    make=_make_per_logit_row,
    random_sizes=lambda dice: {
        **_step_sizes(dice),
        "width": dice.choice((1, WIDTH, WIDTH, WIDTH)),
        "shuffled": dice.random() < 0.5,
        "extra": dice.choice((0, 3)),
    },
    fixed=_FIXED,
    real=_REAL,
    judge=all_exactly,
    dtypes=_ANY,
    bad={"strides": Bad("rows.candidates", lambda x: x[:, ::2], "candidates to be contiguous", impls=_NOT_CONTIGUOUS)},
)


def ragged(counts: tuple[int, ...], seed: int, gap: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sampled tokens, candidates, first and count of rows with these counts.

    They are in another order than their logit rows, with `gap` logit rows that belong to none behind each.
    """
    generator = torch.Generator().manual_seed(seed)
    count = torch.tensor(counts, dtype=torch.int64)
    size = count + 1 + gap
    n = int(size.sum())
    sampled, other = torch.randint(0, 9, (2, n), generator=generator)
    candidate = torch.where(torch.rand(n, generator=generator) < 0.7, sampled, other)
    order = torch.randperm(len(counts), generator=generator)
    first = torch.where(count < 0, 10_000, size.cumsum(0) - size)
    return sampled, candidate, first[order], count[order]


def _make_match(
    seed: int, *, counts: tuple[int, ...] = (), gap: int = 0, wider: int = 0, n_rows: int = 0, device: str, **_: Any
) -> Args:
    """Return rows with these counts, or those of a random step."""
    if n_rows:
        step = random_step(seed, n_rows)
        rows = VerifyInputs(*verify_inputs.verify_inputs(laid_out(step, seed), WIDTH))
        sampled = sampled_of(rows, step.n_logits, seed)
        candidate = verify_inputs.per_logit_row(rows, step.n_logits)[3]
        first, count, width = rows.first, rows.count, WIDTH
    else:
        sampled, candidate, first, count = ragged(counts, seed, gap)
        width = max([0, *counts]) + 1 + wider
    args = {"sampled": sampled, "candidate": candidate, "first": first, "count": count, "width": width}
    return copied(args, device)


def _make_verify(seed: int, **sizes: Any) -> Args:
    """Return the same with a verdict for each logit row, also for those that judge nothing."""
    args = _make_match(seed, **sizes)
    verdicts = torch.rand(len(args["sampled"]), generator=torch.Generator().manual_seed(seed)) < 0.7
    del args["candidate"]
    return {"is_accepted": verdicts.to(sizes["device"]), **args}


def _count_sizes(dice: random.Random) -> Sizes:
    counts = tuple(dice.randint(-1, 7) for _ in range(dice.randint(0, 9)))
    return {"counts": counts, "gap": dice.randint(0, 2), "wider": dice.randint(0, 3)}


_FIXED_COUNTS = {"counts": (5, -1, 0, 3, 2) * 20, "gap": 1}
_BAD_COUNTS = {
    "strides": Bad("", lambda args: {**args, "first": args["first"][::2], "count": args["count"][::2]},
                   "first to be contiguous", impls=_NOT_CONTIGUOUS),
}  # fmt: skip
MATCH_TOKENS = KernelOp(
    name="match_tokens",
    folder="verify_tokens",
    make=_make_match,
    random_sizes=_count_sizes,
    fixed=_FIXED_COUNTS,
    real=_REAL,
    judge=all_exactly,
    dtypes=_ANY,
    bad={
        **_BAD_COUNTS,
        "number of candidates": Bad("candidate", lambda x: x[1:], "match_tokens needs shapes", ContractBroken),
    },
)
VERIFY_TOKENS = replace(
    MATCH_TOKENS,
    name="verify_tokens",
    make=_make_verify,
    bad={
        **_BAD_COUNTS,
        "number of verdicts": Bad("is_accepted", lambda x: x[1:], "verify_tokens needs shapes", ContractBroken),
    },
)


def _make_settle(seed: int, *, dtype: torch.dtype, device: str, **sizes: Any) -> Args:
    """Return the end of a random step; some logits are broken, some drafts are less sure than they must be."""
    generator = torch.Generator().manual_seed(seed)
    step = _step_of(seed, sizes)
    batch, n_rows = laid_out(step, seed), len(step.packed[0])
    judged = VerifyInputs(*verify_inputs.verify_inputs(batch, WIDTH))
    sampled = sampled_of(judged, step.n_logits, seed)
    candidate = verify_inputs.per_logit_row(judged, step.n_logits)[3]
    verified = VerifyOutput(*verify_tokens.match_tokens(sampled, candidate, judged.first, judged.count, WIDTH))
    peak = 9 * torch.randn(step.n_logits, generator=generator)
    for value in (torch.nan, torch.inf, -torch.inf):
        peak[torch.rand(step.n_logits, generator=generator) < 0.05] = value
    confidence = torch.rand(n_rows, generator=generator, dtype=torch.float64)
    confidence[judged.level == 0] = torch.nan
    args = {
        "batch": batch,
        "judged": judged,
        "verified": verified,
        "peak": peak.to(dtype),
        "confidence": confidence.to(torch.promote_types(dtype, torch.float32)),
        "kv_read": 100 * torch.rand(n_rows, generator=generator, dtype=torch.float64),
    }
    return copied(args, device)


def _judge_settle(op: KernelOp, given: Args, returned: Any, after: Args) -> list[Compared]:
    """Compare the report's numbers, its floats by value, and the seats."""

    def parts(returned: Any) -> tuple[Tensor, ...]:
        report, drafted = returned
        return report[:, :7], report[:, 7:10].contiguous().view(torch.float64), report[:, 10:], drafted

    wanted, wanted_after = op.reference(given)
    names = ("report's numbers", "report's floats", "report's tokens", "drafted")
    pairs = zip(names, parts(returned), parts(wanted), strict=True)
    seats = [name.rpartition(".")[2] for name in op.mutates]
    held, want = (x["batch"].state for x in (after, wanted_after))
    return [
        *(exactly(name, got, want) for name, got, want in pairs),
        *(exactly(f"state.{name}", getattr(held, name), getattr(want, name)) for name in seats),
    ]


SETTLE = KernelOp(
    name="settle",
    folder="settle",
    make=_make_settle,
    random_sizes=_step_sizes,
    fixed=_FIXED,
    real=_REAL,
    judge=_judge_settle,
    dtypes=(torch.float32, torch.float16, torch.float64),
    mutates=tuple(f"batch.state.{name}" for name in ("tokens", "n_committed", "n_drafted", "n_computed", "ended")),
    bad={
        "number of confidences": Bad("confidence", lambda x: x[1:], r"confidence must be \[64\]", ContractBroken),
        "no peaks": Bad("peak", lambda x: x[:0], "peaks", ContractBroken),
        "strides": Bad("kv_read", strided, "kv_read to be contiguous", impls=_NOT_CONTIGUOUS),
    },
)
