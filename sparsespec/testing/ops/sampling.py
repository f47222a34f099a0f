"""Cases of the ops on logits: `sample`, `probs`, `top_probability`, `confidence`, `logprobs`."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.errors import ContractBroken
from sparsespec.core.noise import gumbel
from sparsespec.kernels.sample import reference
from sparsespec.testing.ops.bundles import copied
from sparsespec.testing.ops.op import Args, Bad, Compared, KernelOp, Sizes, closely, exactly, strided

Filters = tuple[float, int, float, float]
"""Temperature, top_k, top_p and min_p of a row."""
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
"""Filters of every kind, some at their edges."""
REAL: tuple[Filters, ...] = (
    *KINDS,
    (0.6, 20, 0.95, 0.0),
    (1.0, 400, 1.0, 0.0),
    (1.0, 0, 0.95, 0.0),
    (1.0, 0, 1.0, 0.01),
)
LOGITS = ("numbers", "ties", "flat", "peak")
LARGE = 50_000
"""Tokens of a vocabulary in which the two best scores are now and then as close as a logarithm is rounded."""
TIED = 1e-5
"""Scores closer than this may be told apart by that rounding alone; in small vocabularies none may."""
TINY = 1e-37
"""Probabilities below are as good as none: a fast exponential gives 0 for what is no normal number."""


def columns(*filters: Filters) -> list[Tensor]:
    """Return temperature, top_k, top_p and min_p of rows."""
    temperature, top_k, top_p, min_p = zip(*filters, strict=True) if filters else ((), (), (), ())
    real = [torch.tensor(part, dtype=torch.float64) for part in (temperature, top_p, min_p)]
    return [real[0], torch.tensor(top_k, dtype=torch.int64), real[1], real[2]]


def keys(n: int, position: int = 5) -> list[Tensor]:
    """Return keys whose words all differ and use their high bits."""
    row = torch.arange(n) + position
    return [row * 0x9E3779B97F4A7C1 - 3, row + 2**31, 2**32 - 1 - row, row * 977]


def logits_of(kind: str, n_rows: int, vocab: int, seed: int) -> Tensor:
    """Return logits that float16 holds too, a fifth of them -inf where the seed is odd.

    Args:
        kind: "numbers"; "ties", few values that tie; "flat", equal ones; or "peak", one that stands out.
        n_rows: Rows.
        vocab: Columns.
        seed: Any integer.
    """
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


def _logits(kind: str, n: int, vocab: int, seed: int, view: bool, dtype: torch.dtype, device: str) -> Tensor:
    """Return logits, those of every second row and some columns of a wider buffer if asked to."""
    if not view:
        return logits_of(kind, n, vocab, seed).to(device, dtype)
    return logits_of(kind, 2 * n, vocab + 13, seed).to(device, dtype)[::2, 1 : vocab + 1]


def _make_filtered(
    seed: int,
    *,
    filters: tuple[Filters, ...],
    vocab: int,
    kind: str = "numbers",
    view: bool = False,
    shift: float = 0.0,
    dtype: torch.dtype,
    device: str,
) -> Args:
    """Return rows of logits and their filters; `shift` is added to all logits."""
    names = ("temperature", "top_k", "top_p", "min_p")
    filtered = (x.to(device) for x in columns(*filters))
    logits = _logits(kind, len(filters), vocab, seed, view, dtype, device)
    return {"logits": logits + shift if shift else logits, **dict(zip(names, filtered, strict=True))}


def _make_sampled(seed: int, **sizes: Any) -> Args:
    args = _make_filtered(seed, **sizes)
    names, device = ("seed", "sample_index", "position", "tag"), args["logits"].device
    return {**args, **dict(zip(names, (x.to(device) for x in keys(len(args["logits"]), seed)), strict=True))}


def _make_logits(
    seed: int, *, n: int, vocab: int, kind: str = "numbers", view: bool = False, dtype: torch.dtype, device: str
) -> Args:
    return {"logits": _logits(kind, n, vocab, seed, view, dtype, device)}


def _make_confidence(seed: int, *, n: int, **sizes: Any) -> Args:
    """Return logits [n + 3] and what was emitted of n rows: some are not wanted, emitted nothing or point anywhere."""
    args = _make_logits(seed, n=n + 3, **sizes)
    generator = torch.Generator().manual_seed(seed)
    emitted = torch.randint(0, 4, (n,), generator=generator)
    wanted = torch.randint(0, 3, (n,), generator=generator)
    first = torch.randint(0, n + 1, (n,), generator=generator)
    # a span without any finite logit
    args["logits"][0, : args["logits"].shape[1] // 2] = -torch.inf
    asked = (wanted != 0) & (emitted > 0)
    parts = {"first": torch.where(asked, first, 900), "emitted": emitted, "wanted": wanted}
    return {**args, **copied(parts, args["logits"].device)}


def _make_logprobs(seed: int, *, best: int, **sizes: Any) -> Args:
    args = _make_logits(seed, **sizes)
    n, vocab = args["logits"].shape
    return {**args, "chosen": (torch.arange(n) * 7 % vocab).to(args["logits"].device), "n": min(best, vocab)}


def _judge_sample(op: KernelOp, given: Args, returned: Any, after: Args) -> list[Compared]:
    """Compare tokens; where they differ in a large vocabulary, by how much the score is below the best one."""
    want, _ = op.reference(given, floats=torch.float64 if given["logits"].dtype == torch.float64 else torch.float32)
    vocab = given["logits"].shape[1]
    exact = exactly("result", returned, want)
    if exact.note or exact.is_right or vocab < LARGE:
        return [exact]
    off = torch.zeros(len(want), dtype=torch.float64)
    for row in exact.wrong.nonzero()[:, 0].tolist():
        logits, t, top_k, top_p, min_p, seed, index, position, tag = (x[row : row + 1].cpu() for x in given.values())
        score = reference.process(logits.float(), t, top_k, top_p, min_p)
        score += gumbel(seed, index, position, tag, vocab, torch.float32)
        token = int(exact.got[row])
        off[row] = float(score[0, want[row]] - score[0, token]) if 0 <= token < vocab else torch.inf
    return [Compared("result", exact.got, want, off, TIED)]


def _judge_probs(op: KernelOp, given: Args, returned: Any, after: Args) -> list[Compared]:
    """Compare which tokens have a probability, and probabilities: a fast exponential of -x errs by some x ulp."""
    want, _ = op.reference(given)
    close = closely("result", returned, want, rtol=2e-5, atol=TINY)
    if close.note:
        return [close]
    return [exactly("tokens with a probability", close.got > TINY, want > TINY), close]


def _judge_odds(op: KernelOp, given: Args, returned: Any, after: Args) -> list[Compared]:
    want, _ = op.reference(given)
    return [closely("result", returned, want, rtol=2e-6)]


def _judge_logprobs(op: KernelOp, given: Args, returned: Any, after: Args) -> list[Compared]:
    """Compare the tokens to the id; log-probabilities may be rounded otherwise."""
    want, _ = op.reference(given)
    ids, values, chosen = returned
    return [
        exactly("ids", ids, want[0]),
        closely("values", values, want[1], rtol=2e-6, atol=1e-5),
        closely("chosen_value", chosen, want[2], rtol=2e-6, atol=1e-5),
    ]


def _filtered_sizes(dice: random.Random) -> Sizes:
    return {
        "filters": tuple(dice.choice(KINDS) for _ in range(dice.choice((0, 1, 2, 3)))),
        "vocab": dice.choice((1, 2, 7, 45, 63)),
        "kind": dice.choice(LOGITS),
        "view": dice.random() < 0.2,
    }


def _row_sizes(dice: random.Random) -> Sizes:
    return {
        "n": dice.choice((0, 1, 3, 6)),
        "vocab": dice.choice((1, 2, 7, 45, 63)),
        "kind": dice.choice(LOGITS),
        "view": dice.random() < 0.2,
    }


_REAL = {f"{kind}, {vocab}": {"kind": kind, "vocab": vocab} for vocab in (50_257, 151_936) for kind in LOGITS}
_BAD_LOGITS = {
    "float64": Bad("logits", lambda x: x.double(), "logits of float32", impls=("triton",)),
    "layout of logits": Bad("logits", strided, "contiguous along their last axis", impls=("triton",)),
    "no vocabulary": Bad("logits", lambda x: x[:, :0], "1 … 2", impls=("triton",)),
    "whole logits": Bad("logits", lambda x: x.long(), r"logits must be \[T, V\] floats", ContractBroken),
}
_BAD_FILTERS = {
    **_BAD_LOGITS,
    "type of top_p": Bad("top_p", lambda x: x.float(), r"top_p must be contiguous torch\.float64", impls=("triton",)),
    "number of min_p": Bad("min_p", lambda x: x[:1], r"min_p must be \[3\]", ContractBroken),
}
_FIXED_FILTERS = ((0.6, 20, 0.95, 0.0), OFF, (0.0, 0, 1.0, 0.0))
SAMPLE = KernelOp(
    name="sample",
    folder="sample",
    make=_make_sampled,
    random_sizes=_filtered_sizes,
    fixed={"filters": _FIXED_FILTERS, "vocab": 20_011},
    real={name: {**sizes, "filters": REAL} for name, sizes in _REAL.items()},
    judge=_judge_sample,
    bad={
        **_BAD_FILTERS,
        "type of position": Bad(
            "position", lambda x: x.int(), r"position must be contiguous torch\.int64", impls=("triton",)
        ),
        "number of seeds": Bad("seed", lambda x: x[:1], r"seed must be \[3\]", ContractBroken),
        **{
            f"{x} among the logits": Bad(
                "logits", lambda y, x=x: y.index_fill(1, torch.tensor([1], device=y.device), x), "without NaN",
                ContractBroken, ("reference",),
            ) for x in (torch.nan, torch.inf)
        },
    },
    n_bytes=lambda args: args["logits"].numel() * args["logits"].element_size(),
)  # fmt: skip
PROBS = KernelOp(
    name="probs",
    folder="sample",
    make=_make_filtered,
    random_sizes=_filtered_sizes,
    fixed=SAMPLE.fixed,
    real=SAMPLE.real,
    judge=_judge_probs,
    bad=_BAD_FILTERS,
    n_bytes=lambda args: args["logits"].numel() * (args["logits"].element_size() + 4),
)
TOP_PROBABILITY = KernelOp(
    name="top_probability",
    folder="sample",
    make=_make_logits,
    random_sizes=_row_sizes,
    fixed={"n": 3, "vocab": 20_011},
    real={name: {**sizes, "n": 40} for name, sizes in _REAL.items()},
    judge=_judge_odds,
    bad=_BAD_LOGITS,
    n_bytes=SAMPLE.n_bytes,
)
CONFIDENCE = KernelOp(
    name="confidence",
    folder="sample",
    make=_make_confidence,
    random_sizes=_row_sizes,
    fixed={"n": 6, "vocab": 20_011},
    real=TOP_PROBABILITY.real,
    judge=_judge_odds,
    bad={
        **_BAD_LOGITS,
        "no logits": Bad("logits", lambda x: x[:0], "at least one row of logits", ContractBroken),
        "number of rows": Bad("wanted", lambda x: x[:1], r"confidence needs shapes \[R\]", ContractBroken),
    },
    n_bytes=SAMPLE.n_bytes,
)
LOGPROBS = KernelOp(
    name="logprobs",
    folder="sample",
    make=_make_logprobs,
    random_sizes=lambda dice: {**_row_sizes(dice), "best": dice.choice((0, 1, 5, 63))},
    fixed={"n": 3, "vocab": 20_011, "best": 5},
    real={name: {**sizes, "best": 20} for name, sizes in TOP_PROBABILITY.real.items()},
    judge=_judge_logprobs,
    bad={
        **_BAD_LOGITS,
        "no vocabulary": Bad("logits", lambda x: x[:, :0], "n in 0 … 0, got 5", ContractBroken),
        "number of chosen": Bad("chosen", lambda x: x[:1], r"chosen must be \[3\]", ContractBroken),
        "more than there are": Bad("n", lambda _: 99_999, "n in 0 … 20011, got 99999", ContractBroken),
    },
    n_bytes=SAMPLE.n_bytes,
)
