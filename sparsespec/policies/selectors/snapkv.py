"""Selector `snapkv`: what the end of the prompt read most, chosen once; all that comes later is read too.

Source: SnapKV (Li et al., arXiv 2404.14469): the last queries of a prompt vote for earlier positions by what they read,
votes are pooled so that neighbours of a winner come along, and the winners of each head stay, with the window itself.
There the rest of the prompt is dropped for good; here only drafts go without it, so nothing is lost. What differs: a
head here is a KV head, whose query heads vote together; the prompt's last token is not in the window, because it is the
query of the first round; a prompt that is filled in chunks votes with the last chunk alone; and pooling is a maximum,
where a mean is published as well.
"""

from __future__ import annotations

from torch import Tensor

from sparsespec.core.batch import Batch, Outcome
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Phase
from sparsespec.policies.selectors.budget import check_budget
from sparsespec.policies.selectors.scored import Scored


class SnapKV(Scored):
    """Keeps a share of the prompt and reads it in every round, with everything behind the prompt.

    A draft's reading grows with the output, by one position a token: `keep` is a share of the prompt, and not, like the
    `budget` of other selectors, of the context. A prompt of one token has nothing to vote with, and is read whole.

    Args:
        keep: Share of the prompt that is kept, in (0, 1], its window included.
        min_keep: Tokens that are kept at least.
        window: Queries that vote; their positions are kept. Attention `triton` scores 16 at most.
        pool: Odd width of the maximum over neighbouring votes; 1 is off.
        groups: Lists per layer: a divisor of the KV heads, or "heads".
    """

    def __init__(
        self, keep: float = 0.05, min_keep: int = 128, window: int = 16, pool: int = 7, groups: int | str = "heads"
    ) -> None:
        check_budget(keep, min_keep, names=("keep", "min_keep"), whole="prompt")
        super().__init__(keep, min_keep, groups, pool)
        if window < 1:
            raise BadOption(f"window is a number of queries, 1 or more, got {window}")
        self.keep, self.min_keep, self.window = keep, min_keep, window

    @property
    def scored(self) -> tuple[int, int]:
        """Return `window` trailing queries."""
        return (0, self.window)

    def fresh(self, batch: Batch) -> Tensor:
        """Say of each row whether it filled its prompt; scores of verifications are not looked at."""
        return super().fresh(batch) & (batch.phase == Phase.PREFILL)

    def newest(self, outcome: Outcome, reads: Tensor) -> Tensor:
        """Return the window, whose positions are hidden from its first queries, and so are kept without a vote."""
        return reads.clamp(max=self.window)
