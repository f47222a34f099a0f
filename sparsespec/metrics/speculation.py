"""What speculation did for one request, under the names that the field's engines report.

Counts only, added up from collected rows in `metrics/seats.py`; ratios are derived. A *draft* here is a candidate that
a VERIFY row judged, be it drafted under sparse attention or, where there is no draft level, guessed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


def _ratio(a: float, b: float) -> float:
    return a / b if b else float("nan")


@dataclass(slots=True)
class SpecMetrics:
    """Counts of one request or, added together, of many."""

    num_verify_steps: int = 0  #: VERIFY rows, plain decoding among them
    num_draft_steps: int = 0  #: DRAFT rows
    num_spec_rounds: int = 0  #: VERIFY rows that judged at least one draft
    num_draft_tokens: int = 0  #: drafts that VERIFY rows judged
    num_accepted_tokens: int = 0  #: those of them that stood
    num_guess_tokens: int = 0  #: guesses that DRAFT rows judged
    num_accepted_guesses: int = 0  #: those of them that stood
    num_output_tokens: int = 0  #: tokens of the output
    num_preemptions: int = 0  #: times that all pages were lost
    num_recomputed_tokens: int = 0  #: positions whose KV was computed again after that
    acceptance_histogram: Counter[int] = field(default_factory=Counter)  #: accepted drafts of a round → rounds
    kv_read_draft: float = 0.0  #: KV tokens that DRAFT rows read
    kv_full_draft: float = 0.0  #: KV tokens that they would have read without a selection
    kv_read: float = 0.0  #: KV tokens that decoding rows read
    kv_dense: float = 0.0  #: KV tokens that dense decoding reads for the same output

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens a round yields, accepted drafts and the one that is drawn; NaN without rounds."""
        return 1 + _ratio(self.num_accepted_tokens, self.num_spec_rounds)

    @property
    def draft_acceptance_rate(self) -> float:
        """Share of drafts that were accepted; NaN without drafts."""
        return _ratio(self.num_accepted_tokens, self.num_draft_tokens)

    @property
    def num_rejected_tokens(self) -> int:
        """Drafts that were not accepted."""
        return self.num_draft_tokens - self.num_accepted_tokens

    @property
    def draft_kv_share(self) -> float:
        """Share of the context that drafts read; NaN without DRAFT rows."""
        return _ratio(self.kv_read_draft, self.kv_full_draft)

    @property
    def kv_share(self) -> float:
        """KV tokens read, drafts and verifications together, against dense decoding of the same output."""
        return _ratio(self.kv_read, self.kv_dense)

    def __add__(self, other: SpecMetrics) -> SpecMetrics:
        """Return the counts of both."""
        return SpecMetrics(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})

    def to_dict(self) -> dict[str, Any]:
        """Return counts and ratios as plain JSON values; a ratio without a base is None."""
        counts = {name: getattr(self, name) for name in self.__slots__}
        counts["acceptance_histogram"] = dict(sorted(self.acceptance_histogram.items()))
        ratios = {
            name: getattr(self, name)
            for name in ("mean_acceptance_length", "draft_acceptance_rate", "draft_kv_share", "kv_share")
        }
        return counts | {name: None if value != value else value for name, value in ratios.items()}
