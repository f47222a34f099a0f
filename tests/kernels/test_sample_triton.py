"""The parts of the Triton `sample`: noise, cuts, ties, and what quick scores may not decide."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsespec.core.noise import NOISE_HIGH, NOISE_LOW, Key, block_bits, from_bits, gumbel
from sparsespec.kernels.sample import api, reference
from sparsespec.testing.ops.sampling import LOGITS, OFF, REAL, columns, keys, logits_of
from tests.kernels.launched import DEVICE, WHERE, poisoned
from tests.kernels.sample_calls import SHIPPED, SMALL, blocks, cut, mutated, noise, ours, resize, rows, small_sizes

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
    """Return the tokens of the reference on a CPU."""
    return reference.sample(logits.cpu().float(), *(x.cpu() for x in rest[:4]), Key(*(x.cpu() for x in rest[4:])))


def run(logits: Tensor, rest: list[Tensor], module: ModuleType = ours) -> Tensor:
    """Return the tokens of the kernels of `module`, on the CPU."""
    on = [x.to(DEVICE) for x in rest]
    return module.sample(logits.to(DEVICE), *on[:4], Key(*on[4:])).cpu()


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
def test_a_masked_token_is_never_sampled(survivor: int, bits: int, tmp_path: Path) -> None:
    # the survivor gets the noise under test, all others the best there is
    new = f"tl.where({TOKENS} == {survivor}, {bits}, 0).to(tl.uint32)"
    ones = (
        "tl.where(lane < 2, tl.where(lane == 0, w0, w1), tl.where(lane == 2, w2, w3))",
        new.replace(TOKENS, "token"),
    )
    module = mutated(
        tmp_path, (blocks, ("noise_bits(seed, sample_index, position, tag, start, QUADS)", new)), (ours, ones), NO_BOUND
    )[-1]
    logits = torch.full((3, 11), 3.0)
    logits[:, survivor] = 3.5
    rest = [*columns((1.0, 1, 1.0, 0.0), (1.0, 0, 0.01, 0.0), (1.0, 0, 1.0, 0.9)), *keys(3)]
    assert run(logits, rest, module).tolist() == [survivor] * 3


def test_equal_scores_go_to_the_lowest_token(tmp_path: Path) -> None:
    silent = ("    return c0, c1, c2, c3", "    return 0 * c0, 0 * c1, 0 * c2, 0 * c3")
    module = mutated(tmp_path, (noise, silent))[-1]
    with pytest.MonkeyPatch.context() as patch:
        resize(patch, SMALL, module)
        logits = torch.full((2, 45), 1.0)
        logits[1, :9] = 0.0
        assert run(logits, [*columns(OFF, OFF), *keys(2)], module).tolist() == [0, 9]


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
    modules = mutated(tmp_path, NOISY, *([change] if change else []))
    with pytest.MonkeyPatch.context() as patch:
        resize(patch, SMALL, *modules)
        assert torch.equal(run(logits, rest, modules[-1]), want) == (change is None)


def test_rows_without_a_distribution_get_token_0() -> None:
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


@pytest.mark.gpu
@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_real_row_does_not_see_its_neighbours(dtype: torch.dtype) -> None:
    for seed, kind in enumerate(LOGITS):
        logits = logits_of(kind, len(REAL), 151_936, seed).to(dtype)
        rest = [*columns(*REAL), *keys(len(REAL), seed)]
        together = run(logits, rest)
        assert torch.equal(run(logits[3:4], [x[3:4] for x in rest]), together[3:4])
