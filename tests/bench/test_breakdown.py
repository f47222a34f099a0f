"""Where the time of a step goes: kernels by their names."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparsespec.benchmarks.breakdown import KINDS, breakdown, kind_of, own_kernels, summed


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_tst_128x64_64x8_2x1_v_bz_TNT", "gemm"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "gemm"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int>", "gemm"),
        ("attend", "attention"),
        ("reduce_scores", "attention"),
        ("_append_kv", "attention"),
        ("_append_kv_0d1d2de", "attention"),
        ("_pick", "sampling"),
        ("void at::native::radixSortKVInPlace<2>", "selection"),
        ("void at::native::vectorized_elementwise_kernel<4>", "other"),
        ("Memcpy HtoD (Pinned -> Device)", "other"),
    ],
)
def test_kernels_have_a_kind(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


def test_every_room_with_triton_kernels_is_known() -> None:
    assert {*own_kernels().values()} >= {"attention", "selection", "sampling"}
    pytest.importorskip("triton")
    module = importlib.import_module("sparsespec.kernels.top_positions.triton")
    found = [
        name for name, value in vars(module).items() if type(value).__name__ in ("JITFunction", "InterpretedFunction")
    ]
    assert found
    assert {own_kernels()[name] for name in found if getattr(module, name).fn.__module__ == module.__name__} == {
        "selection"
    }


def test_what_no_kernel_covers_is_the_hosts() -> None:
    micros = [("attend", 3000.0), ("nvjet_a", 4000.0), ("attend", 1000.0), ("copy", 500.0)]
    parts = summed(micros, steps=2, step_ms=5.0)
    assert parts["ms"] == {
        "gemm": 2.0, "attention": 2.0, "selection": 0.0, "sampling": 0.0, "other": 0.25, "host": 0.75
    }  # fmt: skip
    assert parts["kernels"][0] == ["attend", "attention", 2.0]
    assert tuple(parts["ms"]) == KINDS
    assert summed(micros, steps=2, step_ms=1.0)["ms"]["host"] == 0


def test_only_what_ran_on_the_gpu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = torch.autograd.DeviceType
    events = [
        SimpleNamespace(key="attend", device_type=kinds.CUDA, self_device_time_total=40.0),
        SimpleNamespace(key="cudaGraphLaunch", device_type=kinds.CPU, self_device_time_total=40.0),
    ]

    class Profile:
        def __init__(self, **options: Any) -> None:
            self.key_averages = lambda: events

        def __enter__(self) -> Profile:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.profiler, "profile", Profile)
    steps: list[int] = []
    parts = breakdown(lambda: steps.append(1), 4, 0.02)
    assert len(steps) == 4
    assert (parts["ms"]["attention"], parts["ms"]["host"]) == (pytest.approx(0.01), pytest.approx(0.01))
