"""Held against Python floats, one token at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsespec.core.errors import UnknownName
from sparsespec.kernels.append_kv.api import IMPLS, append_kv
from sparsespec.testing.checks.drawn_step import close
from sparsespec.testing.checks.plain_attention import norm_plainly, rotate_plainly

M = 12


def problem(seed: int, n: int, heads: tuple[int, int], head_dim: int, normed: bool, dtype: str) -> dict[str, Any]:
    generator, kind = torch.Generator().manual_seed(seed), getattr(torch, dtype)

    def real(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(kind)

    angle = torch.rand(M, head_dim // 2, generator=generator, dtype=torch.float64) * 6
    block_size = 1 + seed % 4
    dead = torch.rand(n, generator=generator) < 0.2
    slots = block_size + torch.randperm(20 * block_size, generator=generator)[:n]
    return {
        "q": real(n, heads[0], head_dim),
        "k": real(n, heads[1], head_dim),
        "v": real(n, heads[1], head_dim),
        "k_pages": torch.full((21, block_size, heads[1], head_dim), torch.nan, dtype=kind),
        "v_pages": torch.full((21, block_size, heads[1], head_dim), torch.nan, dtype=kind),
        "positions": torch.where(dead, 0, torch.randint(0, M, (n,), generator=generator)),
        "slots": torch.where(dead, 0, slots),
        "cos": angle.cos().to(kind),
        "sin": angle.sin().to(kind),
        "q_norm": real(head_dim) if normed else None,
        "k_norm": real(head_dim) if normed else None,
        "eps": 1e-5,
    }


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(0, 6),
    heads=st.sampled_from(((1, 1), (4, 2), (3, 1))),
    head_dim=st.sampled_from((2, 4, 8)),
    normed=st.booleans(),
)
def test_writes_rotated_keys_and_plain_values_and_returns_rotated_queries(
    impl: str, dtype: str, seed: int, n: int, heads: tuple[int, int], head_dim: int, normed: bool
) -> None:
    p = problem(seed, n, heads, head_dim, normed, dtype)
    got = append_kv(
        **{name: x.clone() if torch.is_tensor(x) and "pages" not in name else x for name, x in p.items()}, impl=impl
    )

    def plainly(x: torch.Tensor, i: int, head: int, weight: torch.Tensor | None) -> list[float]:
        w = None if weight is None else weight.double().tolist()
        t = int(p["positions"][i])
        cos, sin = p["cos"][t].double().tolist(), p["sin"][t].double().tolist()
        return rotate_plainly(norm_plainly(x[i, head].double().tolist(), w, p["eps"]), cos, sin)

    assert got.shape == p["q"].shape
    assert got.dtype == p["q"].dtype
    flat_k, flat_v = p["k_pages"].flatten(0, 1), p["v_pages"].flatten(0, 1)
    touched = torch.zeros(len(flat_k), dtype=torch.bool)
    for i in range(n):
        for head in range(heads[0]):
            assert close(got[i, head], plainly(p["q"], i, head, p["q_norm"]), dtype)
        slot = int(p["slots"][i])
        touched[slot] = True
        # dead tokens collide in page 0: which content stays there does not matter
        for head in range(heads[1] if slot else 0):
            assert close(flat_k[slot, head], plainly(p["k"], i, head, p["k_norm"]), dtype)
            assert torch.equal(flat_v[slot, head], p["v"][i, head])
    assert flat_k[~touched].isnan().all()
    assert flat_v[~touched].isnan().all()


def test_position_0_is_not_rotated() -> None:
    p = problem(3, 2, (1, 1), 4, False, "float64")
    p["positions"], p["slots"] = torch.zeros(2, dtype=torch.int64), torch.tensor([5, 9])
    p["cos"][0], p["sin"][0] = 1.0, 0.0
    assert torch.equal(append_kv(**p, impl="reference"), p["q"])


def test_an_unknown_implementation_raises() -> None:
    with pytest.raises(UnknownName, match="implementation of append_kv"):
        append_kv(**problem(0, 1, (1, 1), 2, False, "float32"), impl="cuda")
