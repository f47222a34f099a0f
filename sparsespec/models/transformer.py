"""The decoder: a plain function of tokens, parameters and somebody else's attention.

It holds tensors and no state: no cache, no positions, no masks. For each layer it hands q, k and
v, neither normalised nor rotated, to `attend`, which owns positions and KV; norm and RoPE are fused
into the cache write there. So one forward serves prefill, drafts and verification alike.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsespec.core.errors import BadOption
from sparsespec.kernels.implementations import FAST_TYPES, fastest
from sparsespec.kernels.linear.api import linear
from sparsespec.kernels.rms_norm.api import add_rms_norm, rms_norm
from sparsespec.kernels.silu_mul.api import silu_mul
from sparsespec.models.config import ModelConfig
from sparsespec.models.parameters import Parameters, torch_dtype
from sparsespec.models.rope import rope_table

HOPPER = (9, 0)
"""The compute capability of the GPUs on which products of all heights were seen to give the same bits."""
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""`attend(layer, q [N, Hq, D], k [N, Hkv, D], v [N, Hkv, D]) -> [N, Hq, D]`, in layer order."""


class Transformer:
    """A Llama, Qwen2 or Qwen3 decoder with frozen weights.

    Attributes:
        config: the shape.
        parameters: the tensors, never written to.
        dtype: of every tensor.
        device: of every tensor.
        rope: `(cos, sin)`, each `[max_model_len, D/2]`, the model's dtype; dimension i turns with
            i + D/2.
        linear_impl: the `linear` in use: `cpu` for float32 on a CPU, else `reference`; `triton`
            in a twin that is `exact`.
        row_impl: the `rms_norm` and `silu_mul` in use: `triton` on a GPU for float32, bfloat16
            and float16, and in a twin that is `exact`, else `reference`.
    """

    def __init__(self, config: ModelConfig, parameters: Parameters) -> None:
        self.config = config
        self.parameters = parameters
        self.dtype = parameters.embed.dtype
        self.device = parameters.embed.device
        cos, sin = rope_table(config.rope, config.head_dim, config.max_model_len, self.dtype)
        self.rope = (cos.to(self.device), sin.to(self.device))
        fast = self.device.type == "cpu" and self.dtype == torch.float32
        self.linear_impl = "cpu" if fast else "reference"
        self.row_impl = fastest(parameters.embed)

    def q_norm(self, layer: int) -> Tensor | None:
        """Return the weight `[D]` of the norm of q, None where the family has none."""
        return self.parameters.layers[layer].q_norm

    def k_norm(self, layer: int) -> Tensor | None:
        """Return the weight `[D]` of the norm of k, None where the family has none."""
        return self.parameters.layers[layer].k_norm

    @property
    def rms_eps(self) -> float:
        """Epsilon of all norms."""
        return self.config.rms_eps

    @torch.no_grad()
    def forward(self, tokens: Tensor, attend: Attend) -> Tensor:
        """Run all layers.

        Args:
            tokens: `[N]` int64, of any mix of rows: only `attend` knows which belong together.
            attend: called once per layer; q, k and v are views of one buffer that is not reused.

        Returns:
            `[N, hidden]`, the final norm applied.
        """
        config, impl, row_impl = self.config, self.linear_impl, self.row_impl
        eps, n, d = config.rms_eps, tokens.shape[0], config.head_dim
        first_k = config.n_heads
        first_v = first_k + config.n_kv_heads
        heads = first_v + config.n_kv_heads
        layers = self.parameters.layers
        # a layer ends with the norm of the next one, so that every sum and its norm are one op
        norms = (*(layer.attn_norm for layer in layers), self.parameters.norm)
        x = F.embedding(tokens, self.parameters.embed)
        h = rms_norm(x, norms[0], eps, impl=row_impl)
        for index, layer in enumerate(layers):
            qkv = linear(h, layer.qkv, layer.qkv_bias, impl=impl).view(n, heads, d)
            out = attend(index, qkv[:, :first_k], qkv[:, first_k:first_v], qkv[:, first_v:])
            h = linear(out.reshape(n, first_k * d), layer.o, layer.o_bias, impl=impl)
            h, x = add_rms_norm(h, x, layer.mlp_norm, eps, impl=row_impl)
            h = silu_mul(linear(h, layer.gate_up, layer.gate_up_bias, impl=impl), impl=row_impl)
            h = linear(h, layer.down, layer.down_bias, impl=impl)
            h, x = add_rms_norm(h, x, norms[index + 1], eps, impl=row_impl)
        return h

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return `[T, V]`, the model's dtype, for `hidden [T, hidden]` as `forward` returns it."""
        return linear(hidden, self.parameters.head, impl=self.linear_impl)

    def to(self, dtype: str | torch.dtype, device: torch.device | str | None = None) -> Transformer:
        """Return a copy in another dtype, and on another device if one is given."""
        kind, where = torch_dtype(dtype), self.device if device is None else device
        return Transformer(self.config, self.parameters.map(lambda t: t.to(where, kind, copy=True)))

    def exact(self) -> Transformer:
        """Return a twin with the same weights whose rows have the same bits whoever goes with them.

        Raises:
            BadOption: where the kernels do not run, or were not seen to give the same bits.
            MissingPackage: if Triton is not installed.
        """
        if self.dtype not in FAST_TYPES:
            raise BadOption(f"exact=True takes a model in float32, bfloat16 or float16, got {self.dtype}")
        if self.device.type == "cuda" and torch.cuda.get_device_capability(self.device) != HOPPER:
            name = torch.cuda.get_device_name(self.device)
            raise BadOption(f"exact=True is proved on GPUs of compute capability 9.0 only, such as an H100, got {name}")
        twin = copy(self)
        twin.linear_impl = twin.row_impl = "triton"
        try:  # what cannot run is to say so now, and not in the first step
            twin.logits(self.parameters.embed[:1])
        except BadOption as error:
            raise BadOption(f"exact=True takes Triton's kernels, and {error}") from error
        return twin

    @property
    def n_params(self) -> int:
        """Number of weights; a tied head counts once."""
        return sum(t.numel() for t in self.parameters.tensors())

    @property
    def n_bytes(self) -> int:
        """Bytes of weights and rope tables."""
        tensors = (*self.parameters.tensors(), *self.rope)
        return sum(t.numel() * t.element_size() for t in tensors)
