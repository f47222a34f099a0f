"""Cross-checks against FlashInfer, on a GPU where it is installed: which is wrong where two implementations differ?

Neither is the other's oracle: what the ops mean is said by their references.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsespec.kernels.sample.api import process, sample
from sparsespec.kernels.top_positions.api import top_positions

pytestmark = pytest.mark.gpu
VOCAB = 151_936


@pytest.fixture
def flashinfer() -> Any:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    pytest.importorskip("flashinfer")
    return importlib.import_module("flashinfer")


def logits_of(rows: int, vocab: int, seed: int) -> Tensor:
    return 4 * torch.randn(rows, vocab, device="cuda", generator=torch.Generator("cuda").manual_seed(seed))


def column(value: float, n: int) -> Tensor:
    return torch.full((n,), value, device="cuda", dtype=torch.int64 if isinstance(value, int) else torch.float64)


@pytest.mark.parametrize(("length", "k"), [(1024, 51), (8192, 410), (8192, 8192), (33_000, 3300)])
def test_the_best_scores_are_the_same(flashinfer: Any, length: int, k: int) -> None:
    scores = torch.rand(2, 3, 4, length, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    ours = top_positions(scores, column(length, 4), column(k, 4), k, impl="triton")
    values, _ = flashinfer.top_k(scores.flatten(0, 2), k)
    # by value, in no order: among equal scores a peer may choose others
    got = scores.gather(-1, ours.long()).flatten(0, 2).sort(-1).values
    assert torch.equal(got, values.sort(-1).values)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.65, 20, 1.0), (1.5, 0, 0.9), (0.8, 20, 0.95), (0.3, 50, 0.5)]
)
def test_filtered_probabilities_are_the_same(flashinfer: Any, temperature: float, top_k: int, top_p: float) -> None:
    logits = logits_of(8, VOCAB, 1)
    columns = (column(temperature, 8), column(top_k, 8), column(top_p, 8), column(0.0, 8))
    ours = process(logits, *columns).softmax(-1)
    theirs = flashinfer.sampling.softmax(logits, temperature)
    if top_k:
        theirs = flashinfer.sampling.top_k_renorm_probs(theirs, top_k)
    if top_p < 1:
        theirs = flashinfer.sampling.top_p_renorm_probs(theirs, top_p)
    # a sum that ends at the boundary may keep one token more in one of them: no more than that
    kept = ((ours > 0) != (theirs > 0)).sum(-1)
    assert (kept <= (1 if top_p < 1 else 0)).all()
    same = kept == 0
    assert same.sum() >= 6
    torch.testing.assert_close(ours[same], theirs[same], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("top_k", "top_p"), [(40, 1.0), (12, 1.0), (12, 0.8)])
def test_tokens_are_as_frequent(flashinfer: Any, top_k: int, top_p: float) -> None:
    n, vocab = 60_000, 40
    logits = (logits_of(1, vocab, 2) / 4).expand(n, -1).contiguous()
    columns = (column(1.0, n), column(top_k, n), column(top_p, n), column(0.0, n))
    each, none = torch.arange(n, device="cuda"), column(0, n)
    ours = sample(logits, *columns, each, none, none, none, impl="triton")
    theirs = flashinfer.sampling.top_k_top_p_sampling_from_probs(
        logits.softmax(-1),
        top_k,
        top_p,
        filter_apply_order="top_k_first",
        generator=torch.Generator("cuda").manual_seed(0),
    )
    probs = process(logits[:1], *(x[:1] for x in columns)).softmax(-1)[0].double().cpu()
    possible = probs > 0
    for tokens in (ours, theirs):
        counts = torch.bincount(tokens.long().cpu(), minlength=vocab).double()
        assert not counts[~possible].any()
        excess = ((counts - n * probs)[possible].square() / (n * probs[possible])).sum()
        freedom = int(possible.sum()) - 1
        # seven standard deviations of the chi-square distribution
        assert float(excess) < freedom + 7 * (2 * freedom) ** 0.5
