"""The most tokens a second that a device can yield: products of weights and reads of KV, and nothing else.

Launches, norms, sampling, selection and the host are left out, and KV is read at the rate at which memory is read from
end to end, so nothing real reaches it. What a step does take is `core/cost.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsespec.core.curve import Curve
from sparsespec.core.errors import BadOption


@dataclass(frozen=True, slots=True)
class Roofline:
    """The limit of dense decoding and of rounds on one device, for one model.

    Attributes:
        products: Seconds of all matrix products of all layers, by tokens.
        head: Seconds of the LM head, by rows of logits.
        kv_token_bytes: K and V of one token, all layers together.
        bytes_per_second: How fast memory is read from end to end.
    """

    products: Curve
    head: Curve
    kv_token_bytes: float
    bytes_per_second: float

    def __post_init__(self) -> None:
        if not (self.kv_token_bytes > 0 and self.bytes_per_second > 0):
            raise BadOption(
                "a roofline needs bytes of a token's KV and bytes a second above 0, "
                f"got {self.kv_token_bytes} and {self.bytes_per_second}"
            )

    def dense(self, batch: float, context: float) -> float:
        """Return the tokens a second of `batch` requests of `context` tokens, each of which gains one a step."""
        return self.round(batch, context, k=0, share=0.0, mean_acceptance_length=1.0)

    def round(
        self,
        batch: float,
        context: float,
        *,
        k: int,
        share: float,
        mean_acceptance_length: float,
        dense_rate: float = 1.0,
        sparse_rate: float = 1.0,
    ) -> float:
        """Return the tokens a second of rounds of `k` drafts and a verification, evenly spread over k + 1 steps.

        A step of the k + 1 carries (2k + 1) / (k + 1) tokens of each request; the round reads all KV once and a share
        of it k times, and yields `mean_acceptance_length` tokens. Beyond the largest point of the curves it
        extrapolates.

        Args:
            batch: Requests.
            context: Tokens of each.
            k: Drafts; 0 is dense decoding.
            share: Part of the context that a draft reads.
            mean_acceptance_length: Tokens a round yields, accepted drafts and the bonus token, 1 to k + 1.
            dense_rate: Rate at which rows read everything, as a part of `bytes_per_second`.
            sparse_rate: Rate at which drafts read their share, likewise.
        """
        _check(batch, context, k, share, mean_acceptance_length, dense_rate, sparse_rate)
        tokens = batch * (2 * k + 1) / (k + 1)
        kv = batch * context * self.kv_token_bytes / self.bytes_per_second
        reads = kv / dense_rate + k * share * kv / sparse_rate
        return batch * mean_acceptance_length / ((k + 1) * (self.products(tokens) + self.head(tokens)) + reads)


def _check(
    batch: float, context: float, k: int, share: float, length: float, dense_rate: float, sparse_rate: float
) -> None:
    if not (batch > 0 and context >= 0):
        raise BadOption(f"a batch has requests, and a context 0 tokens or more, got {batch} and {context}")
    if not k >= 0:
        raise BadOption(f"k is a number of drafts, 0 or more, got {k}")
    if not 0 <= share <= 1:
        raise BadOption(f"share is the part of the context that a draft reads, 0 to 1, got {share}")
    if not 1 <= length <= k + 1:
        raise BadOption(f"mean_acceptance_length is 1 to {k + 1} tokens a round of {k} drafts, got {length}")
    if not (0 < dense_rate <= 1 and 0 < sparse_rate <= 1):
        raise BadOption(f"rates are parts of the read rate, above 0 and at most 1, got {dense_rate} and {sparse_rate}")
