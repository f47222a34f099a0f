"""What the Triton `append_kv` promises beside an error no larger than the reference's."""

from __future__ import annotations

from typing import Any

import torch

from sparsespec.kernels.append_kv import api
from sparsespec.testing.op_cases import kernel_ops
from sparsespec.testing.ops.bundles import copied
from tests.kernels.launched import DEVICE, WHERE, room

pytestmark = WHERE

room("append_kv")


def problem(seed: int, n: int, heads: tuple[int, int], head_dim: int) -> dict[str, Any]:
    sizes = {"n": n, "heads": heads, "head_dim": head_dim}
    return kernel_ops()["append_kv"].make(seed, dtype=torch.float32, device=DEVICE, **sizes)


def test_a_token_does_not_depend_on_its_neighbours() -> None:
    args = problem(4, 5, (9, 3), 64)
    together = api.append_kv(**copied(args), impl="triton")
    for i in range(5):
        one = {name: args[name][i : i + 1] for name in ("q", "k", "v", "positions", "slots")}
        assert torch.equal(api.append_kv(**copied(args | one), impl="triton")[0], together[i])


def test_a_slot_outside_the_pool_writes_nothing() -> None:
    args = problem(1, 3, (2, 1), 8)
    args["slots"] = torch.tensor([-1, args["k_pages"].shape[:2].numel(), 4], device=DEVICE)
    assert api.append_kv(**args, impl="triton").isfinite().all()
    assert int((~args["k_pages"].isnan()).sum()) == int((~args["v_pages"].isnan()).sum()) == 8
