"""Profiles, threads and markers for the whole suite; nothing that one test could own."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# `ci` is derandomised, so that a red run is red again; `dev` looks elsewhere each time.
settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile(
    "ci",
    max_examples=300,
    derandomize=True,
    print_blob=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure(config: pytest.Config) -> None:
    # `--dist loadfile` would begin with the files of most tests, and end with the longest one, which has two
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False
    # Workers that share cores are slower with a thread pool each than with one thread.
    if os.environ.get("PYTEST_XDIST_WORKER"):
        import torch

        torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    # modules and items stay: there is nothing yet that a collector could take
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    # what other modules left stays: a comparison asks for a full collection per row, and would look at all of torch
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model folder, which nobody may change."""
    from tests.folders import tiny_folder

    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")
