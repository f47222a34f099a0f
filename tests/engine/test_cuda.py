"""The engine on a GPU: the same laws as on a CPU, with streams and copies that are really late."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsespec.core.device import Device, Event
from sparsespec.core.spec import PRESETS
from sparsespec.engine.cuda import CudaDevice
from sparsespec.engine.engine import Engine
from sparsespec.models.tiny import tiny
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
    engine = Engine.compose(model, spec, **changes)
    for j, params in enumerate((greedy(24), sampled(24, seed=3), greedy(9), sampled(30, seed=4, n=2))):
        engine.add(prompt_of(20 + 7 * j, j), params)
    return {key: done.token_ids for key, done in run(engine).items()}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_what_dense_decoding_says(name: str, loop: str) -> None:
    model = tiny().to("float64", "cuda")
    said = outputs(small(name).replace(loop=loop), model)
    assert said == outputs(small("dense"), model)
    # a CPU rounds otherwise, by the last bits of float64
    assert said == outputs(small("dense"), tiny())


@pytest.mark.parametrize("loop", LOOPS)
def test_with_triton_attention_in_float32_too(loop: str) -> None:
    model = tiny(head_dim=32, hidden=64).to("float32", "cuda")
    spec = small("sparsespec").replace(loop=loop, attention="triton")
    dense = small("dense").replace(attention="triton")
    assert outputs(spec, model) == outputs(dense, model)
