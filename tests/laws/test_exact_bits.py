"""An exact engine gives a token the same bits, whether it was read with a prompt, drafted and verified, or decoded.

Tokens of small models part too rarely to show much: what is compared is the whole cache of a request, in all layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Phase
from sparsespec.engine.engine import Engine
from sparsespec.kernels.linear.api import linear
from sparsespec.models import transformer
from sparsespec.models.tiny import tiny
from tests.engine.running import greedy, prompt_of, sampled, small
from tests.kernels.launched import DEVICE, WHERE, room

pytestmark = WHERE

room("linear")
PROMPT = 40
SAID = 12
"""Tokens of a prompt, and of its output, whose keys and values are compared."""
DTYPES = ("float32", "float16", "bfloat16") if DEVICE == "cuda" else ("float16",)
COMPANY: dict[str, dict[str, Any]] = {
    "sparsespec": {"scheduler": "staggered(chunk=16)"},
    "triforce": {"scheduler": "lockstep(chunk=7)"},
    "ngram": {"loop": "resident"},
}


@pytest.fixture(autouse=True)
def rounds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter sum a step's products like a tensor core: NumPy's order depends on the height of a tile."""
    if DEVICE == "cuda":
        return
    from triton.runtime import interpreter

    def dot(self: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
        exact = np.matmul(a.data, b.data, dtype=np.float64)
        return interpreter.TensorHandle((exact + d.data).astype(d.data.dtype), d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)


def cached(
    dtype: str,
    name: str,
    *,
    company: bool,
    prompt_len: int = PROMPT,
    sizes: dict[str, int] | None = None,
    **changes: Any,
) -> tuple[Tensor, int]:
    """Return keys and values [2, L, n, Hkv, D] of a prompt and its output, and how many drafts were rejected."""
    model = tiny(hidden=64, intermediate=96, dtype="float32", **(sizes or {"head_dim": 16})).to(dtype, DEVICE)
    spec = small(name).replace(attention="triton", **changes)
    engine = Engine.compose(model, spec.replace(engine={**spec.engine, "exact": True, "checked": False}))
    engine.add(prompt_of(prompt_len, 1), greedy(SAID + 9))
    for j in range(2 if company else 0):
        engine.add(prompt_of(prompt_len // 2 + 13 * j, j), sampled(40, seed=j))
    rejected, n = 0, prompt_len + SAID
    # found by its prompt: seats are the engine's business
    prompt = torch.tensor(prompt_of(prompt_len, 1), device=DEVICE)
    while engine.has_work:
        result = engine.step()
        rejected += sum(row.n_candidates - row.n_accepted for row in result.info.collected if row.phase is Phase.VERIFY)
        state, pool = engine._executor._state, engine._pool
        for seat in (state.n_committed > n).nonzero().flatten().tolist():
            if torch.equal(state.tokens[seat, :prompt_len], prompt):
                at = torch.arange(n, device=DEVICE)
                size = engine.geometry.block_size
                slots = state.table[seat, at // size] * size + at % size
                return torch.stack([x.flatten(1, 2)[:, slots] for x in (pool.k, pool.v)]), rejected
    raise AssertionError("the request ended before its tokens were there")


def test_an_exact_engine_wants_attention_that_is() -> None:
    model = tiny(dtype="float32").to("float32", DEVICE)
    with pytest.raises(BadOption, match="which attention 'reference' does not provide; use an attention .*: triton$"):
        Engine.compose(model, "dense", exact=True, attention="reference")


@pytest.fixture(scope="module")
def alone() -> Callable[[str], Tensor]:
    return cache(lambda dtype: cached(dtype, "dense", company=False)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", COMPANY)
def test_the_cache_is_that_of_dense_decoding_alone(name: str, dtype: str, alone: Callable[[str], Tensor]) -> None:
    among, rejected = cached(dtype, name, company=True, **COMPANY[name])
    assert torch.equal(among, alone(dtype))
    assert rejected


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_long_prompts_high_tiles_and_scores_change_no_bit(head_dim: int, dtype: str) -> None:
    """Contexts of several splits, rows in tiles of every height, scored and not, as at a model's real sizes."""
    sizes = {"head_dim": head_dim, "n_heads": 8, "max_model_len": 4096}
    alone, _ = cached(dtype, "dense", company=False, prompt_len=2300, sizes=sizes)
    changes = {"length": "fixed(draft=8)", "scheduler": "staggered(chunk=600)"}
    among, rejected = cached(dtype, "sparsespec", company=True, prompt_len=2300, sizes=sizes, **changes)
    assert torch.equal(among, alone)
    assert rejected


def test_products_that_depend_on_their_number_of_rows_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def mutant(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, impl: str) -> Tensor:
        return linear(x.flip(1), weight.flip(1), bias, impl=impl) if len(x) > 4 else linear(x, weight, bias, impl=impl)

    monkeypatch.setattr(transformer, "linear", mutant)
    alone, _ = cached("float32", "dense", company=False)
    among, _ = cached("float32", "sparsespec", company=True)
    assert not torch.equal(among, alone)
    torch.testing.assert_close(among, alone, atol=1e-3, rtol=1e-3)
