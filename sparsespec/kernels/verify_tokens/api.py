"""The op `verify_tokens`: from one token and one verdict per logit row to what each row of a batch emits.

It knows no rule of acceptance: verifiers decide which candidates are accepted and what replaces a rejected one.
`match_tokens` is the same for verifiers that accept a candidate iff it equals the token that was sampled.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sparsespec.core.errors import ContractBroken
from sparsespec.kernels.implementations import implementation
from sparsespec.kernels.verify_tokens import reference

IMPLS = {"reference": reference}
LAZY = ("triton",)
"""Implementations that need an optional package, imported when asked for."""


class Verified(NamedTuple):
    """What rows emit: `tokens[r, :emitted[r]]`, the first `accepted[r]` of which are accepted candidates."""

    tokens: Tensor  # [R, width] int64, 0 behind emitted
    emitted: Tensor  # [R] int64, 0 for a dead row, else accepted + 1
    accepted: Tensor  # [R] int64


def verify_tokens(
    sampled: Tensor,
    is_accepted: Tensor,
    first: Tensor,
    count: Tensor,
    *,
    width: int,
    impl: str = "reference",
) -> Verified:
    """Return the leading accepted candidates, and the token of the logit row where the first one was rejected.

    Args:
        sampled: [T] int64, the token of each logit row: the candidate where it is accepted, else what replaces it, and
            the token behind all candidates in a row's last logit row.
        is_accepted: [T] bool, whether the candidate judged by this logit row is accepted; ignored in a row's last.
        first: [R] int64, first logit row of each row.
        count: [R] int64, candidates of each row, at most `width` - 1; -1 is a dead row.
        width: Columns of the result.
        impl: "reference", or "triton" on a GPU.

    Raises:
        BadOption: "triton" does not take the layout of an argument.
        ContractBroken: Shapes do not fit.
        MissingPackage: `impl` needs a package that is not installed.
    """
    _check_shapes("verify_tokens", sampled, is_accepted, first, count)
    module = implementation("verify_tokens", impl, IMPLS, LAZY)
    return Verified(*module.verify_tokens(sampled, is_accepted, first, count, width))


def match_tokens(
    sampled: Tensor,
    candidate: Tensor,
    first: Tensor,
    count: Tensor,
    *,
    width: int,
    impl: str = "reference",
) -> Verified:
    """Return what rows emit where a candidate is accepted iff it equals the token sampled from its logit row.

    Args:
        sampled: [T] int64, one token per logit row.
        candidate: [T] int64, the candidate judged by this logit row; ignored in a row's last.
        first, count, width, impl: As in `verify_tokens`, and it raises the same.
    """
    _check_shapes("match_tokens", sampled, candidate, first, count)
    module = implementation("verify_tokens", impl, IMPLS, LAZY)
    return Verified(*module.match_tokens(sampled, candidate, first, count, width))


def _check_shapes(op: str, sampled: Tensor, verdicts: Tensor, first: Tensor, count: Tensor) -> None:
    if sampled.shape != verdicts.shape or first.shape != count.shape or sampled.ndim + first.ndim != 2:
        shapes = [tuple(part.shape) for part in (sampled, verdicts, first, count)]
        raise ContractBroken(f"{op} needs shapes [T], [T], [R], [R], got {shapes}")
