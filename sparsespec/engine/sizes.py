"""An engine's own options, and the sizes that follow from them, the model and the parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption, show
from sparsespec.engine.parts import Parts
from sparsespec.models.transformer import Transformer

DEFAULT_KV_BYTES = 2 << 30
"""Bytes of KV that an engine takes at most when `num_gpu_blocks` is not given."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the engine itself.

    Attributes:
        max_num_seqs: Requests that run at once.
        max_model_len: Tokens a request may hold; None is the model's limit.
        block_size: Tokens per KV page.
        num_gpu_blocks: Pages of the KV pool; None is enough for all seats, but 2 GiB at most.
        seed: Seed from which requests without one get theirs.
        graphs: Record steps as CUDA graphs, one per shape, and pad steps to these shapes; None does so where the model
            is on a GPU and all parts can be recorded. On a CPU True pads, and records nothing.
        exact: Give a token the same bits whatever is computed beside it: drafts, other requests and chunks then change
            no output in any float type, and tokens are those of an exact `dense` (with verifier `rejection`, their
            distribution is). Needs the Triton kernels of all ops.
        checked: Check the parts' promises in every step, and fill fresh pages with NaN: slow, for tests.
    """

    max_num_seqs: int = 8
    max_model_len: int | None = None
    block_size: int = 16
    num_gpu_blocks: int | None = None
    seed: int = 0
    graphs: bool | None = None
    exact: bool = False
    checked: bool = False

    def __post_init__(self) -> None:
        # a request has a prompt and an output, and page 0 is never handed out
        least = {"max_num_seqs": 1, "block_size": 1, "max_model_len": 2, "num_gpu_blocks": 2}
        for name, low in least.items():
            value = getattr(self, name)
            if value is None and name in ("max_model_len", "num_gpu_blocks"):
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
    context = options.max_model_len or config.max_model_len
    if context > config.max_model_len:
        raise BadOption(f"max_model_len must be at most the model's {config.max_model_len} tokens, got {context}")
    blocks = -(-context // options.block_size)
    n_pages = options.num_gpu_blocks
    if n_pages is None:
        token_bytes = 2 * config.n_layers * config.n_kv_heads * config.head_dim
        page_bytes = token_bytes * model.dtype.itemsize * options.block_size
        n_pages = 1 + min(options.max_num_seqs * blocks, max(blocks, DEFAULT_KV_BYTES // page_bytes))
    return Geometry(
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        vocab=config.vocab,
        n_seats=options.max_num_seqs,
        max_model_len=context,
        block_size=options.block_size,
        num_gpu_blocks=n_pages,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        scored=parts.selector.scored,
        groups=parts.selector.num_groups(config.n_kv_heads),
        max_draft=parts.length.max_draft,
        max_guess=parts.length.max_guess,
        checked=options.checked,
    )
