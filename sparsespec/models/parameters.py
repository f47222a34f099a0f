"""A model's tensors as the forward pass wants them: q, k, v fused, gate and up fused.

`assemble` builds them from named tensors one at a time, straight into the fused storage, so that
loading never holds two copies of the model. Where the names come from (a folder, a generator) is
its caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.errors import unknown
from sparsespec.models import layout
from sparsespec.models.config import ModelConfig

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def torch_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the torch dtype of a name such as `float32`.

    Raises:
        UnknownName: for any other; the message lists them.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise unknown("dtype", name, DTYPES)
    return DTYPES[name]


@dataclass(frozen=True, slots=True)
class LayerParameters:
    """The tensors of one layer; a bias or norm that the family lacks is None.

    Shapes: `qkv [(Hq + 2 Hkv) D, hidden]` (rows of q, then k, then v), `o [hidden, Hq D]`,
    `gate_up [2 I, hidden]` (rows of gate, then up), `down [hidden, I]`, `q_norm [D]`, `k_norm [D]`,
    norms `[hidden]`, biases as long as their product's output.
    """

    attn_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Tensor
    o_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


@dataclass(frozen=True, slots=True)
class Parameters:
    """All tensors of a model; `head` is `embed` itself where they are tied."""

    embed: Tensor  # [V, hidden]
    layers: tuple[LayerParameters, ...]
    norm: Tensor  # [hidden]
    head: Tensor  # [V, hidden]

    def tensors(self) -> Iterator[Tensor]:
        """Yield each tensor once."""
        yield self.embed
        for layer in self.layers:
            yield from (t for f in fields(layer) if (t := getattr(layer, f.name)) is not None)
        yield self.norm
        if self.head is not self.embed:
            yield self.head

    def map(self, change: Callable[[Tensor], Tensor]) -> Parameters:
        """Return new parameters with `change` applied once to every tensor."""

        def each(layer: LayerParameters) -> LayerParameters:
            old: dict[str, Tensor | None] = {f.name: getattr(layer, f.name) for f in fields(layer)}
            new: dict[str, Any] = {k: None if t is None else change(t) for k, t in old.items()}
            return LayerParameters(**new)

        layers = tuple(each(layer) for layer in self.layers)
        embed = change(self.embed)
        head = embed if self.head is self.embed else change(self.head)
        return Parameters(embed, layers, change(self.norm), head)


def assemble(
    config: ModelConfig,
    read: Callable[[str], Tensor],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Parameters:
    """Build a model's parameters; `read(name)` returns the tensor of a checkpoint's name.

    Each name of `layout.expected_shapes` is read once. The result shares no memory with what `read`
    returned.
    """

    def fused(names: list[str]) -> Tensor:
        shapes = [expected[name] for name in names]
        rows, at = sum(shape[0] for shape in shapes), 0
        out = torch.empty((rows, *shapes[0][1:]), dtype=dtype, device=device)
        for name, shape in zip(names, shapes, strict=True):
            out[at : at + shape[0]] = read(name)
            at += shape[0]
        return out

    def maybe(names: list[str]) -> Tensor | None:
        return fused(names) if names[0] in expected else None

    def layer(index: int) -> LayerParameters:
        p = layout.layer_prefix(index)
        qkv = [f"{p}self_attn.{x}_proj." for x in "qkv"]
        gate_up = [f"{p}mlp.{x}_proj." for x in ("gate", "up")]
        return LayerParameters(
            attn_norm=fused([p + "input_layernorm.weight"]),
            qkv=fused([x + "weight" for x in qkv]),
            qkv_bias=maybe([x + "bias" for x in qkv]),
            q_norm=maybe([p + "self_attn.q_norm.weight"]),
            k_norm=maybe([p + "self_attn.k_norm.weight"]),
            o=fused([p + "self_attn.o_proj.weight"]),
            o_bias=maybe([p + "self_attn.o_proj.bias"]),
            mlp_norm=fused([p + "post_attention_layernorm.weight"]),
            gate_up=fused([x + "weight" for x in gate_up]),
            gate_up_bias=maybe([x + "bias" for x in gate_up]),
            down=fused([p + "mlp.down_proj.weight"]),
            down_bias=maybe([p + "mlp.down_proj.bias"]),
        )

    expected = layout.expected_shapes(config)
    embed = fused([layout.EMBED])
    layers = tuple(layer(i) for i in range(config.n_layers))
    head = embed if config.tied else fused([layout.HEAD])
    return Parameters(embed, layers, fused([layout.NORM]), head)
