"""The cases of a GPU, on a CPU and small: their checks are green and see what is off, and so do those of peers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.kernels import cache, case, peers
from bench.kernels.cache import Attention, Shape, append_kv, copy_pages, drafting, top_positions, verifying
from bench.kernels.case import OnGpu, Ready, error
from bench.kernels.table import cases
from sparsespec.testing.ops.rows import ADD_RMS_NORM, LINEAR, SILU_MUL

SMALL = Shape("small", 2, 6, 3, 16)
VERIFY, DRAFT = verifying(40, 5, scored=True), drafting(40, 7)
OPS: dict[str, Callable[[], Ready]] = {
    "attention, verify": Attention(SMALL, (VERIFY,) * 3),
    "attention, decode": Attention(SMALL, (verifying(40, 1),) * 3),
    "attention, sparse": Attention(SMALL, (DRAFT,) * 3, 3),
    "attention, mixed": Attention(SMALL, (VERIFY, DRAFT, DRAFT)),
    "top_positions": top_positions(SMALL, 2, 1, 50, 9),
    "append_kv": append_kv(SMALL, 9),
    "copy_pages": copy_pages(SMALL, 3),
    "add_rms_norm": OnGpu(ADD_RMS_NORM, {"lead": (3,), "width": 9}, peers=peers.add_rms_norm),
    "silu_mul": OnGpu(SILU_MUL, {"lead": (3,), "width": 9}, peers=peers.silu_mul),
    "linear": OnGpu(LINEAR, {"m": 5, "n": 7, "k": 16}, peers=peers.cublas),
}


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case, "DEVICE", "cpu")
    monkeypatch.setattr(case, "buffers_for", lambda n_bytes: 2)
    monkeypatch.setattr(peers, "MODULE", "no_such_module")


def off_by_some(x: Any) -> Any:
    if isinstance(x, tuple):
        return type(x)(*map(off_by_some, x)) if hasattr(x, "_fields") else tuple(map(off_by_some, x))
    if x is None:
        return None
    return x + 1 if x.dtype == torch.int64 else 1.05 * x


@pytest.mark.parametrize("name", OPS)
def test_a_check_is_green_and_sees_a_result_that_is_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = OPS[name]()
    assert (ready.check(), len(ready.calls)) == ("", 2)
    assert ready.bytes > 0
    right = ready.calls[0]

    def wrong() -> Any:
        got = right()
        if got is None:
            pages = right.args[1]  # type: ignore[attr-defined]
            pages[:, 0] = pages[:, 0] + 1
        return off_by_some(got)

    ready.calls[0] = wrong
    assert ready.check() != ""


def test_what_append_kv_writes_is_looked_at() -> None:
    ready = OPS["append_kv"]()
    right = ready.calls[0]

    def wrong() -> Any:
        got = right()
        right.args[4].mul_(1.05)  # type: ignore[attr-defined]
        return got

    ready.calls[0] = wrong
    assert ready.check().startswith("v_pages errs by")


def test_no_page_is_copied_twice_or_written_twice() -> None:
    pairs = OPS["copy_pages"]().calls[0].args[2]  # type: ignore[attr-defined]
    assert [sorted(column) for column in pairs.T.tolist()] == [[0, 1, 2]] * 2


def test_bytes_of_attention_are_those_that_must_be_moved() -> None:
    token, query = 2 * 2 * 3 * 16, 6 * (4 * 16 + 4)
    assert OPS["attention, decode"]().bytes == 3 * (40 * token + query)
    assert OPS["attention, verify"]().bytes == 3 * (40 * token + 5 * query + 4 * 40)
    assert OPS["attention, sparse"]().bytes == 3 * (8 * token + query)


def test_a_given_kernel_is_timed_and_the_project_s_is_its_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def kernel(q: Any, k_pages: Any, v_pages: Any, rows: Any, *, scale: float, chosen: Any) -> Any:
        seen.append({"called"})
        return cache.ATTENTION.api.attention(q, k_pages, v_pages, rows, scale=scale, chosen=chosen, impl="reference")

    ready = Attention(SMALL, (VERIFY,) * 2, kernel=kernel)()
    assert ready.check() == ""
    assert seen
    (ours,) = ready.peers.values()
    assert ready.agrees(ours()[0]())
    without_scores = functools.partial(lambda *args, **how: kernel(*args, **how)._replace(scores=None))
    assert Attention(SMALL, (VERIFY,) * 2, kernel=without_scores)().check() == "it gives no scores"
    assert {one.op for one in cases(kernel=kernel)} == {"attention"}
    assert all(one.ratio is None for one in cases(kernel=kernel))


def test_cublas_stands_beside_products_and_another_result_is_told_from_it() -> None:
    ready = OPS["linear"]()
    (build,) = ready.peers.values()
    got = build()[0]()
    assert ready.agrees(got)
    assert not ready.agrees(got + 1)


def test_peers_of_lists_are_compared_by_value() -> None:
    ready = OPS["top_positions"]()
    scores = ready.calls[0].args[0]  # type: ignore[attr-defined]
    values, places = scores.flatten(0, 2).topk(9)
    assert ready.agrees((values.flip(-1), places))
    assert not ready.agrees((values + 0.1, places))


@pytest.mark.parametrize("name", ["attention, verify", "attention, decode", "attention, sparse"])
def test_flashinfer_s_wrappers_are_given_the_same_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MODULE", "tests.attention.fake_flashinfer")
    ready = OPS[name]()
    (build,) = ready.peers.values()
    first, second = (call() for call in build())
    assert ready.agrees(first)
    assert not ready.agrees(second)


def test_an_error_is_relative_and_nan_is_infinitely_far() -> None:
    want = torch.tensor([3.0, 4.0, torch.nan])
    assert error(want, want) == 0
    assert error(want + torch.tensor([0.0, 0.5, 0.0]), want) == pytest.approx(0.1)
    assert error(want.nan_to_num(0.0), want) == float("inf")


def test_without_flashinfer_nothing_is_beside_an_op() -> None:
    for name in ("attention, decode", "top_positions", "add_rms_norm", "silu_mul"):
        assert OPS[name]().peers == {}
