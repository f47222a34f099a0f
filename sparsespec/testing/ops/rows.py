"""Cases of the ops on rows of numbers around the products: `rms_norm`, `add_rms_norm`, `silu_mul`, `linear`."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sparsespec.testing import tolerance
from sparsespec.testing.ops.bundles import copied
from sparsespec.testing.ops.op import (
    Args,
    Bad,
    Compared,
    KernelOp,
    Sizes,
    by_largest,
    exactly,
    strided,
    unlike_in_shape,
)

EPS = 1e-2
SLACK = 2.0
"""How much larger than the reference's an error may be: the order of a sum is free, a rounding may fall badly, and a
GPU's exponential is off by a few units in the last place."""


def _vectors(generator: torch.Generator, lead: tuple[int, ...], width: int, apart: int, dtype: torch.dtype) -> Tensor:
    """Return [*lead, width] normal numbers; rows are `apart` numbers apart, behind the end of the one before."""
    x = torch.randn((*lead, width + apart), generator=generator, device=generator.device).to(dtype)
    return x[..., :width] if apart else x


def _lead(dice: random.Random, most: int) -> Sizes:
    """Return the axes before the last, and how far apart rows are, which only a plain list of rows may be."""
    if dice.random() < 0.2:
        return {"lead": dice.choice(((), (2, 3), (0,), (2, 0))), "apart": 0}
    return {"lead": (dice.randint(1, most),), "apart": dice.choice((0, 1, 7, 16))}


def _make_norm(
    seed: int,
    *,
    lead: tuple[int, ...],
    width: int,
    apart: int = 0,
    added: bool,
    dtype: torch.dtype,
    device: str,
) -> Args:
    generator = torch.Generator(device).manual_seed(seed)
    x = _vectors(generator, lead, width, apart, dtype)
    # scaled before it is cut: the product would be as narrow as its factor, and a mutant could read behind its end
    residual = 3 * _vectors(generator, lead, width + 2 * apart, 0, dtype)
    residual = residual[..., :width] if apart else residual
    weight = torch.randn(width, generator=generator, device=device).to(dtype)
    return {"x": x, **({"residual": residual} if added else {}), "weight": weight, "eps": EPS}


def _make_plain(seed: int, **sizes: Any) -> Args:
    return _make_norm(seed, added=False, **sizes)


def _make_added(seed: int, **sizes: Any) -> Args:
    return _make_norm(seed, added=True, **sizes)


@cache
def _norm_limit(dtype: torch.dtype) -> float:
    """Return the error allowed: `SLACK` times the reference's own, measured on one fixed problem."""
    args = _make_plain(0, lead=(64,), width=64, dtype=dtype, device="cpu")
    return _limit(RMS_NORM, args, dtype)


@cache
def _silu_limit(dtype: torch.dtype) -> float:
    """Return the error allowed, measured as for `rms_norm`."""
    return _limit(SILU_MUL, _make_silu(0, lead=(64,), width=64, dtype=dtype, device="cpu"), dtype)


def _limit(op: KernelOp, args: Args, dtype: torch.dtype) -> float:
    got, want = op.reference(args)[0], op.reference(args, floats=torch.float64)[0]
    # a number can always be half a unit in the last place away from its truth
    return SLACK * max(float(by_largest("", got, want, 0.0, dtype).off.max()), torch.finfo(dtype).eps / 2)


def _judge_norm(op: KernelOp, given: Args, returned: Any, after: Args) -> list[Compared]:
    dtype = given["x"].dtype
    if op.name == "rms_norm":
        want, _ = op.reference(given, floats=torch.float64)
        return [by_largest("result", returned, want, _norm_limit(dtype), dtype)]
    # the sum is one rounding of the true one: there is no other
    out, total = returned
    rounded = copied(given["residual"] + given["x"], "cpu")
    norm = {"x": rounded, "weight": given["weight"], "eps": given["eps"]}
    want, _ = RMS_NORM.reference(norm, floats=torch.float64)
    return [by_largest("out", out, want, _norm_limit(dtype), dtype), exactly("residual", total, rounded)]


def _norm_bytes(args: Args) -> int:
    x, others = args["x"], 4 if "residual" in args else 2
    return x.element_size() * (others * x.numel() + args["weight"].numel())


_COLUMNS = "x must be contiguous, or \\[N, W\\] with contiguous rows"
_BAD_NORM = {
    "type of weight": Bad("weight", lambda x: x.half(), "weight must be torch.float32"),
    "device of weight": Bad("weight", lambda x: x.to("meta"), "weight must be torch.float32 on"),
    "shape of weight": Bad("weight", lambda x: x[:4], r"weight of shape \[9\], got \[4\]"),
    "strides of weight": Bad("weight", strided, "weight must be contiguous", impls=("triton",)),
    "columns of x": Bad("x", lambda x: x.t().contiguous().t(), _COLUMNS, impls=("triton",)),
}
_TOO_WIDE = "takes rows of 65536 numbers or fewer, got 65537"


def _wide_rows(args: Args) -> Args:
    x = torch.ones(1, 65537, device=args["x"].device)
    return {**args, "x": x, "weight": x[0]}


RMS_NORM = KernelOp(
    name="rms_norm",
    folder="rms_norm",
    make=_make_plain,
    random_sizes=lambda dice: {**_lead(dice, 5), "width": dice.choice((0, 1, 2, 8, 33, 64, 576, 1025))},
    fixed={"lead": (3,), "width": 9, "apart": 2},
    real={f"{n} rows of {w}, {a} apart": {"lead": (n,), "width": w, "apart": a}
          for w in (576, 577, 4096, 5120, 16384) for n, a in ((1, 0), (64, 0), (300, 0), (64, 3))},
    judge=_judge_norm,
    bad={
        **_BAD_NORM,
        "rows of three axes apart": Bad("x", lambda x: x.expand(2, 3, 9)[..., :9], _COLUMNS, impls=("triton",)),
        "too wide": Bad("", _wide_rows, _TOO_WIDE, impls=("triton",)),
        "float64": Bad("", lambda a: copied(a, floats=torch.float64), "takes x of float32", impls=("triton",)),
    },
    n_bytes=_norm_bytes,
)  # fmt: skip
ADD_RMS_NORM = KernelOp(
    name="add_rms_norm",
    folder="rms_norm",
    make=_make_added,
    random_sizes=RMS_NORM.random_sizes,
    fixed=RMS_NORM.fixed,
    real=RMS_NORM.real,
    judge=_judge_norm,
    bad={
        **_BAD_NORM,
        "type of x": Bad("x", lambda x: x.double(), "weight must be torch.float64"),
        "type of residual": Bad("residual", lambda x: x.half(), "residual must be torch.float32 on .* as x is, got"),
        "device of residual": Bad("residual", lambda x: x.to("meta"), "residual must be torch.float32 on"),
        "shape of residual": Bad("residual", lambda x: x[:1], r"residual must be \[3, 9\] as x is, got \[1, 9\]"),
        "columns of residual": Bad(
            "residual", lambda x: x.t().contiguous().t(), "residual must be contiguous, or", impls=("triton",)
        ),
    },
    n_bytes=_norm_bytes,
)


def _make_silu(
    seed: int, *, lead: tuple[int, ...], width: int, apart: int = 0, dtype: torch.dtype, device: str
) -> Args:
    generator = torch.Generator(device).manual_seed(seed)
    x = (3 * torch.randn((*lead, 2 * width + apart), generator=generator, device=device)).to(dtype)
    return {"gate_up": x[..., : 2 * width] if apart else x}


def _judge_silu(op: KernelOp, given: Args, returned: Any, after: Args) -> list[Compared]:
    want, _ = op.reference(given, floats=torch.float64)
    dtype = given["gate_up"].dtype
    return [by_largest("result", returned, want, _silu_limit(dtype), dtype)]


SILU_MUL = KernelOp(
    name="silu_mul",
    folder="silu_mul",
    make=_make_silu,
    random_sizes=lambda dice: {**_lead(dice, 4), "width": dice.choice((0, 1, 2, 4, 33, 64, 1024, 1536))},
    fixed={"lead": (3,), "width": 19, "apart": 3},
    real={f"{n} rows of 2 × {w}, {a} apart": {"lead": (n,), "width": w, "apart": a}
          for w in (1536, 1537, 12288) for n, a in ((1, 0), (64, 0), (300, 0), (64, 3))},
    judge=_judge_silu,
    bad={
        "odd columns": Bad("gate_up", lambda x: x[:, :7], "silu_mul needs an even last axis, gate then up, got 7"),
        "float64": Bad("gate_up", lambda x: x.double(), "takes gate_up of float32, float16 or bf", impls=("triton",)),
        "columns": Bad("gate_up", lambda x: x.t().contiguous().t(),
                       r"gate_up must be contiguous, or \[N, 2 \* I\] with contiguous rows", impls=("triton",)),
        "rows of three axes apart": Bad("gate_up", lambda x: x.contiguous().view(1, 3, 38)[..., :8],
                                        "gate_up must be contiguous, or", impls=("triton",)),
    },
    n_bytes=lambda args: 3 * args["gate_up"].numel() * args["gate_up"].element_size() // 2,
)  # fmt: skip


def _make_linear(
    seed: int, *, m: int, n: int, k: int, bias: bool = False, apart: int = 0, dtype: torch.dtype, device: str
) -> Args:
    """Return x [m, k] and weight [n, k]; rows are `apart` NaN apart, and those of the weight twice as far."""
    generator = torch.Generator(device).manual_seed(seed)
    # torch's own product of bfloat16 on a CPU multiplies by 0 what lies between rows
    between = 0.0 if dtype == torch.bfloat16 and torch.device(device).type == "cpu" else torch.nan

    def real(rows: int, gap: int) -> Tensor:
        x = torch.full((rows, k + gap), between, dtype=dtype, device=device)[:, :k]
        return x.copy_(torch.randn(rows, k, generator=generator, device=device))

    x, weight = real(m, apart), real(n, 2 * apart)
    return {
        "x": x,
        "weight": weight,
        "bias": torch.randn(n, generator=generator, device=device).to(dtype) if bias else None,
    }


def _judge_linear(op: KernelOp, given: Args, returned: Any, after: Args) -> list[Compared]:
    dtype = given["x"].dtype
    want, _ = op.reference(given, device=None, floats=torch.float64)
    rounded, _ = op.reference(given, device=None)
    return [tolerated("result", returned, want, tolerance.allowed(dtype, tolerance.error(rounded, want)), dtype)]


def tolerated(name: str, got: Tensor, want: Tensor, bound: float, dtype: torch.dtype) -> Compared:
    """Compare by `sparsespec.testing.tolerance`."""
    if (unlike := unlike_in_shape(name, got, want, dtype)) is not None:
        return unlike
    return Compared(name, got.cpu(), want.cpu(), tolerance.element_errors(got, want).cpu(), bound)


def _linear_sizes(dice: random.Random) -> Sizes:
    sizes = {"m": dice.choice((0, 1, 3, 64, 65, 130)), "n": dice.choice((0, 1, 24, 70, 129))}
    # a lone sum of many numbers may cancel, and there is no other to say what is usual
    k = (0, 1, 8) if sizes["m"] * sizes["n"] == 1 else (0, 1, 8, 64, 200, 256)
    return {**sizes, "k": dice.choice(k), "bias": dice.random() < 0.5, "apart": dice.choice((0, 1, 8))}


QWEN3_8B = {"qkv": (6144, 4096), "o": (4096, 4096), "gate-up": (24576, 4096), "down": (4096, 12288)}
"""Rows and columns of each weight of Qwen3-8B in a layer."""
HEAD = (151_936, 4096)
LINEAR = KernelOp(
    name="linear",
    folder="linear",
    make=_make_linear,
    random_sizes=_linear_sizes,
    fixed={"m": 20, "n": 140, "k": 201, "bias": True, "apart": 3},
    real={
        **{f"{name}, {m} rows": {"m": m, "n": n, "k": k, "bias": name == "qkv"}
           for name, (n, k) in QWEN3_8B.items() for m in (1, 64, 128, 256, 600, 2048)},
        **{f"head, {m} rows": {"m": m, "n": HEAD[0], "k": HEAD[1]} for m in (1, 64, 128, 256)},
    },
    judge=_judge_linear,
    bad={
        "type of x": Bad("x", lambda x: x.double(), "weight must be torch.float64"),
        "type of weight": Bad("weight", lambda x: x.half(), "weight must be torch.float32 on .* as x is, got torch"),
        "device of weight": Bad("weight", lambda x: x.to("meta"), "weight must be torch.float32 on"),
        "width of weight": Bad("weight", lambda x: x[:, :4], r"x of width 4 for weight \[140, 4\], got 201"),
        "shape of bias": Bad("bias", lambda x: x[:4], r"bias of shape \[140\], got \[4\]"),
        "type of bias": Bad("bias", lambda x: x.half(), "bias must be torch.float32"),
        "columns of x": Bad("x", lambda x: x.t().contiguous().t(), "x must be 2-D with contig", impls=("triton",)),
        "axes of x": Bad("x", lambda x: x[None], "x must be 2-D", impls=("triton",)),
        "columns of weight": Bad("weight", lambda x: x.t().contiguous().t(), "weight must be 2-D with contiguous rows",
                                 impls=("triton",)),
        "strides of bias": Bad("bias", strided, "bias must be contiguous", impls=("triton",)),
        "float64": Bad("", lambda a: copied(a, floats=torch.float64), "takes x of float32", impls=("triton",)),
    },
    n_bytes=lambda a: a["x"].element_size() * (a["x"].numel() + a["weight"].numel() + len(a["x"]) * len(a["weight"])),
    n_flops=lambda args: 2 * args["x"].numel() * len(args["weight"]),
)  # fmt: skip
