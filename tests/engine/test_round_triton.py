"""What lies around a forward, as Triton kernels, makes an engine say what the references make it say."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch
from torch import Tensor

from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.engine import graph_runner, pack
from sparsespec.engine.engine import Engine
from sparsespec.sampling import greedy as greedy_verifier
from sparsespec.sampling import match, rejection, shared_noise
from sparsespec.sampling.shared_noise import SharedNoise
from sparsespec.testing.cases import model_of
from tests.engine.running import KEY, greedy, prompt_of, run, sampled, small
from tests.kernels.launched import DEVICE, WHERE, room

pytestmark = WHERE

room("lay_out")
CHOOSERS: tuple[ModuleType, ...] = (pack, graph_runner, greedy_verifier, shared_noise, match, rejection)
"""Modules that ask `fastest` for the implementation of such an op."""
KERNELS = {
    "lay_out.triton": ("_lay_out_rows", "_lay_out_tokens"),
    "verify_inputs.triton": ("_verify_inputs", "_per_logit_row"),
    "verify_tokens.triton": ("_verify_tokens",),
    "settle.triton": ("_settle",),
    "sample.triton_probs": ("_weights", "_logprobs"),
}
REJECTING = {"sample.triton": ("_pick",), "sample.triton_probs": ("_probs",)}
"""What the verifier `rejection` launches besides."""


def outputs(
    name: str, impl: str, monkeypatch: pytest.MonkeyPatch, **changes: str
) -> dict[tuple[int, int], tuple[int, ...]]:
    with monkeypatch.context() as patch:
        for module in CHOOSERS:
            patch.setattr(module, "fastest", lambda _: impl)
        spec = small(name).replace(**changes)
        engine = Engine.compose(
            model_of(KEY).to("float32", DEVICE), spec.replace(engine={**spec.engine, "checked": False, "graphs": False})
        )
        for j, params in enumerate((greedy(5), sampled(6, seed=3, logprobs=1), sampled(4, seed=4, n=2))):
            engine.add(prompt_of(9 + 7 * j, j), params)
        done = run(engine)
    assert not any(each.error for each in done.values())
    return {key: each.token_ids for key, each in done.items()}


@pytest.mark.parametrize(
    ("name", "verifier"),
    [*((name, "shared-noise") for name in ("dense", "ngram", "sparsespec", "triforce")), ("triforce", "rejection")],
)
def test_an_engine_says_the_same_on_either(name: str, verifier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launches: dict[str, int] = {}
    counted = [*KERNELS.items(), *(REJECTING.items() if verifier == "rejection" else ())]
    for file, kernels in counted:
        module = importlib.import_module(f"sparsespec.kernels.{file}")
        for kernel in kernels:
            monkeypatch.setattr(module, kernel, Counted(kernel, getattr(module, kernel), launches))
    want = outputs(name, "reference", monkeypatch, verifier=verifier)
    assert not launches
    assert outputs(name, "triton", monkeypatch, verifier=verifier) == want
    assert set(launches) == {kernel for _, kernels in counted for kernel in kernels}


def test_a_verifier_may_return_views(monkeypatch: pytest.MonkeyPatch) -> None:
    want = outputs("sparsespec", "reference", monkeypatch)
    honest = SharedNoise.verify

    def verify(self: SharedNoise, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        tokens, emitted, accepted = honest(self, logits, rows, q)
        emitted, accepted = torch.stack((emitted, accepted), 1).unbind(1)
        return VerifyOutput(tokens.repeat(1, 2)[:, : tokens.shape[1]], emitted, accepted)

    monkeypatch.setattr(SharedNoise, "verify", verify)
    assert outputs("sparsespec", "triton", monkeypatch) == want


class Counted:
    """Stands for a kernel, and counts its launches."""

    def __init__(self, name: str, kernel: object, launches: dict[str, int]) -> None:
        self.name, self.kernel, self.launches = name, kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> object:
        self.launches[self.name] = self.launches.get(self.name, 0) + 1
        return self.kernel[grid]  # type: ignore[index]
