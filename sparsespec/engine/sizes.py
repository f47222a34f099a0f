"""An engine's own options, and the geometry that follows from them and the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption, show
from sparsespec.engine.parts import Parts
from sparsespec.models.transformer import Transformer

DEFAULT_KV_BYTES = 2 << 30
"""Bytes of KV that an engine takes at most when `n_pages` is not given."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the engine itself.

    Attributes:
        max_batch: Requests that run at once.
        max_context: Tokens a request may hold; None is the model's limit.
        page_size: Tokens per KV page.
        n_pages: Pages of the KV pool; None is enough for all seats, but 2 GiB at most.
        seed: Seed from which requests without one get theirs.
        graphs: Record each shape of a round once, as a CUDA graph, and pad steps to such shapes; None does so where the
            model is on a GPU and all parts can be recorded. On a CPU True pads, and records nothing.
        exact: Compute every token alike, whatever is computed beside it: then drafts, neighbours and chunks change no
            bit of it in any float type, and tokens are those of an exact `dense` (with verifier `rejection` their law
            is). Takes Triton kernels for all ops.
        checked: Verify the parts' promises at run time, and poison fresh pages with NaN: slow, for tests.
    """

    max_batch: int = 8
    max_context: int | None = None
    page_size: int = 16
    n_pages: int | None = None
    seed: int = 0
    graphs: bool | None = None
    exact: bool = False
    checked: bool = False

    def __post_init__(self) -> None:
        # a context holds a prompt and an output, and page 0 belongs to nobody
        least = {"max_batch": 1, "page_size": 1, "max_context": 2, "n_pages": 2}
        for name, low in least.items():
            value = getattr(self, name)
            if value is None and name in ("max_context", "n_pages"):
                continue
            if not _is_whole(value) or value < low:
                raise BadOption(f"{name} is a whole number of {low} or more, got {show(value)}")
        if not _is_whole(self.seed):
            raise BadOption(f"seed is a whole number, got {show(self.seed)}")
        for name in ("exact", "checked"):
            if not isinstance(getattr(self, name), bool):
                raise BadOption(f"{name} is True or False, got {show(getattr(self, name))}")
        if not isinstance(self.graphs, bool | None):
            raise BadOption(f"graphs is True, False or None, got {show(self.graphs)}")


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def geometry_of(model: Transformer, parts: Parts, options: Options) -> Geometry:
    """Return the sizes that every part is bound to; raises `BadOption` where they cannot work."""
    config = model.config
    context = options.max_context or config.max_context
    if context > config.max_context:
        raise BadOption(f"max_context must be at most the model's {config.max_context} tokens, got {context}")
    blocks = -(-context // options.page_size)
    n_pages = options.n_pages
    if n_pages is None:
        token_bytes = 2 * config.n_layers * config.n_kv_heads * config.head_dim
        page_bytes = token_bytes * model.dtype.itemsize * options.page_size
        n_pages = 1 + min(options.max_batch * blocks, max(blocks, DEFAULT_KV_BYTES // page_bytes))
    return Geometry(
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        vocab=config.vocab,
        n_seats=options.max_batch,
        max_context=context,
        page_size=options.page_size,
        n_pages=n_pages,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        scored=parts.selector.scored,
        groups=parts.selector.lists(config.n_kv_heads),
        max_draft=parts.length.max_draft,
        max_guess=parts.length.max_guess,
        checked=options.checked,
    )
