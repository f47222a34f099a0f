"""Measures a device for a model, group by group, and puts the cost model together."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version

import torch

from sparsespec.core.cost import CostModel
from sparsespec.core.errors import BadOption
from sparsespec.core.registry import lookup
from sparsespec.engine.profile import fit
from sparsespec.engine.profile.attention import attention_samples
from sparsespec.engine.profile.clock import clock_for
from sparsespec.engine.profile.host import host_sample
from sparsespec.engine.profile.memory import copy_samples, read_sample
from sparsespec.engine.profile.products import product_samples
from sparsespec.engine.profile.sample import CPU, CUDA, Plan, Sample
from sparsespec.engine.profile.weights import random_model, token_bytes, weight_bytes
from sparsespec.models.config import ModelConfig

PACKAGES = ("sparsespec", "torch", "triton", "numpy")


class Profile:
    """One device, asked for one model.

    Attributes:
        n_samples: How many samples `run` yields.

    Args:
        config: The model's shape; its weights are random, and a few layers' stand for all.
        dtype: Of weights and KV.
        device: A CPU, or a GPU with its number.
        backend: Name of an attention backend.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device, backend: str) -> None:
        provides: frozenset[str] = lookup("attention", backend).provides  # type: ignore[attr-defined]
        if device.type == "cuda" and "capturable" not in provides:
            raise BadOption(
                f"attention {backend!r} cannot be recorded in a CUDA graph, so its time on a GPU cannot be told from "
                "the host's; use one that gives 'capturable', such as 'triton'"
            )
        self._config, self._dtype, self._device, self._backend = config, dtype, device, backend
        self._plan = plan_for(config, device)
        p = self._plan
        copies = 2 * len(p.copies) if device.type == "cuda" else 0
        self.n_samples = 1 + 2 * len(p.tokens) + len(p.logits) + len(p.rows) + copies + 1

    def run(self) -> Iterator[Sample]:
        """Measure, and yield each sample when it is known."""
        clock, plan, device = clock_for(self._device), self._plan, self._device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            yield read_sample(device, plan, clock)
            model = random_model(self._config, self._dtype, device, plan.rotated_bytes)
            yield from product_samples(model, plan, clock)
            yield from attention_samples(model, self._backend, plan, clock)
            yield from copy_samples(device, plan)
            yield host_sample(self._dtype, device, self._backend, plan)

    def fit(self, samples: Sequence[Sample]) -> CostModel:
        """Return the cost model of all samples of a run."""
        by_group: dict[str, list[Sample]] = {}
        for sample in samples:
            by_group.setdefault(sample.group, []).append(sample)
        curves = {name: fit.curve(by_group[name]) for name in ("layers", "products", "head")}
        lines = {name: fit.line(by_group[name]) for name in ("to_device", "to_host") if name in by_group}
        attention, attention_error = fit.attention(by_group["attention"])
        (read,), (host,) = by_group["read"], by_group["host"]
        fitted = {**curves, "attention": (attention, attention_error), **lines}
        config, dtype = self._config, self._dtype
        return CostModel(
            name=config.name,
            device=device_in_words(self._device),
            versions=versions(),
            geometry=self._geometry(),
            weight_bytes=weight_bytes(config, dtype),
            kv_token_bytes=config.n_layers * token_bytes(config, dtype),
            read_bytes_per_second=fit.rounded(read.sizes[0] / read.seconds),
            layers=curves["layers"][0],
            products=curves["products"][0],
            head=curves["head"][0],
            attention=attention,
            to_device=lines["to_device"][0] if lines else None,
            to_host=lines["to_host"][0] if lines else None,
            host_seconds=fit.rounded(host.seconds),
            errors={name: error for name, (_, error) in fitted.items()},
        )

    def _geometry(self) -> dict[str, int | str]:
        sizes = ("n_layers", "hidden", "n_heads", "n_kv_heads", "head_dim", "intermediate", "vocab")
        shape: dict[str, int | str] = {name: getattr(self._config, name) for name in sizes}
        return shape | {"dtype": str(self._dtype).removeprefix("torch."), "attention": self._backend}


def plan_for(config: ModelConfig, device: torch.device) -> Plan:
    """Return what is measured; raises where no step of attention fits into the model's context."""
    plan = (CUDA if device.type == "cuda" else CPU).within(config.max_model_len)
    if not plan.rows:
        raise BadOption(
            f"a model of {config.max_model_len} tokens of context is too short to be profiled; give one that holds 64"
        )
    return plan


def device_in_words(device: torch.device) -> str:
    """Return what figures depend on most."""
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        return f"{gpu.name}, {gpu.multi_processor_count} SMs"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads on {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Return the version of Python and of each package that is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found
