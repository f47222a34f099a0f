"""The engine on a GPU: the same laws as on a CPU, with streams and copies that are really late."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sparsespec.core.device import Device, Event
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Move
from sparsespec.core.spec import PRESETS, EngineSpec
from sparsespec.engine.cuda import CudaDevice
from sparsespec.engine.engine import Engine
from sparsespec.kv.mover import Mover
from sparsespec.kv.pool import KVPool
from sparsespec.kv.two_tiers import chunk_of
from sparsespec.models.tiny import tiny
from sparsespec.models.transformer import Transformer
from sparsespec.testing.checks.stage import small_geometry
from tests.engine.running import LOOPS, greedy, prompt_of, run, sampled, small

pytestmark = pytest.mark.gpu


def test_launches_run_in_order_and_trouble_belongs_to_who_waits() -> None:
    device, x = CudaDevice(), torch.zeros(1 << 24, device="cuda")
    assert isinstance(device, Device)
    first = device.launch(lambda: x.add_(1))
    copied: list[float] = []
    beside = device.launch(lambda: copied.append(float(x[0])), stream="side", after=[first])
    assert isinstance(beside, Event)
    device.wait(beside)
    assert device.poll(first)
    assert copied == [1.0]
    wrong = device.launch(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        device.wait(wrong)


def outputs(spec: Any, model: Any, **changes: Any) -> dict[tuple[int, int], tuple[int, ...]]:
    return said_by(Engine.compose(model, spec, **changes))


def said_by(engine: Engine, each: Any = None) -> dict[tuple[int, int], tuple[int, ...]]:
    for j, params in enumerate((greedy(24), sampled(24, seed=3), greedy(9), sampled(30, seed=4, n=2))):
        engine.add(prompt_of(20 + 7 * j, j), params)
    return {key: done.token_ids for key, done in run(engine, each).items()}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_what_dense_decoding_says(name: str, loop: str) -> None:
    model = tiny().to("float64", "cuda")
    said = outputs(small(name).replace(loop=loop), model)
    assert said == outputs(small("dense"), model)
    # a CPU rounds otherwise, by the last bits of float64
    assert said == outputs(small("dense"), tiny())


def narrow() -> Transformer:
    return tiny(head_dim=32, hidden=64).to("float32", "cuda")


def in_triton(name: str, loop: str, *, graphs: bool) -> EngineSpec:
    """Return a preset on Triton kernels; checked mode looks at values, which a graph cannot."""
    spec = small(name).replace(loop=loop, attention="triton")
    return spec.replace(engine={**spec.engine, "checked": False, "graphs": graphs})


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", PRESETS)
def test_with_triton_attention_in_float32_too(name: str, loop: str) -> None:
    model = narrow()
    said = outputs(in_triton(name, loop, graphs=False), model)
    assert said == outputs(in_triton("dense", "sync", graphs=False), model)
    assert outputs(in_triton(name, loop, graphs=True), model) == said


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", PRESETS)
def test_exact_engines_say_what_dense_decoding_says_in_bfloat16(name: str, loop: str) -> None:
    model = narrow().to("bfloat16")
    said = outputs(in_triton(name, loop, graphs=True), model, exact=True)
    assert said == outputs(in_triton("dense", "sync", graphs=False), model, exact=True)


@pytest.mark.parametrize("scheduler", ["lockstep", "random", "staggered"])
def test_graphs_that_were_recorded_before_they_are_met(scheduler: str) -> None:
    model = narrow()
    spec = in_triton("sparsespec", "delayed", graphs=True).replace(scheduler=scheduler)
    engine = Engine.compose(model, spec)
    engine.warm_up()
    known = set(engine._executor._runner._recorded)
    assert said_by(engine) == outputs(in_triton("dense", "sync", graphs=False), model)
    assert all(shape.n_tokens > shape.n_logits for shape in set(engine._executor._runner._recorded) - known)
    assert dict(engine.ledger.entries)["graphs"] > 0


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("tiers", ["gpu", "host(size=4.0,chunk=3)", "host(size=0.2)", "reserve"])
def test_too_little_memory_changes_no_token(tiers: str, graphs: bool, loop: str) -> None:
    model = narrow()
    spec = in_triton("sparsespec", loop, graphs=graphs).replace(tiers=tiers)
    tight = spec.replace(engine={**spec.engine, "num_gpu_blocks": 20})
    moved = {True: 0, False: 0}
    engine = Engine.compose(model, tight)

    def count(result: Any) -> None:
        for move in result.info.moves:
            moved[move.out] += 1

    assert said_by(engine, count) == outputs(in_triton("dense", "sync", graphs=False), model)
    assert all(moved.values()) == tiers.startswith("host")
    assert engine._parts.tiers.host_pages() == engine._parts.tiers.moving_pages() == 0


@pytest.mark.parametrize("recorded", [False, True])
def test_pages_come_back_from_the_host_bit_by_bit(recorded: bool) -> None:
    chunk = chunk_of(small_geometry(block_size=4, dtype="bfloat16"))
    n = 2 * chunk + 69
    geometry = replace(small_geometry(num_gpu_blocks=1 + n, block_size=4, dtype="bfloat16"), device="cuda")
    pool = KVPool(geometry)
    for part in (pool.k, pool.v):
        part.view(torch.int16).random_(-(1 << 15), (1 << 15) - 1)
    before = [part.view(torch.int16).clone() for part in (pool.k, pool.v)]
    device = CudaDevice()
    mover = Mover(device, pool, geometry, 2 * n)
    if recorded:
        mover.rehearse()
    pages = list(range(1, 1 + n))
    out = [Move(page, 2 * (n + 1 - page), True) for page in pages]
    with mover.moving(out):
        pass
    assert [error for _, error in mover.ended(wait=True)] == [None] * 3
    device.wait(device.launch(lambda: pool.poison(pages)))
    # each comes back to another page
    with mover.moving([move._replace(page=1 + n - move.page, out=False) for move in out]):
        pass
    assert [error for _, error in mover.ended(wait=True)] == [None] * 3
    for part, old in zip((pool.k, pool.v), before, strict=True):
        assert torch.equal(part.view(torch.int16)[:, 1:], old[:, 1:].flip(1))


def test_a_preset_takes_what_suits_a_gpu() -> None:
    engine = Engine.compose(narrow(), "sparsespec", max_num_seqs=2, max_model_len=64)
    assert engine.spec.attention.name == "triton"
    assert engine.spec.engine["graphs"] is True


def test_what_cannot_be_recorded_is_refused_by_name() -> None:
    with pytest.raises(BadOption, match=r"cannot record selector 'oracle.*and verifier 'rejection'.*graphs=False"):
        Engine.compose(narrow(), "sparsespec", selector="oracle", verifier="rejection", graphs=True)
    with pytest.raises(BadOption, match="cannot record checked=True"):
        Engine.compose(narrow(), "sparsespec", checked=True, graphs=True)
    engine = Engine.compose(narrow(), "sparsespec", verifier="rejection", max_num_seqs=2, max_model_len=64)
    assert engine.spec.engine["graphs"] is False
