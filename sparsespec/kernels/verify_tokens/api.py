"""The op `verify_tokens`: from one token and one verdict per logit row to what each row of a batch emits.

It knows no rule of acceptance: verifiers decide what stands and what is drawn where a candidate fell. `match_tokens` is
the same for those who let a candidate stand iff it is what was drawn.
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
    """What rows emit: `tokens[r, :emitted[r]]`, the first `accepted[r]` of which are candidates that stood."""

    tokens: Tensor  # [R, width] int64, 0 behind emitted
    emitted: Tensor  # [R] int64, 0 for a dead row, else accepted + 1
    accepted: Tensor  # [R] int64


def verify_tokens(
    draws: Tensor,
    is_accepted: Tensor,
    first: Tensor,
    count: Tensor,
    *,
    width: int,
    impl: str = "reference",
) -> Verified:
    """Return the leading candidates that stand, and the token of the logit row where the first one fell.

    Args:
        draws: [T] int64, the token of each logit row: the candidate where it stands, else what replaces it, and the
            token behind all candidates in a row's last logit row.
        stands: [T] bool, whether the candidate judged by this logit row stands; ignored in a row's last.
        first: [R] int64, first logit row of each row.
        count: [R] int64, candidates of each row, at most `width` - 1; -1 is a dead row.
        width: Columns of the result.
        impl: "reference", or "triton" on a GPU.

    Raises:
        BadOption: "triton" does not take the layout of an argument.
        ContractBroken: Shapes do not fit.
        MissingPackage: `impl` needs a package that is not installed.
    """
    _check_shapes("verify_tokens", draws, is_accepted, first, count)
    module = implementation("verify_tokens", impl, IMPLS, LAZY)
    return Verified(*module.verify_tokens(draws, is_accepted, first, count, width))


def match_tokens(
    draws: Tensor,
    candidate: Tensor,
    first: Tensor,
    count: Tensor,
    *,
    width: int,
    impl: str = "reference",
) -> Verified:
    """Return what rows emit where a candidate stands iff it equals what was drawn from its logit row.

    Args:
        draws: [T] int64, one draw per logit row.
        candidate: [T] int64, the candidate judged by this logit row; ignored in a row's last.
        first, count, width, impl: As in `verify_tokens`, and it raises the same.
    """
    _check_shapes("match_tokens", draws, candidate, first, count)
    module = implementation("verify_tokens", impl, IMPLS, LAZY)
    return Verified(*module.match_tokens(draws, candidate, first, count, width))


def _check_shapes(op: str, draws: Tensor, verdicts: Tensor, first: Tensor, count: Tensor) -> None:
    if draws.shape != verdicts.shape or first.shape != count.shape or draws.ndim + first.ndim != 2:
        shapes = [tuple(part.shape) for part in (draws, verdicts, first, count)]
        raise ContractBroken(f"{op} needs shapes [T], [T], [R], [R], got {shapes}")
