"""The roofline, against sums done by hand and against figures of an H100 that were published before it existed."""

from __future__ import annotations

from typing import Any

import pytest

from sparsespec.core.curve import Curve
from sparsespec.core.errors import BadOption
from sparsespec.core.roofline import Roofline
from tests.core.costs import PLAIN, plain

# µs of the products of one layer of Qwen3-8B and of its LM head, on an H100 whose memory reads 3,114 GB/s
LAYER = {
    1: 146.6,
    16: 149.8,
    64: 151.2,
    121: 152.4,
    128: 153.1,
    192: 162.7,
    256: 178.6,
    384: 222.8,
    512: 284.9,
    576: 330.8,
    1152: 669.4,
}
HEAD = {64: 452.4, 128: 461.5, 256: 520.0, 576: 1117.4}
H100 = Roofline(
    products=Curve(tuple((n, 36e-6 * micros) for n, micros in LAYER.items())),
    head=Curve(tuple((n, 1e-6 * micros) for n, micros in HEAD.items())),
    kv_token_bytes=36 * 4096,
    bytes_per_second=3.114e12,
)
# batch, context, accepted of 8, share; tokens a second of dense decoding and of rounds
FIGURES = [
    (64, 4096, 6.16, 0.05, 3496, 6463),
    (64, 6000, 6.16, 0.05, 2658, 5802),
    (64, 6000, 7.00, 0.05, 2658, 6483),
    (48, 8192, 6.16, 0.05, 1959, 4332),
    (128, 3000, 7.00, 0.05, 5299, 11797),
    (32, 4096, 6.16, 0.05, 2652, 3712),
    (64, 4096, 4.50, 0.10, 3496, 4640),
]


def test_dense_decoding_is_products_and_one_look_at_the_kv() -> None:
    # 2 requests of 5 tokens of 8 bytes at 4 bytes a second: 20 s; products 8, head 1.1
    assert PLAIN.roofline.dense(2, 5) == pytest.approx(2 / (8 + 1.1 + 20))


def test_a_round_pays_products_k_plus_one_times_and_a_share_of_the_kv_k_times() -> None:
    # 3 drafts over a tenth, 2 stand: 4 steps of 2 * 7 / 4 = 3.5 tokens, 20 s of KV, and 3 times 2 s of it
    round_ = PLAIN.roofline.round(2, 5, k=3, share=0.1, mean_acceptance_length=3)
    assert round_ == pytest.approx(2 * 3 / (4 * (8 + 1.25) + 20 + 6))


def test_rates_below_the_ceiling_make_reads_longer_and_nothing_else() -> None:
    slow = PLAIN.roofline.round(2, 5, k=3, share=0.1, mean_acceptance_length=3, dense_rate=0.5, sparse_rate=0.25)
    assert slow == pytest.approx(2 * 3 / (4 * (8 + 1.25) + 40 + 24))


@pytest.mark.parametrize(("batch", "context", "accepted", "share", "dense", "rounds"), FIGURES)
def test_it_gives_the_figures_of_an_h100(
    batch: int, context: int, accepted: float, share: float, dense: int, rounds: int
) -> None:
    assert H100.dense(batch, context) == pytest.approx(dense, abs=0.51)
    assert H100.round(batch, context, k=8, share=share, mean_acceptance_length=1 + accepted) == pytest.approx(
        rounds, abs=0.51
    )


def test_a_round_without_drafts_is_dense_decoding() -> None:
    assert H100.round(64, 4096, k=0, share=0.0, mean_acceptance_length=1) == H100.dense(64, 4096)


GOOD: dict[str, Any] = {"batch": 4, "context": 100, "k": 4, "share": 0.1, "mean_acceptance_length": 2.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 0}, "a batch has requests"),
        ({"context": -1}, "a context 0 tokens or more"),
        ({"k": -1}, "k is a number of drafts"),
        ({"share": 1.1}, "share is the part"),
        ({"share": float("nan")}, "share is the part"),
        ({"mean_acceptance_length": 6}, "mean_acceptance_length is 1 to 5 tokens"),
        ({"mean_acceptance_length": 0}, "mean_acceptance_length is 1 to 5 tokens"),
        ({"dense_rate": 0}, "rates are parts"),
        ({"sparse_rate": 1.5}, "rates are parts"),
    ],
)
def test_a_mistake_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadOption, match=words):
        H100.round(**(GOOD | changes))


def test_a_device_that_reads_nothing_has_no_roofline() -> None:
    with pytest.raises(BadOption, match="above 0"):
        _ = plain(read_bytes_per_second=0.0).roofline
