"""The op `verify_inputs`: what a verifier is to judge, per row and per logit row.

`verify_inputs` gathers it from a batch and the seats, before the verifier is called. A verifier that samples from every
logit row then asks `per_logit_row` which row each one belongs to and how to sample it. Shapes are fixed, whatever the
rows hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsespec.core.batch import Batch, VerifyInputs
from sparsespec.core.errors import ContractBroken
from sparsespec.kernels.implementations import implementation
from sparsespec.kernels.verify_inputs import reference

IMPLS = {"reference": reference}
LAZY = ("triton",)
"""Implementations that need an optional package, imported when asked for."""


@dataclass(frozen=True, slots=True)
class LogitRows:
    """`VerifyInputs` per logit row.

    A logit row that belongs to no row is not alive, and has temperature 0 so that it costs little.
    """

    row: Tensor  # [T] int64, the row it belongs to; 0 where not alive
    alive: Tensor  # [T] bool
    judges: Tensor  # [T] bool, there is a candidate for this position
    candidate: Tensor  # [T] int64, 0 where not judging
    position: Tensor  # [T] int64, of the token that is sampled from the logits
    seed: Tensor  # [T] int64
    sample_index: Tensor  # [T] int64
    temperature: Tensor  # [T] float64
    top_k: Tensor  # [T] int64
    top_p: Tensor  # [T] float64
    min_p: Tensor  # [T] float64


def verify_inputs(batch: Batch, width: int, *, impl: str) -> VerifyInputs:
    """Return what the verifier judges: each decoding row's candidates are its own inputs behind the first.

    Args:
        batch: The step; rows that fill are dead here.
        width: The most query tokens of a decoding row.
        impl: "reference", or "triton" on a GPU.

    Raises:
        BadOption: "triton" does not take the layout of an argument.
        ContractBroken: `width` is not positive.
        MissingPackage: `impl` needs a package that is not installed.
    """
    if width < 1:
        raise ContractBroken(f"a decoding row has at least one query token, got width {width}")
    return VerifyInputs(*implementation("verify_inputs", impl, IMPLS, LAZY).verify_inputs(batch, width))


def per_logit_row(rows: VerifyInputs, n_logits: int, *, impl: str) -> LogitRows:
    """Return `rows` per logit row, T = `n_logits`; no logit row belongs to two rows.

    Raises:
        BadOption: "triton" does not take the layout of an argument.
        MissingPackage: `impl` needs a package that is not installed.
    """
    return LogitRows(*implementation("verify_inputs", impl, IMPLS, LAZY).per_logit_row(rows, n_logits))
