"""The ops of `sparsespec.kernels`, each with random arguments, the comparison with its reference, and bad input.

Tests, `check_kernel` and benchmarks take their cases from here.
"""

from __future__ import annotations

from sparsespec.testing.ops.attention import ATTENTION
from sparsespec.testing.ops.cache import APPEND_KV, COPY_PAGES
from sparsespec.testing.ops.choice import TOP_POSITIONS
from sparsespec.testing.ops.op import KernelOp
from sparsespec.testing.ops.rounds import (
    LAY_OUT_ROWS,
    LAY_OUT_TOKENS,
    MATCH_TOKENS,
    PER_LOGIT_ROW,
    SETTLE,
    VERIFY_INPUTS,
    VERIFY_TOKENS,
)
from sparsespec.testing.ops.rows import ADD_RMS_NORM, LINEAR, RMS_NORM, SILU_MUL
from sparsespec.testing.ops.sampling import CONFIDENCE, LOGPROBS, PROBS, SAMPLE, TOP_PROBABILITY

_OPS = (
    *(ATTENTION, APPEND_KV, COPY_PAGES, TOP_POSITIONS),
    *(SAMPLE, PROBS, TOP_PROBABILITY, CONFIDENCE, LOGPROBS),
    *(LAY_OUT_ROWS, LAY_OUT_TOKENS, VERIFY_INPUTS, PER_LOGIT_ROW, VERIFY_TOKENS, MATCH_TOKENS, SETTLE),
    *(RMS_NORM, ADD_RMS_NORM, SILU_MUL, LINEAR),
)


def kernel_ops() -> dict[str, KernelOp]:
    """Return every op by its name."""
    return {op.name: op for op in _OPS}
