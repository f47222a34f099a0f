"""The lines of `bench.kernels`: which cases, of which model, with which bars."""

from __future__ import annotations

from dataclasses import replace

import torch

from bench import kernel_cases_linear as products
from bench.kernel_cases import Append, Case, Copy, Kernel, Rows, Shape, Top
from bench.kernel_cases_sample import Best, Chain, Draw, Filters, Law, Sure
from bench.row_cases import Gate, Norm

QWEN3_8B = Shape("qwen3-8b", 36, 32, 8, 128)
SMOLLM2 = Shape("smollm2-135m", 30, 9, 3, 64)


def cases(batch: int = 64, length: int = 8192, kernel: Kernel | None = None) -> list[Case]:
    """Return the table: Qwen3-8B with the bars it must meet, and SmolLM2's shapes; with a `kernel`, its cases only."""
    verify = Rows(((length, 9, False),) * batch, scored=True)
    decode = Rows(((length, 1, False),) * batch)
    sparse = ((length, 1, True),) * batch
    few, more = round(0.05 * length), round(0.1 * length)
    mixed = Rows(((length, 9, False),) * 7 + ((length, 1, True),) * (batch - 7), scored=True, chosen=few)
    prefill = Rows(((length, 2048, False),))
    every, nucleus = Filters(), Filters(0.65, 20, 0.95)
    wide, half = torch.float32, torch.bfloat16
    q, s = QWEN3_8B, SMOLLM2
    table = [
        Case("attention", "verify, 9 queries, scores", q, verify, 0.87, 1.09),
        Case("attention", "decode", q, decode, 0.94),
        Case("attention", "sparse 5 %, groups 1", q, Rows(sparse, chosen=few), 0.75, 1.0),
        Case("attention", "sparse 5 %, groups 8", q, Rows(sparse, groups=8, chosen=few), 0.75, 1.0),
        Case("attention", "sparse 10 %, groups 1", q, Rows(sparse, chosen=more), 0.85, 1.0),
        Case("attention", "sparse 10 %, groups 8", q, Rows(sparse, groups=8, chosen=more), 0.85, 1.0),
        Case("attention", "mixed, 7 verify and 57 draft", q, mixed, 0.8, 1.0),
        Case("attention", "prefill, 2048 at 8192", q, prefill, None, 1 / 0.6),
        Case("top_positions", "64 rows, shared by the layer", q, Top(64, 1), None, 1.0),
        Case("top_positions", "7 rows, 8 groups", q, Top(7, 8), None, 1.0),
        Case("top_positions", "64 rows, pool 5", q, Top(64, 1, pool=5)),
        *(Case("append_kv", f"{n} tokens", q, Append(n)) for n in (64, 576, 2048)),
        Case("copy_pages", "512 pages", q, Copy(512)),
        *(Case("rms_norm", f"residual, {n} tokens", q, Norm(n, 4096)) for n in (64, 576)),
        *(Case("silu_mul", f"{n} tokens", q, Gate(n, 12288)) for n in (64, 576)),
        *(
            Case("linear", f"{name}, {n} tokens", q, products.Product(n, *shape), None, 1.15)
            for name, shape in products.QWEN3_8B.items()
            for n in products.TOKENS
        ),
        Case("draw", "no filters, float32", q, Draw(wide, every), ratio=1.0),
        Case("draw", "no filters, bf16", q, Draw(half, every), micros=45),
        Case("draw", "top_k 20, top_p 0.95, float32", q, Draw(wide, nucleus), micros=120),
        Case("draw", "top_k 20, top_p 0.95, bf16", q, Draw(half, nucleus), micros=120),
        Case("top_probability", "bf16", q, Sure(half)),
        Case("law", "no filters, bf16", q, Law(half, every)),
        Case("law", "top_k 20, top_p 0.95, bf16", q, Law(half, nucleus)),
        Case("logprobs", "the best 5, bf16", q, Best(half, 5)),
        Case("chain", "8 verify rows of 9, no filters", q, Chain(half, every), beyond=60),
        Case("chain", "8 verify rows of 9, top_k 20", q, Chain(half, nucleus), beyond=60),
        Case("attention", "verify, 9 queries, scores", s, verify),
        Case("attention", "decode", s, decode),
        Case("attention", "sparse 5 %, groups 1", s, Rows(sparse, chosen=few)),
        Case("attention", "sparse 5 %, groups 3", s, Rows(sparse, groups=3, chosen=few)),
        Case("top_positions", "64 rows, shared by the layer", s, Top(64, 1), None, 1.0),
        Case("append_kv", "576 tokens", s, Append(576)),
        *(Case("rms_norm", f"residual, {n} tokens", s, Norm(n, 576)) for n in (64, 576)),
        *(Case("silu_mul", f"{n} tokens", s, Gate(n, 1536)) for n in (64, 576)),
    ]
    if kernel is None:
        return table
    return [replace(c, make=replace(c.make, kernel=kernel), ratio=None) for c in table if isinstance(c.make, Rows)]
