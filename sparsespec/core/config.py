"""Sizes that `bind` hands to every part: the model's geometry and the engine's limits, without torch."""

from __future__ import annotations

from dataclasses import dataclass

_ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Geometry:
    """Everything a part may allocate from.

    Attributes:
        n_layers: L of the model.
        n_heads: Hq.
        n_kv_heads: Hkv.
        head_dim: D.
        vocab: V.
        n_seats: Requests that can run at once.
        max_model_len: Tokens a request may hold, prompt and output together.
        block_size: Tokens per KV page.
        num_gpu_blocks: Pages of the pool, page 0 (which nobody owns) included.
        dtype: Name of the model's floating-point type, such as "float32".
        device: "cpu" or a CUDA device.
        scored: (first, last): how many leading and trailing live queries of a scored row the selector wants scored.
        groups: Lists of positions per layer: 1 … n_kv_heads, and a divisor of it.
        max_draft: Drafts a round that the length policy may ask for at most.
        max_guess: Guesses a forward that it may ask for at most.
        checked: Whether parts verify each other's promises at run time (tests do).
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    n_seats: int
    max_model_len: int
    block_size: int
    num_gpu_blocks: int
    dtype: str
    device: str = "cpu"
    scored: tuple[int, int] = (0, 0)
    groups: int = 1
    max_draft: int = 0
    max_guess: int = 0
    checked: bool = False

    @property
    def page_bytes(self) -> int:
        """Bytes of a page, keys and values of all layers."""
        return 2 * self.n_layers * self.block_size * self.n_kv_heads * self.head_dim * _ITEM_BYTES[self.dtype]

    @property
    def pages_per_seat(self) -> int:
        """Pages that hold `max_model_len` tokens."""
        return -(-self.max_model_len // self.block_size)


def kv_budget(context: int, budget: float, min_budget: int) -> int:
    """Return how many positions below the newest token a list may read, for `context` = c - 1 such positions."""
    share = -int(-budget * context // 1)
    return min(context, max(min_budget, share))
