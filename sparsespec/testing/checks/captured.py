"""A drawn step recorded in a CUDA graph: what `capturable` promises of an attention backend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.errors import ContractBroken
from sparsespec.testing.checks.drawn_step import HandMade, Step, moved


def captured(part: Any, step: Step, device: str) -> list[Tensor]:
    """Return the outputs of a replay, by layer, on the CPU; the step ran once before it was recorded.

    Raises:
        ContractBroken: if the step cannot be recorded.
    """
    pools = [x.to(device) for x in (step.k_pages, step.v_pages)]
    k_pages, v_pages = (x.clone() for x in pools)
    batch, qkv = moved(step.batch(), device), moved(step.qkv, device)
    layers = moved(step.choice.layers, device)
    part.bind(replace(step.geometry, device=device), moved(step.side, device), k_pages, v_pages)

    def run() -> list[Tensor]:
        part.plan(batch, HandMade(layers))
        return [part.run(layer, *tensors) for layer, tensors in enumerate(qkv)]

    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        run()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            outs = run()
    except RuntimeError as error:
        raise ContractBroken(
            f"{type(part).__name__} gives 'capturable', and its step cannot be recorded in a CUDA graph: {error}"
        ) from error
    for mine, before in zip((k_pages, v_pages), pools, strict=True):
        mine.copy_(before)
    for out in outs:
        out.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize(device)
    return moved(outs, "cpu")
