"""Held against the reference in float64, with the error that the reference makes in the same dtype as the measure."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsespec.core.errors import BadOption, MissingPackage, UnknownName
from sparsespec.kernels.append_kv import api, reference
from tests.kernels.launched import DEVICE, WHERE, launched, mutant, room

pytestmark = WHERE

ours = room("append_kv")

MAX_POSITION = 32
SLACK = 2.0
"""How much larger than the reference's an error may be: the order of a sum is free, and a rounding may fall badly."""


def problem(
    seed: int,
    n: int,
    heads: tuple[int, int],
    head_dim: int,
    *,
    normed: bool = True,
    dtype: torch.dtype = torch.float32,
    block_size: int = 4,
) -> dict[str, Any]:
    """Return arguments of `append_kv` on the CPU; q, k and v are views of one projection, pages hold NaN."""
    generator = torch.Generator().manual_seed(seed)
    (n_q, n_kv), pages = heads, 2 + 2 * n // block_size + 1
    real = lambda *shape: torch.randn(shape, generator=generator).to(dtype)  # noqa: E731
    parts = (n_q * head_dim, n_kv * head_dim, n_kv * head_dim)
    q, k, v = (x.unflatten(-1, (-1, head_dim)) for x in real(n, sum(parts)).split(parts, -1))
    angle = 6 * torch.rand(MAX_POSITION, head_dim // 2, generator=generator)
    dead = torch.rand(n, generator=generator) < 0.2
    slots = block_size + torch.randperm((pages - 1) * block_size, generator=generator)[:n]
    return {
        "q": q,
        "k": k,
        "v": v,
        "k_pages": torch.full((pages, block_size, n_kv, head_dim), torch.nan, dtype=dtype),
        "v_pages": torch.full((pages, block_size, n_kv, head_dim), torch.nan, dtype=dtype),
        "positions": torch.where(dead, 0, torch.randint(0, MAX_POSITION, (n,), generator=generator)),
        "slots": torch.where(dead, 0, slots),
        "cos": angle.cos().to(dtype),
        "sin": angle.sin().to(dtype),
        "q_norm": real(head_dim) if normed else None,
        "k_norm": real(head_dim) if normed else None,
        "eps": 1e-6,
    }


def on(p: dict[str, Any], device: str, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Return a problem elsewhere, or with its numbers in another dtype; pages are copies."""

    def moved(x: Any) -> Any:
        if not torch.is_tensor(x):
            return x
        # whole storages move, so that views stay views of one projection
        if not x.is_contiguous() and dtype is None:
            base = x._base.to(device)
            return base.as_strided(x.shape, x.stride(), x.storage_offset())
        return x.to(device, dtype if dtype and x.is_floating_point() else x.dtype, copy=True)

    return {name: moved(x) for name, x in p.items()}


def truth(p: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k_pages and v_pages as float64 gives them; page 0 is not compared."""
    exact = on(p, "cpu", torch.float64)
    q = reference.append_kv(**exact)
    return q, exact["k_pages"][1:], exact["v_pages"][1:]


def error(got: Tensor, want: Tensor) -> float:
    """Return the largest error of a number, as a share of the largest number of its head; NaN must meet NaN."""
    assert torch.equal(got.isnan().cpu(), want.isnan())
    if not want.numel():
        return 0.0
    largest = want.nan_to_num().abs().amax(-1, keepdim=True).clamp(min=1e-30)
    return float(((got.cpu().double() - want).nan_to_num().abs() / largest).max())


@cache
def allowed(dtype: torch.dtype) -> float:
    """Return the error allowed in `dtype`: `SLACK` times the reference's own, measured on one fixed problem."""
    p = problem(0, 64, (8, 4), 64, dtype=dtype)
    low = on(p, "cpu")
    q, k_pages, _ = truth(p)
    measured = max(error(reference.append_kv(**low), q), error(low["k_pages"][1:], k_pages))
    # a number can always be half a unit in the last place away from its truth
    return SLACK * max(measured, torch.finfo(dtype).eps / 2)


def check(p: dict[str, Any], module: ModuleType | None = None) -> bool:
    """Return whether the kernel's results are within the allowed error; with a module, a mutant's."""
    q, k_pages, v_pages = truth(p)
    here = on(p, DEVICE)
    if module:
        got = module.append_kv(**here)
    else:
        with launched(ours, "_append_kv", api):
            got = api.append_kv(**here, impl="triton")
    assert got.shape == q.shape and got.dtype == p["q"].dtype and got.is_contiguous()
    if not torch.equal(here["k_pages"][1:].isnan().cpu(), k_pages.isnan()):
        return False
    assert got.isfinite().all()
    kept = torch.equal(here["v_pages"][1:].cpu().double().nan_to_num(), v_pages.nan_to_num())
    limit = allowed(p["q"].dtype)
    return kept and error(got, q) <= limit and error(here["k_pages"][1:], k_pages) <= limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 4),
    heads=st.sampled_from(((1, 1), (4, 2), (9, 1), (9, 3))),
    head_dim=st.sampled_from((2, 6, 8, 64)),
    normed=st.booleans(),
    block_size=st.sampled_from((1, 3, 16)),
)
def test_errs_no_more_than_the_reference(
    dtype: torch.dtype, seed: int, n: int, heads: tuple[int, int], head_dim: int, normed: bool, block_size: int
) -> None:
    assert check(problem(seed, n, heads, head_dim, normed=normed, dtype=dtype, block_size=block_size))


def test_no_token_is_no_launch() -> None:
    p = on(problem(0, 0, (2, 1), 8), DEVICE)
    assert api.append_kv(**p, impl="triton").shape == (0, 2, 8)


def test_a_token_does_not_depend_on_its_neighbours() -> None:
    p = problem(4, 5, (9, 3), 64)
    together = api.append_kv(**on(p, DEVICE), impl="triton")
    for i in range(5):
        alone = {name: p[name][i : i + 1] for name in ("q", "k", "v", "positions", "slots")}
        one = {name: x.contiguous() for name, x in alone.items()}
        assert torch.equal(api.append_kv(**on(p | one, DEVICE), impl="triton")[0], together[i])


def test_a_slot_outside_the_pool_writes_nothing() -> None:
    p = problem(1, 3, (2, 1), 8)
    p["slots"] = torch.tensor([-1, p["k_pages"].shape[0] * p["k_pages"].shape[1], 4])
    p = on(p, DEVICE)
    assert api.append_kv(**p, impl="triton").isfinite().all()
    assert int((~p["k_pages"].isnan()).sum()) == int((~p["v_pages"].isnan()).sum()) == 8


MUTANTS = {
    "rotated the wrong way": ("b * cos + a * sin", "b * cos - a * sin"),
    "mean over half of the head": ("/ (2 * HALF)", "/ HALF"),
    "first token of the page": ("slot // block_size, slot % block_size", "slot // block_size, slot * 0"),
    "angle of position 0": ("cos + position * angle", "cos + 0 * position * angle"),
    "one norm for both": ("c, s, k_norm, i", "c, s, q_norm, i"),
    "rotated by the position before": ("tl.load(positions + token)", "tl.maximum(tl.load(positions + token) - 1, 0)"),
    "dead queries write a live slot": ("slot = tl.load(slots + token)", "slot = tl.maximum(tl.load(slots + token), 5)"),
}


@pytest.mark.parametrize("name", [None, *MUTANTS])
def test_mutants_run_and_are_caught(name: str | None, tmp_path: Path) -> None:
    module = mutant(ours, tmp_path, MUTANTS[name]) if name else ours
    good = []
    for seed in range(3):
        p = problem(seed, 3, (4, 2), 8)
        # one query is dead, the others stand behind position 0 and away from slot 5
        p["slots"], p["positions"] = torch.tensor([0, 11, 6]), torch.tensor([0, 9, 20])
        good.append(check(p, module))
    assert all(good) if name is None else not any(good)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("q", lambda x: x.double(), "k must be torch.float64"),
        ("k", lambda x: x.half(), "k must be torch.float32"),
        ("v", lambda x: x[:, :, :4], "k and v must both be"),
        ("v", lambda x: x.transpose(0, 2).contiguous().transpose(0, 2), "v must be contiguous along the head"),
        ("k_pages", lambda x: x[:, :, :, :4], "k_pages must be"),
        ("q", lambda x: x[0], r"q must be \[N, Hq, D\]"),
        ("k", lambda x: x[0], "k and v must both be"),
        ("k_pages", lambda x: x[0], "k_pages must be"),
        ("v_pages", lambda x: x.half(), "v_pages must be torch.float32"),
        ("v_pages", lambda x: x.to("meta"), "v_pages must be torch.float32 on .* got torch.float32 on meta"),
        ("slots", lambda x: x.int(), "slots must be int64"),
        ("slots", lambda x: x.repeat_interleave(2)[::2], "slots must be contiguous"),
        ("slots", lambda x: x.to("meta"), "slots must be int64 on"),
        ("positions", lambda x: x[:1], "positions must be"),
        ("sin", lambda x: x[:, :1], "sin must be"),
        ("cos", lambda x: x.to("meta"), "cos must be floats on"),
        ("cos", lambda x: x.repeat_interleave(2, 1)[:, ::2], "cos and sin must have rows alike"),
        ("q_norm", lambda x: x.int(), "q_norm must be floats"),
        ("q_norm", lambda x: x.repeat_interleave(2)[::2], "q_norm must be contiguous"),
        ("k_norm", lambda _: None, "both be given or both be None"),
        ("k_norm", lambda x: x[:4], "k_norm must be"),
    ],
)
def test_bad_input_is_named(name: str, change: Any, message: str) -> None:
    p = on(problem(0, 2, (2, 1), 8), DEVICE)
    p[name] = change(p[name])
    with pytest.raises(BadOption, match=message):
        api.append_kv(**p, impl="triton")


def test_a_float_type_that_the_kernel_does_not_take_is_named() -> None:
    with pytest.raises(BadOption, match="takes q of float32"):
        api.append_kv(**on(problem(0, 2, (2, 1), 8), DEVICE, torch.float64), impl="triton")


@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("slots", [4, 10**6], "slots must be in 0 … .* got 1000000"),
        ("slots", [-1, 4], "slots must be in 0 … .* got -1"),
        ("positions", [MAX_POSITION, 0], f"positions must be in 0 … {MAX_POSITION - 1}, got {MAX_POSITION}"),
    ],
)
def test_where_checked_an_index_out_of_range_is_named(name: str, values: list[int], message: str, impl: str) -> None:
    p = problem(0, 2, (2, 1), 8)
    p[name] = torch.tensor(values)
    p = on(p, DEVICE)
    with pytest.raises(BadOption, match=message):
        api.append_kv(**p, impl=impl, checked=True)
    assert p["k_pages"].isnan().all(), "nothing is written before the check"


def test_where_checked_what_is_in_range_passes() -> None:
    p = on(problem(0, 3, (2, 1), 8), DEVICE)
    free = {**p, "k_pages": p["k_pages"].clone(), "v_pages": p["v_pages"].clone()}
    assert torch.equal(api.append_kv(**p, impl="triton", checked=True), api.append_kv(**free, impl="triton"))


def test_unknown_and_missing_implementations_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(0, 1, (1, 1), 2)
    with pytest.raises(UnknownName, match="did you mean 'triton'"):
        api.append_kv(**p, impl="tritom")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "sparsespec.kernels.append_kv.triton")
    monkeypatch.delattr("sparsespec.kernels.append_kv.triton")
    with pytest.raises(MissingPackage, match=r"pip install 'sparsespec\[triton\]'"):
        api.append_kv(**p, impl="triton")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("heads", "head_dim"), [((32, 8), 128), ((9, 3), 64), ((16, 1), 256)])
@pytest.mark.parametrize("normed", [True, False])
def test_real_sizes(heads: tuple[int, int], head_dim: int, dtype: torch.dtype, normed: bool) -> None:
    assert check(problem(7, 300, heads, head_dim, normed=normed, dtype=dtype, block_size=16))


@pytest.mark.gpu
def test_a_captured_launch_follows_its_inputs() -> None:
    p = on(problem(0, 9, (4, 2), 64, dtype=torch.bfloat16), DEVICE)
    api.append_kv(**p, impl="triton")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = api.append_kv(**p, impl="triton")
    for seed in (1, 2):
        fresh = on(problem(seed, 9, (4, 2), 64, dtype=torch.bfloat16), DEVICE)
        for name in ("q", "k", "v", "positions", "slots"):
            p[name].copy_(fresh[name])
        p["k_pages"].fill_(torch.nan)
        graph.replay()
        again = {**p, "k_pages": torch.full_like(p["k_pages"], torch.nan)}
        assert torch.equal(got, api.append_kv(**again, impl="triton"))
        assert torch.equal(p["k_pages"][1:].nan_to_num(), again["k_pages"][1:].nan_to_num())
