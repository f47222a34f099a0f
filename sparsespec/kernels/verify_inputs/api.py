"""The op `verify_inputs`: what a verifier is to judge, seen by rows, and the same seen by logit rows.

`verify_inputs` gathers it from a batch and the seats, before the verifier is asked; a verifier that draws from every logit
row then asks `spread` who owns which, and what is to be drawn from it. Shapes are fixed, whatever the rows hold.
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
    """`VerifyInputs` per logit row. One that no row owns is not alive, and has temperature 0 so that it costs little."""

    row: Tensor  # [T] int64, the owner; 0 where not alive
    alive: Tensor  # [T] bool
    judges: Tensor  # [T] bool, there is a candidate for this position
    candidate: Tensor  # [T] int64, 0 where not judging
    position: Tensor  # [T] int64, of the token that the logits are the law of
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


def spread(rows: VerifyInputs, n_logits: int, *, impl: str) -> LogitRows:
    """Return `rows` per logit row, T = `n_logits`; no two rows own the same one.

    Raises:
        BadOption: "triton" does not take the layout of an argument.
        MissingPackage: `impl` needs a package that is not installed.
    """
    return LogitRows(*implementation("verify_inputs", impl, IMPLS, LAZY).spread(rows, n_logits))
