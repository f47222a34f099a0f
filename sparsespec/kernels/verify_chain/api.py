"""The op `verify_chain`: from one token and one verdict per logit row to what each row of a batch emits.

It knows no rule of acceptance: verifiers decide what stands and what is drawn where a candidate fell.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sparsespec.core.errors import ContractBroken
from sparsespec.kernels.implementations import implementation
from sparsespec.kernels.verify_chain import reference

_IMPLS = {"reference": reference}


class Verified(NamedTuple):
    """What rows emit: `tokens[r, :emitted[r]]`, the first `accepted[r]` of which are candidates that stood."""

    tokens: Tensor  # [R, width] int64, 0 behind emitted
    emitted: Tensor  # [R] int64, 0 for a dead row, else accepted + 1
    accepted: Tensor  # [R] int64


def verify_chain(
    draws: Tensor,
    stands: Tensor,
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
        impl: "reference".

    Raises:
        ContractBroken: Shapes do not fit.
    """
    if draws.shape != stands.shape or first.shape != count.shape or draws.ndim + first.ndim != 2:
        shapes = [tuple(part.shape) for part in (draws, stands, first, count)]
        raise ContractBroken(f"verify_chain needs shapes [T], [T], [R], [R], got {shapes}")
    return Verified(*implementation("verify_chain", impl, _IMPLS).verify_chain(draws, stands, first, count, width))
