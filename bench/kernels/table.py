"""The lines of `bench.kernels`: which cases, of which model, with which bars."""

from __future__ import annotations

import torch

from bench.kernels import peers
from bench.kernels.cache import (
    Attention,
    Kernel,
    Shape,
    append_kv,
    copy_pages,
    drafting,
    top_positions,
    verifying,
)
from bench.kernels.case import Case, OnGpu
from bench.kernels.sampling import NUCLEUS, Verified, distribution, logprobs, sampled, top_probability
from sparsespec.testing.ops.attention import Row
from sparsespec.testing.ops.rows import ADD_RMS_NORM, HEAD, LINEAR, QWEN3_8B, SILU_MUL
from sparsespec.testing.ops.sampling import OFF

QWEN = Shape("qwen3-8b", 36, 32, 8, 128)
SMOLLM2 = Shape("smollm2-135m", 30, 9, 3, 64)
WEIGHTS = {**QWEN3_8B, "head": HEAD}
TOKENS = (64, 128, 256, 2048)
"""Rows of products."""


def attention_cases(batch: int = 64, length: int = 8192, kernel: Kernel | None = None) -> list[Case]:
    """Return the cases of attention; a given `kernel` has no peer's time to meet."""
    verify = (verifying(length, 9, scored=True),) * batch
    decode = (verifying(length, 1),) * batch
    few, more = ((drafting(length, round(share * length)),) * batch for share in (0.05, 0.1))
    mixed = verify[:7] + few[7:]

    def case(
        name: str, shape: Shape, rows: tuple[Row, ...], share: float | None = None, ratio: float | None = None,
        groups: int = 1,
    ) -> Case:  # fmt: skip
        attention = Attention(shape, rows, groups, kernel)
        return Case(shape.name, "attention", name, attention, share, None if kernel else ratio)

    return [
        case("verify, 9 queries, scores", QWEN, verify, 0.87, 1.09),
        case("decode", QWEN, decode, 0.94),
        case("sparse 5 %, groups 1", QWEN, few, 0.75, 1.0),
        case("sparse 5 %, groups 8", QWEN, few, 0.75, 1.0, groups=8),
        case("sparse 10 %, groups 1", QWEN, more, 0.85, 1.0),
        case("sparse 10 %, groups 8", QWEN, more, 0.85, 1.0, groups=8),
        case("mixed, 7 verify and 57 draft", QWEN, mixed, 0.8, 1.0),
        case("prefill, 2048 at 8192", QWEN, (verifying(length, 2048),), None, 1 / 0.6),
        case("verify, 9 queries, scores", SMOLLM2, verify),
        case("decode", SMOLLM2, decode),
        case("sparse 5 %, groups 1", SMOLLM2, few),
        case("sparse 5 %, groups 3", SMOLLM2, few, groups=3),
    ]


def cases(kernel: Kernel | None = None) -> list[Case]:
    """Return the table: Qwen3-8B with the bars it must meet, and SmolLM2's shapes; with a `kernel`, its cases only."""
    if kernel is not None:
        return attention_cases(kernel=kernel)
    q, s, wide, half = QWEN, SMOLLM2, torch.float32, torch.bfloat16
    return [
        *attention_cases(),
        Case(q.name, "top_positions", "64 rows, shared by the layer", top_positions(q, 64, 1), None, 1.0),
        Case(q.name, "top_positions", "7 rows, 8 groups", top_positions(q, 7, 8), None, 1.0),
        Case(q.name, "top_positions", "64 rows, pool 5", top_positions(q, 64, 1, pool=5)),
        Case(s.name, "top_positions", "64 rows, shared by the layer", top_positions(s, 64, 1), None, 1.0),
        *(Case(q.name, "append_kv", f"{n} tokens", append_kv(q, n)) for n in (64, 576, 2048)),
        Case(s.name, "append_kv", "576 tokens", append_kv(s, 576)),
        Case(q.name, "copy_pages", "512 pages", copy_pages(q, 512)),
        *(case for shape, width in ((q, 4096), (s, 576)) for case in _norms(shape, width)),
        *(case for shape, width in ((q, 12288), (s, 1536)) for case in _gates(shape, width)),
        *(
            Case(q.name, "linear", f"{name}, {n} tokens", product(name, n), None, 1.15)
            for name in WEIGHTS
            for n in TOKENS
        ),
        Case(q.name, "sample", "no filters, float32", sampled(wide, OFF), ratio=1.0),
        Case(q.name, "sample", "no filters, bf16", sampled(half, OFF), micros=45),
        Case(q.name, "sample", "top_k 20, top_p 0.95, float32", sampled(wide, NUCLEUS), micros=120),
        Case(q.name, "sample", "top_k 20, top_p 0.95, bf16", sampled(half, NUCLEUS), micros=120),
        Case(q.name, "top_probability", "bf16", top_probability(half)),
        Case(q.name, "probs", "no filters, bf16", distribution(half, OFF)),
        Case(q.name, "probs", "top_k 20, top_p 0.95, bf16", distribution(half, NUCLEUS)),
        Case(q.name, "logprobs", "the best 5, bf16", logprobs(half, best=5)),
        Case(q.name, "verify", "8 verify rows of 9, no filters", Verified(half), beyond=60),
        Case(q.name, "verify", "8 verify rows of 9, top_k 20", Verified(half, NUCLEUS), beyond=60),
    ]


def product(weight: str, tokens: int) -> OnGpu:
    """Return `tokens` rows by a weight of Qwen3-8B, beside cuBLAS; rotating over weights as a model's layers do."""
    n, k = WEIGHTS[weight]
    return OnGpu(LINEAR, {"m": tokens, "n": n, "k": k}, peers=peers.cublas)


def _norms(shape: Shape, width: int) -> list[Case]:
    return [
        Case(shape.name, "rms_norm", f"residual, {n} tokens",
             OnGpu(ADD_RMS_NORM, {"lead": (n,), "width": width}, peers=peers.add_rms_norm)) for n in (64, 576)
    ]  # fmt: skip


def _gates(shape: Shape, width: int) -> list[Case]:
    return [
        Case(shape.name, "silu_mul", f"{n} tokens",
             OnGpu(SILU_MUL, {"lead": (n,), "width": width}, peers=peers.silu_mul)) for n in (64, 576)
    ]  # fmt: skip
