"""Held against the reference: in the interpreter on small vocabularies, on a GPU on real ones."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsespec.core.errors import BadOption, ContractBroken, MissingPackage, UnknownName
from sparsespec.core.noise import NOISE_HIGH, NOISE_LOW, Key, block_bits, from_bits, gumbel
from sparsespec.kernels.sample import api, reference
from tests.kernels.launched import DEVICE, WHERE, launched, poisoned
from tests.kernels.sample_calls import (
    KINDS,
    OFF,
    SHIPPED,
    SMALL,
    Filters,
    blocks,
    columns,
    cut,
    keys,
    logits_of,
    mutants,
    noise,
    ours,
    resize,
    rows,
    small_sizes,
)

pytestmark = WHERE

probe: Any = importlib.import_module("tests.kernels.sample_probe")


@pytest.fixture(autouse=True)
def _few_blocks() -> Iterator[None]:
    with small_sizes():
        yield


@pytest.fixture
def as_shipped(_few_blocks: object, monkeypatch: pytest.MonkeyPatch) -> None:
    resize(monkeypatch, SHIPPED)


def yardstick(logits: Tensor, rest: list[Tensor]) -> Tensor:
    """Return what the reference draws on a CPU."""
    return reference.sample(logits.cpu().float(), *(x.cpu() for x in rest[:4]), Key(*(x.cpu() for x in rest[4:])))


def run(logits: Tensor, rest: list[Tensor], module: ModuleType = ours) -> Tensor:
    """Return what the kernels of `module` draw, on the CPU."""
    on = [x.to(DEVICE) for x in rest]
    return module.sample(logits.to(DEVICE), *on[:4], Key(*on[4:])).cpu()


@settings(max_examples=16 if DEVICE == "cpu" else 60)
@given(
    dtype=st.sampled_from((torch.float32, torch.float16)),
    kind=st.sampled_from(("numbers", "ties", "flat", "peak")),
    filters=st.lists(st.sampled_from(KINDS), min_size=1, max_size=2),
    vocab=st.sampled_from((1, 2, 7, 45, 63)),
    head=st.sampled_from((1, 4, 16)),
    seed=st.integers(0, 1000),
)
def test_draws_the_reference_s_tokens(
    dtype: torch.dtype, kind: str, filters: list[Filters], vocab: int, head: int, seed: int
) -> None:
    logits = logits_of(kind, len(filters), vocab, seed)
    rest = [*columns(*filters), *keys(len(filters), seed)]
    want = yardstick(logits, rest)
    on = [x.to(DEVICE) for x in (logits.to(dtype), *rest)]
    with pytest.MonkeyPatch.context() as patch, launched(ours, "_pick", api):
        resize(patch, {"HEAD": head}, cut)
        got = api.sample(*on, impl="triton")
    assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("kind", ["numbers", "ties", "flat"])
def test_filters_keep_what_the_reference_keeps(kind: str) -> None:
    filters = [(1.0, 3, 1.0, 0.0), (1.0, 0, 0.6, 0.0), (0.8, 12, 0.9, 0.02), (1.0, 0, 1.0, 0.3)]
    logits = logits_of(kind, len(filters), 45, 7)
    on = [x.to(DEVICE) for x in columns(*filters)]
    with poisoned():
        shape = rows.shape_of(logits)
        peaks, groups = rows.best_logits(logits.to(DEVICE), shape, tuple(on[:3]))
        found = cut.find_cut(logits.to(DEVICE), tuple(on), peaks, groups, shape.spans)
    probs = reference.process(logits, *columns(*filters))
    value = (logits - logits.amax(-1, keepdim=True)) / on[0].cpu().float()[:, None]
    limit = -found.keys.cpu().view(torch.float32)[:, None]
    ids = torch.arange(45)
    kept = (value > limit) | ((value == limit) & (ids <= found.lasts.cpu()[:, None]))
    assert torch.equal(kept & logits.isfinite(), probs.isfinite())
    # three tokens lie in four groups unless more tie with them; the least probable are not searched for
    assert (found.helds[[0, 3]] >= 0).tolist() == [kind == "numbers", False]


def test_a_row_does_not_see_its_neighbours() -> None:
    filters = [OFF, (0.0, 0, 1.0, 0.0), (0.7, 3, 1.0, 0.0), (1.0, 9, 0.8, 0.0), (1.3, 0, 0.5, 0.02)]
    logits, rest = logits_of("numbers", 5, 45, 3), [*columns(*filters), *keys(5)]
    tokens = run(logits, rest)
    odds = ours.top_probability(logits.to(DEVICE)).cpu()
    for some in (torch.tensor([3]), torch.tensor([4, 0])):
        assert torch.equal(run(logits[some], [x[some] for x in rest]), tokens[some])
        assert torch.equal(ours.top_probability(logits[some].to(DEVICE)).cpu(), odds[some])


@pytest.mark.usefixtures("as_shipped")
def test_sizes_as_shipped() -> None:
    filters = [(0.6, 20, 0.95, 0.0), OFF, (1.0, 0, 0.95, 0.01)]
    logits, rest = logits_of("numbers", 3, 20_011, 4), [*columns(*filters), *keys(3)]
    assert torch.equal(run(logits, rest), yardstick(logits, rest))


def test_rows_may_be_part_of_a_wider_buffer() -> None:
    wide = logits_of("numbers", 4, 50, 2).to(DEVICE)
    rest = [*columns(OFF, (1.0, 4, 0.9, 0.0)), *keys(2)]
    view = wide[::2, 1:38]
    assert torch.equal(run(view, rest), yardstick(view, rest))


def test_bits_are_those_of_core_noise() -> None:
    seeds = torch.tensor([0, 5, -1, 2**63 - 1, -(2**63), 0x0123456789ABCDEF])
    words = torch.tensor([0, 1, 2**31, 2**32 - 1, 977, 2**32 - 2])
    for start in (0, 1024, 151_552):
        got = probe.bits(seeds.to(DEVICE), words.to(DEVICE), start, 64).cpu()
        key = Key(*(x[:, None] for x in (seeds, words, words.flip(0), words.roll(1))))
        want = block_bits(key, torch.arange(start // 4, start // 4 + 16)).flatten(1)
        assert torch.equal(got, want)


def test_noise_is_that_of_core_noise_to_the_last_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.cat([
        torch.randint(0, 2**32, (3000,), generator=generator),
        torch.arange(256),
        2**32 - 1 - torch.arange(256),
        (torch.rand(584, generator=generator, dtype=torch.float64) * 32).exp2().long(),
    ])  # fmt: skip
    want = from_bits(bits, torch.float32)
    exact, quick, most = (x.cpu() for x in probe.noise(bits.to(DEVICE)))
    assert ((exact >= NOISE_LOW) & (exact <= NOISE_HIGH)).all()
    # an ulp of E, and one of the result
    assert ((exact - want).abs() <= 2.4e-7 * want.abs().clamp(min=1)).all()
    assert (exact == want).float().mean() > 0.8
    assert ((quick - exact).abs() < 1e-3).all(), "the kernel's slack is four times that"
    assert (most > exact - 1e-3).all()
    assert (most[bits.argsort()].diff() <= 0).all()
    assert (most - exact)[(bits > 64) & (bits < 2**22)].max() < 0.07, "a loose bound costs time"


TOKENS = "_tokens(start, QUADS)"
LANES = "tl.join(tl.join(w0, w2), tl.join(w1, w3))"
NO_BOUND = (blocks, ("most_gumbel(tl", "most_gumbel(0 * tl"))


@pytest.mark.parametrize("survivor", [0, 5, 10])
@pytest.mark.parametrize("bits", [0, 2**32 - 1])
def test_a_masked_token_is_never_drawn(survivor: int, bits: int, tmp_path: Path) -> None:
    # the survivor gets the noise under test, all others the best there is
    new = f"tl.where({TOKENS} == {survivor}, {bits}, 0).to(tl.uint32)"
    ones = (
        "tl.where(lane < 2, tl.where(lane == 0, w0, w1), tl.where(lane == 2, w2, w3))",
        new.replace(TOKENS, "token"),
    )
    module = mutants(
        tmp_path, (blocks, ("noise_bits(seed, sample, position, tag, start, QUADS)", new)), (ours, ones), NO_BOUND
    )[-1]
    logits = torch.full((3, 11), 3.0)
    logits[:, survivor] = 3.5
    rest = [*columns((1.0, 1, 1.0, 0.0), (1.0, 0, 0.01, 0.0), (1.0, 0, 1.0, 0.9)), *keys(3)]
    assert run(logits, rest, module).tolist() == [survivor] * 3


def test_equal_scores_go_to_the_lowest_token(tmp_path: Path) -> None:
    silent = ("    return c0, c1, c2, c3", "    return 0 * c0, 0 * c1, 0 * c2, 0 * c3")
    module = mutants(tmp_path, (noise, silent))[-1]
    with pytest.MonkeyPatch.context() as patch:
        resize(patch, SMALL, module)
        logits = torch.full((2, 45), 1.0)
        logits[1, :9] = 0.0
        assert run(logits, [*columns(OFF, OFF), *keys(2)], module).tolist() == [0, 9]


BEST = "token = tl.min(tl.where(score == best, token, NO_TOKEN), 0)"
KEPT = "((key < cut) | ((key == cut) & (at <= last)))"
CROSSING = "limit, limit, _MASS, BLOCK, STREAMED)\n            before"
NONE = 'float("-inf")'
SOME = f"some = tl.max(near, 0) > {NONE}"
STREAMED = "all_keys, BLOCK, True)\n            held = tl.full((), -1, tl.int32)"
# Changes, and the filters of rows whose tokens they change.
MUTANTS: dict[str, tuple[Any, tuple[str, str], Filters]] = {
    "noise lane shifted": (noise, (LANES, "tl.join(tl.join(w1, w3), tl.join(w2, w0))"), OFF),
    "block of noise shifted": (noise, ("(start // 4 + tl", "(start // 4 + 1 + tl"), OFF),
    "ties to the higher token": (
        ours,
        (BEST, "token = tl.max(tl.where((score == best) & mask, token, -1), 0)"),
        (0.0, 0, 1.0, 0.0),
    ),
    "ties to the later turn": (blocks, ("(top == best) & (this < token)", "(top == best)"), (0.0, 0, 1.0, 0.0)),
    "a bound that is none": (blocks, ("most += most_gumbel", "most += -3.0 + most_gumbel"), OFF),
    "a bound by two words": (blocks, ("tl.minimum(tl.minimum(w0, w1), tl.minimum(w2, w3))", "tl.minimum(w0, w1)"), OFF),
    "second block forgotten": (blocks, ("top2 >= best", "top2 >= 1e30"), OFF),
    "third block forgotten": (blocks, ("top3 >= best", "top3 >= 1e30"), OFF),
    "what filters leave of a tile": (blocks, (SOME, SOME.replace(NONE, "0.0")), (9.0, 0, 1.0, 0.9)),
    "a group for another": (blocks, ("group * GROUP + place", "group * 0 + place"), (9.0, 3, 1.0, 0.0)),
    "the last groups forgotten": (
        blocks,
        ("n_groups * GROUP, step", "n_groups // 2 * GROUP, step"),
        (9.0, 3, 1.0, 0.0),
    ),
    "the first share forgotten": (blocks, ("range(first * TILE", "range(first * TILE + TILE"), (9.0, 3, 1.0, 0.0)),
    "a later share forgotten": (blocks, ("step * TILE", "99 * TILE"), (9.0, 3, 1.0, 0.0)),
    "drawn from the head only": (cut, (STREAMED, STREAMED.partition("\n")[0]), (9.0, 30, 1.0, 0.0)),
    "filters not seen": (ours, ("(is_searched(t, top_k, top_p, vocab) == 0)", "(top_k >= 0)"), (1.0, 2, 1.0, 0.0)),
    "the least probable not seen": (ours, ("(min_p <= 0.0)", "(min_p <= 1.0)"), (1.0, 0, 1.0, 0.5)),
    "far ones not looked at again": (ours, ("> _FARTHEST", "> 1e35"), (0.7, 0, 1.0, 0.0)),
    "k-th token dropped": (blocks, (KEPT, "(key < cut)"), (1.0, 2, 1.0, 0.0)),
    "crossing token dropped": (cut, (CROSSING, CROSSING.replace(")", ") - 1")), (1.0, 0, 0.5, 0.0)),
    "one tie too many": (cut, ("n = some.to(tl.int32)", "n = some.to(tl.int32) + 1"), (1.0, 0, 0.1, 0.0)),
    "top_k one too many": (cut, ("k = top_k.to(tl.int32)", "k = top_k.to(tl.int32) + 1"), (1.0, 1, 1.0, 0.0)),
    "best ones of the head only": (cut, (">= k:", ">= 0:"), (9.0, 30, 1.0, 0.0)),
    "mass of the head only": (cut, ("total = _tally(", "held + _tally("), (5.0, 0, 0.95, 0.0)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_run_and_are_caught(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, change, filters = MUTANTS[name]
    modules = mutants(tmp_path, (source, change))
    # one lane a program, where what lanes remember is under test
    sizes = {"HEAD": 2 if "head" in name else 16} | ({"TILE": 4} if "block" in name or "turn" in name else {})
    resize(monkeypatch, SMALL | sizes, *modules, cut, rows)
    caught = 0
    for seed, kind in enumerate(20 * ("flat", "ties", "numbers")):
        logits = logits_of(kind, 2, 45, 2 * seed)
        if "far ones" in name:
            logits += 2.0**21
        rest = [*columns(*[filters] * 2), *keys(2, seed)]
        caught += not torch.equal(run(logits, rest, modules[-1]), yardstick(logits, rest))
        if caught:
            break
    assert caught, name


QUICK = "return -tl.log(tl.where(u"
NOISY = (noise, (QUICK, QUICK.replace("-", "0.0009 * (bits & 1).to(tl.float32) - ")))
# Which token nearly ties with token 8, and what goes wrong.
NEAR: dict[str, tuple[int, tuple[Any, tuple[str, str]] | None]] = {
    "of the same span": (9, None),
    "of another span": (40, None),
    "not looked at again": (9, (ours, ("(second >= least)", "(second > 1e30)"))),
    "another lane at last": (40, (ours, ("tl.where(lane == 0, w0, w1)", "w1"))),
    "another block at last": (40, (ours, ("token // 4 * 4 - 4 * span", "token // 4 * 4"))),
}


@pytest.mark.parametrize("name", NEAR)
def test_errors_of_quick_noise_decide_nothing(name: str, tmp_path: Path) -> None:
    other, change = NEAR[name]
    n, one = 12, 8
    rest = [*columns(*[OFF] * n), *keys(n)]
    scores = gumbel(*rest[4:], 45, torch.float32)
    logits = torch.full((n, 45), -80.0)
    logits[:, one] = 1.0
    # less apart than quick noise may err, to one side and the other
    logits[:, other] = 1.0 + scores[:, one] - scores[:, other] + 1e-4 * torch.tensor([1, -1]).repeat(n // 2)
    want = yardstick(logits, rest)
    assert want.tolist() == [other, one] * (n // 2)
    modules = mutants(tmp_path, NOISY, *([change] if change else []))
    with pytest.MonkeyPatch.context() as patch:
        resize(patch, SMALL, *modules)
        assert torch.equal(run(logits, rest, modules[-1]), want) == (change is None)


def test_rows_without_a_law_draw_token_0() -> None:
    logits = torch.zeros(4, 40)
    logits[0, 7], logits[1, 8] = torch.nan, torch.inf
    logits[2] = -torch.inf
    logits[3, 9] = 30.0
    on = [x.to(DEVICE) for x in (logits, *columns(OFF, (0.0, 0, 1.0, 0.0), (1.0, 3, 0.9, 0.1), OFF), *keys(4))]
    assert api.sample(*on, impl="triton").tolist() == [0, 0, 0, 9]
    assert api.top_probability(on[0], impl="triton").isnan().tolist() == [True, True, True, False]
    got = api.logprobs(on[0], on[5] * 0, 2, impl="triton")
    assert got.chosen_value.isnan().tolist() == [True, True, True, False]
    assert got.values.isnan().all(1).tolist() == [True, True, True, False]


def test_no_rows_are_no_problem() -> None:
    none = torch.zeros(0, 5, device=DEVICE)
    rest = [x[:0].to(DEVICE) for x in (*columns(OFF), *keys(1))]
    assert api.sample(none, *rest, impl="triton").shape == (0,)
    assert api.top_probability(none, impl="triton").shape == (0,)
    nobody = rest[5]
    assert api.logprobs(none, nobody, 2, impl="triton").ids.shape == (0, 2)
    assert api.confidence(torch.zeros(2, 5, device=DEVICE), nobody, nobody, nobody, impl="triton").shape == (0,)
    with pytest.raises(ContractBroken, match="at least one row of logits"):
        api.confidence(none, nobody, nobody, nobody, impl="triton")


def test_bad_input_is_named() -> None:
    x = torch.zeros(2, 8, device=DEVICE)
    rest = [column.to(DEVICE) for column in (*columns(OFF, OFF), *keys(2))]
    with pytest.raises(BadOption, match="logits of float32"):
        api.sample(x.double(), *rest, impl="triton")
    with pytest.raises(BadOption, match="contiguous along their last axis"):
        api.top_probability(x.T, impl="triton")
    with pytest.raises(BadOption, match="1 … 2"):
        api.top_probability(x[:, :0], impl="triton")
    with pytest.raises(BadOption, match=r"top_p must be contiguous torch\.float64"):
        api.sample(x, *rest[:2], rest[2].float(), *rest[3:], impl="triton")
    with pytest.raises(BadOption, match=r"position must be contiguous torch\.int64"):
        api.sample(x, *rest[:6], rest[6].int(), rest[7], impl="triton")
    with pytest.raises(UnknownName, match="did you mean 'triton'"):
        api.sample(x, *rest, impl="tritom")
    with pytest.raises(UnknownName, match="implementation of draw's process 'triton'; have: reference"):
        api.process(x, *rest[:4], impl="triton")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("triton", "triton_blocks", "triton_cut", "triton_probs", "triton_noise", "triton_rows"):
        monkeypatch.delitem(sys.modules, f"sparsespec.kernels.sample.{name}")
        monkeypatch.delattr(f"sparsespec.kernels.sample.{name}")
    with pytest.raises(MissingPackage, match=r"pip install 'sparsespec\[triton\]'"):
        api.top_probability(torch.zeros(1, 4), impl="triton")


@pytest.mark.gpu
@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("vocab", [50_257, 151_936])
def test_real_sizes(vocab: int, dtype: torch.dtype) -> None:
    filters = [*KINDS, (0.6, 20, 0.95, 0.0), (1.0, 400, 1.0, 0.0), (1.0, 0, 0.95, 0.0), (1.0, 0, 1.0, 0.01)]
    for seed, kind in enumerate(("numbers", "ties", "flat", "peak")):
        logits = logits_of(kind, len(filters), vocab, seed).to(dtype)
        rest = [*columns(*filters), *keys(len(filters), seed)]
        want = yardstick(logits, rest)
        on = [x.to(DEVICE) for x in (logits, *rest)]
        with launched(ours, "_decide", api):
            got = api.sample(*on, impl="triton").cpu()
        for row in (got != want).nonzero()[:, 0].tolist():
            # only the last bits of a logarithm may decide otherwise
            one = [x[row : row + 1] for x in rest]
            score = reference.process(logits[row : row + 1].float(), *one[:4])
            score += gumbel(*one[4:], vocab, torch.float32)
            gap = score[0, want[row]] - score[0, got[row]]
            assert gap < 1e-5, f"{kind}, {filters[row]}: token {got[row]}, not {want[row]}, {gap} below"
        single = [x[3:4] for x in on]
        assert torch.equal(api.sample(*single, impl="triton").cpu(), got[3:4])


@pytest.mark.gpu
@pytest.mark.usefixtures("as_shipped")
def test_a_captured_launch_follows_its_inputs() -> None:
    filters = [(0.6, 20, 0.95, 0.0), OFF, (0.0, 0, 1.0, 0.0)]
    on = [x.to(DEVICE) for x in (logits_of("numbers", 3, 20_011, 0), *columns(*filters), *keys(3))]
    api.sample(*on, impl="triton")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = api.sample(*on, impl="triton")
    for seed in range(3):
        fresh = logits_of("numbers", 3, 20_011, seed), *columns(*filters[seed:], *filters[:seed]), *keys(3, seed)
        for x, y in zip(on, fresh, strict=True):
            x.copy_(y)
        graph.replay()
        assert torch.equal(got.cpu(), yardstick(on[0], on[1:]))
