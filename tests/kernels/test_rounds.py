"""The random steps that the ops around a forward are tried on hold every kind of row, and what no step shows."""

from __future__ import annotations

import pytest
import torch

from sparsespec.core.plan import Phase
from sparsespec.kernels.lay_out import api as lay_out
from sparsespec.kernels.settle import reference as settle
from sparsespec.kernels.verify_inputs import api as verify_inputs
from sparsespec.testing.op_cases import kernel_ops
from sparsespec.testing.ops.bundles import copied
from sparsespec.testing.ops.step import CONTEXT, PAGE, WIDTH, batch_of, laid_out, random_step, with_guesses
from tests.kernels.launched import DEVICE, WHERE, room

OPS = kernel_ops()
ON_CPU = {"dtype": torch.float32, "device": "cpu"}


def test_random_steps_hold_every_kind_of_row() -> None:
    seen = set()
    for seed in range(20):
        step = random_step(seed, 9)
        laid = lay_out.lay_out_rows(step.packed, step.state, impl="reference")
        batch = with_guesses(batch_of(step, laid), laid.room, seed)
        tokens = lay_out.lay_out_tokens(batch, step.n_tokens, PAGE, impl="reference")
        _, phase, n_query, k = step.packed[:4]
        live, draft = laid.live, phase == Phase.DRAFT
        seen |= {"idle"} if (n_query == 0).any() else set()
        seen |= {"dead draft"} if (draft & (live == 0)).any() else set()
        seen |= {"guesses"} if (laid.room > 0)[draft].any() else set()
        seen |= {"guesses to verify"} if (laid.room > 0)[(phase == Phase.VERIFY) & (k == 0)].any() else set()
        seen |= {"dead queries"} if (live < n_query)[phase == Phase.VERIFY].any() else set()
        seen |= {"padding"} if step.n_tokens > n_query.sum() else set()
        seen |= {"holes"} if (step.state.table == 0).any() else set()
        assert (tokens.positions < CONTEXT).all() and (tokens.slots[~tokens.alive] == 0).all()
        assert (tokens.slots[tokens.alive] >= PAGE).all()
    assert len(seen) == 7


def test_random_ends_of_rounds_hold_every_kind_of_row() -> None:
    seen = set()
    for seed in range(20):
        args = OPS["settle"].make(seed, n_rows=9, **ON_CPU)
        batch, judged, verified = args["batch"], args["judged"], args["verified"]
        phase, before = batch.phase, batch.state.ended[batch.seat]
        report = settle.settle(**args)[0]
        draft, rejected = phase == Phase.DRAFT, verified.accepted < judged.count
        seen |= {"ends here"} if (draft & (report[:, 5] == 1) & ~before).any() else set()
        seen |= {"ended before"} if (draft & (verified.emitted == 0) & before).any() else set()
        seen |= {"opens again"} if ((phase == Phase.VERIFY) & before & (report[:, 5] == 0)).any() else set()
        seen |= {"rolled back"} if rejected.any() else set()
        seen |= {"all accepted"} if ((judged.count > 1) & ~rejected).any() else set()
        seen |= {"broken"} if (report[:, 6] == 0).any() else set()
        confidence = report[:, 7:8].contiguous().view(torch.float64)[:, 0]
        assert (confidence.isnan() == ~(draft & (batch.live > 0))).all()
    assert len(seen) == 6


@pytest.mark.parametrize("impl", ["reference", pytest.param("triton", marks=WHERE)])
def test_what_another_verifier_says_settles_too(impl: str) -> None:
    args = OPS["settle"].make(5, n_rows=9, dtype=torch.float32, device="cpu" if impl == "reference" else DEVICE)
    verified = args["verified"]
    # whatever lies behind what was emitted, it is reported and not written
    behind = torch.arange(WIDTH, device=verified.tokens.device) >= verified.emitted[:, None]
    args["verified"] = verified._replace(tokens=verified.tokens.masked_fill(behind, -9))
    if impl == "triton":
        room("settle")
    given = copied(args)
    returned = OPS["settle"].call(OPS["settle"].function(impl), args)
    assert all(one.is_right for one in OPS["settle"].compare(given, returned, args))
    assert (args["batch"].state.tokens >= 0).all()


@WHERE
def test_nothing_is_no_launch() -> None:
    room("lay_out"), room("verify_inputs")
    step = copied(random_step(3, 5), DEVICE)
    none = lay_out.lay_out_rows(step.packed[:, :0].contiguous(), step.state, impl="triton")
    assert none.start.shape == (0,)
    batch = laid_out(random_step(3, 5), 0)
    assert lay_out.lay_out_tokens(copied(batch, DEVICE), 0, PAGE, impl="triton").tokens.shape == (0,)
    rows = verify_inputs.verify_inputs(copied(batch, DEVICE), WIDTH, impl="triton")
    assert verify_inputs.per_logit_row(rows, 0, impl="triton").row.shape == (0,)
