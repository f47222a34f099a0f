"""The op `settle`: the end of a round on the device. Seats move on, and what the host collects is gathered.

It takes the output of any verifier, and does not ask which distribution the tokens were sampled from.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sparsespec.core.batch import Batch, VerifyInputs, VerifyOutput
from sparsespec.core.errors import ContractBroken
from sparsespec.kernels.implementations import implementation
from sparsespec.kernels.settle import reference

IMPLS = {"reference": reference}
LAZY = ("triton",)
"""Implementations that need an optional package, imported when asked for."""


class Settled(NamedTuple):
    """What is left of a step besides the state."""

    report: Tensor  # [B, 10 + width] int64, what the host collects of each row
    drafted: Tensor  # [B] int64, drafts each row held before


def settle(
    batch: Batch,
    judged: VerifyInputs,
    verified: VerifyOutput,
    peak: Tensor,
    confidence: Tensor,
    kv_read: Tensor,
    *,
    impl: str,
) -> Settled:
    """Write `tokens`, `n_committed`, `n_drafted`, `n_computed` and `ended` of the batch's seats; return its report.

    A report's columns: live, emitted, candidates, accepted, n_drafted, ended, whether the row's logits were finite; the
    bits of three float64, which are the confidence of a DRAFT row (NaN elsewhere), KV tokens read and KV tokens there
    are; then the tokens. PREFILL rows have no logits, so theirs are called finite or not by what lies where they would
    be.

    Args:
        batch: The step; no seat twice.
        judged: Its rows as the verifier saw them.
        verified: What the verifier emitted; `width` columns of tokens, no fewer than a decoding row has queries.
        peak: [T] floats, the best logit of each logit row; NaN where there is NaN.
        confidence: [B] floats, `confidence` of the newest token's logit row; read for DRAFT rows that emit.
        kv_read: [B] float64, KV tokens each row read.
        impl: "reference", or "triton" on a GPU.

    Raises:
        BadOption: "triton" does not take the layout of an argument.
        ContractBroken: Shapes do not fit.
        MissingPackage: `impl` needs a package that is not installed.
    """
    n_rows = batch.n_rows
    columns = {"emitted": verified.emitted, "accepted": verified.accepted, "confidence": confidence, "kv_read": kv_read}
    for name, x in columns.items():
        if x.shape != (n_rows,):
            raise ContractBroken(f"{name} must be [{n_rows}], one for each row, got {list(x.shape)}")
    if verified.tokens.ndim != 2 or len(verified.tokens) != n_rows or peak.ndim != 1 or not len(peak):
        shapes = f"{list(verified.tokens.shape)} and {list(peak.shape)}"
        raise ContractBroken(f"settle needs tokens [{n_rows}, width] and peaks [T] of at least one, got {shapes}")
    module = implementation("settle", impl, IMPLS, LAZY)
    return Settled(*module.settle(batch, judged, verified, peak, confidence, kv_read))
