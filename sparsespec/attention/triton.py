"""Attention backend `triton`: the same composition as `reference`, planned on the device and run by Triton kernels.

A step is planned once; each layer is an append, one attention launch per kind of row, and the folding of what was
split. The host reads nothing back, so a step can be recorded in a CUDA graph. Buffers are static until a larger step
comes, and outgrown ones are kept, because what was recorded reads and writes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsespec.attention.step import Bound, Step
from sparsespec.core.batch import Batch
from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption, MissingPackage
from sparsespec.core.protocols import AttentionSide, Selection

if TYPE_CHECKING:
    from sparsespec.kernels.attention.triton import Work


class TritonAttention:
    """For a GPU; in the Triton interpreter it runs on a CPU, slowly, in float32 and float16."""

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset({"scores", "step_query", "capturable", "batch_invariant"})

    def bind(self, geometry: Geometry, model: AttentionSide, k_pages: Tensor, v_pages: Tensor) -> None:
        """Take the model's rotary tables and norms, and the pool."""
        self._kernels = _kernels(k_pages.device)
        self._kernels.check(k_pages[0], geometry.n_heads, geometry.scored)
        self._bound = Bound(geometry, model, k_pages, v_pages)
        g, group = geometry, geometry.n_heads // geometry.n_kv_heads
        # of rows that decode, in steps without a selection and with one; bits do not depend on it
        widths = (1 + g.max_guess, 1 + max(g.max_draft, g.max_guess))
        self._tilings = [self._kernels.tiling_for(k_pages.dtype, g.head_dim, width * group) for width in widths]
        self._works: list[Work | None] = [None, None]
        self._work: Work | None = None
        self._outgrown: list[Work] = []
        self._scores: Tensor | None = None

    def plan(self, batch: Batch, choice: Selection | None) -> None:
        """Make the step's work list on the device."""
        g = self._bound.geometry
        self._step = Step(self._bound, batch, choice)
        rows, n_tokens, kind = self._step.rows, batch.tokens.shape[0], int(choice is not None)
        work = self._works[kind]
        if work is None or not work.holds(rows, n_tokens):
            self._outgrown += [] if work is None else [work]
            work = self._kernels.work_for(
                self._bound.k_pages[0],
                g.n_heads,
                rows,
                n_tokens,
                n_rows=g.n_seats,
                tiling=self._tilings[kind],
                like=work,
            )
            self._works[kind] = work
        self._work = work
        work.fill(rows, n_tokens)
        if work.scores is not None:
            if self._scores is None:
                shape = (g.n_layers, *work.scores.shape)
                self._scores = torch.zeros(shape, dtype=torch.float32, device=batch.seat.device)
            self._scores.zero_()

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append k and v to the cache and return the attention of q; dead queries give 0."""
        assert self._work is not None, "plan comes before run"
        bound, step = self._bound, self._step
        q, chosen = step.begin(layer, q, k, v, ask=True, impl="triton")
        k_pages, v_pages = bound.k_pages[layer], bound.v_pages[layer]
        into = None if self._scores is None or self._work.scores is None else self._scores[layer]
        scale = bound.geometry.head_dim**-0.5
        out, _, scores = self._kernels.run(
            q, k_pages, v_pages, step.rows, self._work, scale=scale, chosen=chosen, into=into
        )
        step.see(layer, None if scores is None else scores[:, :, : bound.geometry.max_model_len])
        return out

    def read(self) -> Tensor:
        """Return how many KV tokens each row of the step read, mean over layers, [B] float64."""
        return self._step.read()


def _kernels(device: torch.device):
    """Return the kernels; raise where they cannot run."""
    try:
        from sparsespec.kernels.attention import triton as kernels
    except ImportError as error:
        raise MissingPackage(
            "attention 'triton' needs: pip install 'sparsespec[triton]'; attention='reference' needs nothing"
        ) from error
    if device.type != "cuda" and not kernels.INTERPRETED:
        raise BadOption(
            f"attention 'triton' needs a CUDA device, got {device.type!r}; use attention='reference', or set "
            "TRITON_INTERPRET=1 before triton is imported, and have it interpreted, slowly"
        )
    return kernels
