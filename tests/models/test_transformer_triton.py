"""A model whose norms and gates are Triton kernels gives what the references give, within rounding."""

from __future__ import annotations

import pytest
import torch

from sparsespec.models.tiny import tiny
from tests.kernels.launched import DEVICE, WHERE, room
from tests.models.test_transformer import TOKENS, attend

pytestmark = WHERE

room("rms_norm")


def test_rows_are_close_to_those_of_the_references() -> None:
    model = tiny(n_layers=3, dtype="float32").to("float32", DEVICE)
    assert model.row_impl == ("triton" if DEVICE == "cuda" else "reference")
    model.row_impl = "triton"
    got = model.forward(TOKENS.to(DEVICE), attend)
    want = model.to("float64", "cpu").forward(TOKENS, attend)
    torch.testing.assert_close(got.cpu().double(), want, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
def test_a_captured_forward_follows_its_tokens() -> None:
    model = tiny(n_layers=3, dtype="float32").to("bfloat16", DEVICE)
    tokens = TOKENS.to(DEVICE)
    model.forward(tokens, attend)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = model.forward(tokens, attend)
    tokens += 1
    graph.replay()
    assert torch.equal(got, model.forward(tokens, attend))
