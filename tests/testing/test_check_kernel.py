"""Functions that break one promise each, and the sentence that says which; those that keep them pass."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsespec.core.errors import BadOption, ContractBroken, UnknownName
from sparsespec.testing import check_kernel, kernel_ops

OPS = kernel_ops()


def named(op: str, **more: Any) -> Any:
    return partial(OPS[op].function("reference"), **more)


@pytest.mark.parametrize("name", OPS)
def test_the_reference_passes(name: str) -> None:
    check_kernel(name, OPS[name].function("reference"), examples=4, device="cpu")


def ranked(scores: Tensor, below: Tensor, count: Tensor, k_max: int, *, pool: int = 1, lower: bool = True) -> Tensor:
    """Return the positions that fewer than `count` others beat; of equal ones the lower is better, or the higher."""
    length = scores.shape[-1]
    position = torch.arange(length, device=scores.device)
    legal = position < below[:, None]
    key = scores.double().clamp(-1e300, 1e300).nan_to_num(nan=torch.inf).masked_fill(~legal, -torch.inf)
    if pool > 1 and length:
        wide = F.max_pool1d(key.reshape(-1, 1, length), pool, stride=1, padding=pool // 2)
        key = wide.view_as(key).masked_fill(~legal, -torch.inf)
    before = position < position[:, None] if lower else position > position[:, None]
    other, own = key[..., None, :], key[..., :, None]
    beaten = ((other > own) | ((other == own) & before)) & legal[:, None, :]
    chosen = legal & (beaten.sum(-1) < count.expand(len(scores), -1)[:, None, :, None])
    place = torch.where(chosen, chosen.cumsum(-1) - 1, k_max)
    out = scores.new_zeros((*scores.shape[:3], k_max + 1), dtype=torch.int64)
    return out.scatter_(-1, place, position.expand_as(place))[..., :k_max]


def ties_go_up(*args: Any, **options: Any) -> Tensor:
    return ranked(*args, **options, lower=False)


def test_a_function_of_another_kind_passes() -> None:
    check_kernel("top_positions", ranked, device="cpu")


def one_short(scores: Tensor, below: Tensor, count: Tensor, k_max: int, *, pool: int = 1) -> Tensor:
    return ranked(scores, below, (count - 1).clamp(min=0), k_max, pool=pool)


def narrow(*args: Any, **options: Any) -> Tensor:
    return ranked(*args, **options)[..., :-1]


def in_int32(*args: Any, **options: Any) -> Tensor:
    return ranked(*args, **options).int()


def scribbles(scores: Tensor, below: Tensor, count: Tensor, k_max: int, *, pool: int = 1) -> Tensor:
    found = ranked(scores, below, count, k_max, pool=pool)
    scores[..., :1] = 0
    return found


def no_empty_list(scores: Tensor, below: Tensor, count: Tensor, k_max: int, *, pool: int = 1) -> Tensor:
    scores[..., 0].max()
    if not scores.shape[-1]:
        raise IndexError("there is no position 0")
    return ranked(scores, below, count, k_max, pool=pool)


def no_epsilon(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, 0.0)


def summed_in_half(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product = x.new_zeros(len(x), len(weight)) if bias is None else bias.expand(len(x), -1)
    for i in range(x.shape[1]):
        product = product + x[:, i : i + 1] * weight[:, i]
    return product


def mean_in_half(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def a_list(logits: Tensor, chosen: Tensor, n: int) -> Any:
    return list(named("logprobs")(logits, chosen, n))


def one_pair_more(source: Tensor, target: Tensor, pairs: Tensor, count: Tensor) -> None:
    pages, places = pairs[: int(count) + 1].unbind(1)
    target[:, places] = source[:, pages]


def dense(q: Tensor, k: Tensor, v: Tensor, rows: Any, *, scale: float, chosen: Any) -> Any:
    """Lets rows that read a selection read all of it but the tail."""
    tails = chosen.tail_from + 1
    return named("attention")(q, k, v, rows, scale=scale, chosen=chosen._replace(tail_from=tails))


def seed_ignored(*args: Tensor) -> Tensor:
    logits, t, top_k, top_p, min_p, seed, *rest = args
    return named("sample")(logits, t, top_k, top_p, min_p, seed * 0, *rest)


BROKEN: list[tuple[str, Any, str]] = [
    (
        "top_positions",
        ties_go_up,
        r"result of ties_go_up is not that of the reference: at \[.*\] it is \d+, expected \d+",
    ),
    ("top_positions", one_short, r"its worst error is \d+, allowed 0; \d+\.\d% of \d+ numbers are wrong"),
    ("top_positions", narrow, r"its shape is \[.*\], must be \["),
    ("top_positions", in_int32, "its type is torch.int32, must be torch.int64"),
    ("top_positions", scribbles, "argument scores of scribbles is not that of the reference"),
    ("top_positions", no_empty_list, r"no_empty_list raised IndexError\('.*'\); shapes: scores \[.*, 0\]"),
    ("rms_norm", no_epsilon, r"result of no_epsilon .* expected .* allowed \d\.\d+e-07"),
    ("rms_norm", mean_in_half, "mean_in_half .*; float16, seed"),
    ("linear", summed_in_half, "summed_in_half .*; (bfloat16|float16), seed"),
    ("logprobs", a_list, "a_list returned list, must be a tuple of 3"),
    ("copy_pages", one_pair_more, "target of one_pair_more"),
    ("attention", dense, "(out|lse) of dense"),
    ("sample", seed_ignored, "result of seed_ignored"),
]


@pytest.mark.parametrize(("op", "fn", "sentence"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_a_broken_promise_is_named_and_can_be_seen_again(op: str, fn: Any, sentence: str) -> None:
    with pytest.raises(ContractBroken, match=sentence) as broken:
        check_kernel(op, fn, device="cpu", examples=200)
    said = str(broken.value)
    assert said.startswith(f"{op}: ") and "\n" not in said
    (line,) = re.findall(r"again: (check_kernel\(.*\))$", said)
    with pytest.raises(ContractBroken) as again:
        eval(line, {"check_kernel": check_kernel, fn.__name__: fn})
    assert str(again.value) == said


def test_what_the_function_does_not_take_can_be_left_out() -> None:
    def half_only(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        assert x.dtype == torch.float16
        return named("rms_norm")(x, weight, eps)

    check_kernel("rms_norm", half_only, dtypes=("float16",), device="cpu")
    with pytest.raises(ContractBroken, match="half_only raised AssertionError"):
        check_kernel("rms_norm", half_only, device="cpu")


def test_mistakes_of_the_caller_are_named() -> None:
    with pytest.raises(UnknownName, match="unknown op 'top_position'; did you mean 'top_positions'"):
        check_kernel("top_position", ranked)
    with pytest.raises(BadOption, match="examples is a whole number of 1 or more, got 0"):
        check_kernel("top_positions", ranked, examples=0)


def test_bytes_and_operations_follow_the_sizes() -> None:
    def made(op: str, **sizes: Any) -> int:
        one = OPS[op]
        assert one.n_bytes is not None
        return one.n_bytes(one.make(0, dtype=torch.float16, device="cpu", **sizes))

    assert made("copy_pages", shape=(3, 4, 2, 8), count=2) == 2 * 2 * 3 * 4 * 2 * 8 * 2
    assert made("append_kv", n=5, heads=(4, 2), head_dim=8) == 2 * 2 * 5 * 8 * 8
    assert made("top_positions", shape=(3, 2, 4, 100), k_max=7) == 3 * 2 * 4 * (2 * 100 + 8 * 7)
    assert made("rms_norm", lead=(3,), width=8) == 2 * (2 * 24 + 8)
    assert made("silu_mul", lead=(3,), width=8) == 2 * 3 * 24
    assert made("sample", filters=((1.0, 0, 1.0, 0.0),) * 3, vocab=10) == 2 * 30
    args = OPS["linear"].make(0, dtype=torch.float16, device="cpu", m=3, n=5, k=7)
    assert OPS["linear"].n_bytes is not None and OPS["linear"].n_flops is not None
    assert (OPS["linear"].n_bytes(args), OPS["linear"].n_flops(args)) == (2 * (21 + 35 + 15), 2 * 3 * 5 * 7)


def test_bytes_of_attention_are_what_its_rows_read() -> None:
    op = OPS["attention"]
    args = op.make(0, dtype=torch.float16, device="cpu", **op.fixed)
    assert op.n_bytes is not None and op.n_flops is not None
    # 22 positions, 10 chosen and 7 of the tail, 4; K and V of 2 heads of 16; 5 queries of 6 heads; scores of 22
    assert op.n_bytes(args) == (22 + 17 + 4) * 2 * 2 * 16 * 2 + 5 * 6 * (2 * 16 * 2 + 4) + 4 * 22
    assert op.n_flops(args) == 4 * 6 * 16 * ((21 + 22) + (16 + 17) + 4)


@pytest.mark.gpu
def test_on_a_gpu_a_call_that_waits_for_the_device_is_refused() -> None:
    pytest.importorskip("triton")
    check_kernel("rms_norm", OPS["rms_norm"].function("triton"), device="cuda")
    with pytest.raises(ContractBroken, match="cannot be recorded in a CUDA graph"):
        check_kernel("copy_pages", one_pair_exactly, device="cuda")


def one_pair_exactly(source: Tensor, target: Tensor, pairs: Tensor, count: Tensor) -> None:
    pages, places = pairs[: int(count)].unbind(1)
    target[:, places] = source[:, pages]


@pytest.mark.gpu
def test_on_a_gpu_a_replay_that_does_not_follow_its_inputs_is_refused() -> None:
    kept: dict[Any, Tensor] = {}

    def remembers(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return kept.setdefault((x.shape, x.dtype, x.data_ptr()), named("rms_norm")(x.clone(), weight, eps))

    with pytest.raises(ContractBroken, match="replayed from a CUDA graph, result of remembers"):
        check_kernel("rms_norm", remembers, device="cuda", examples=1)
