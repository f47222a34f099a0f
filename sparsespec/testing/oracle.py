"""The oracle: dense decoding in one function, without cache, pages, batches or rounds.

Every token is computed from scratch from the whole text before it. It imports the model and the noise and nothing
else of the engine, so it can accuse all the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsespec.core.noise import gumbel
from sparsespec.core.params import SamplingParams
from sparsespec.models.transformer import Transformer


@torch.inference_mode()
def dense_tokens(
    model: Transformer,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    seed: int,
    sample_index: int = 0,
    eos_ids: Sequence[int] = (),
    noise: bool = True,
) -> list[int]:
    """Return the tokens that dense decoding emits, the stopping one included.

    Args:
        model: The model.
        prompt: Prompt tokens, at least one.
        params: Sampling parameters; `n` and stop strings are the caller's business.
        seed: The seed of the request.
        sample: Index among the samples of the prompt.
        eos_ids: Tokens that end the output unless `ignore_eos`.
        noise: False takes the argmax of the processed logits whatever the temperature.
    """
    text = list(prompt)
    stops = {*params.stop_token_ids, *(() if params.ignore_eos else eos_ids)}
    while len(text) < len(prompt) + params.max_tokens:
        logits = next_logits(model, text)
        text.append(_draw(logits, params, seed, sample_index, len(text), noise))
        if text[-1] in stops:
            break
    return text[len(prompt) :]


def next_logits(model: Transformer, text: Sequence[int]) -> Tensor:
    """Return the logits [V] of the token behind `text`."""
    hidden = model.forward(torch.tensor(text), lambda *args: _attend(model, *args))
    return model.logits(hidden[-1:])[0]


def keys_and_values(model: Transformer, text: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the keys (normed and rotated) and values of all layers, [L, len(text), Hkv, D]."""
    keys, values = [], []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys.append(_rotate(model, _norm(k, model.k_norm(layer), model.rms_eps)))
        values.append(v)
        return _attend(model, layer, q, k, v)

    model.forward(torch.tensor(text), attend)
    return torch.stack(keys), torch.stack(values)


def _attend(model: Transformer, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q = _rotate(model, _norm(q, model.q_norm(layer), model.rms_eps))
    k = _rotate(model, _norm(k, model.k_norm(layer), model.rms_eps))
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("nhd,mhd->hnm", q, k) * q.shape[-1] ** -0.5
    future = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    return torch.einsum("hnm,mhd->nhd", scores.masked_fill(future, -torch.inf).softmax(-1), v)


def _norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    if weight is None:
        return x
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def _rotate(model: Transformer, x: Tensor) -> Tensor:
    cos, sin = (table[: len(x), None] for table in model.rope)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def _draw(logits: Tensor, p: SamplingParams, seed: int, sample_index: int, position: int, noise: bool) -> int:
    """Return the token of one position: processors in their order, then noise, then argmax."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    x = logits.to(wide)
    if p.temperature == 0:
        return int(x.argmax())
    x = x / p.temperature
    if 0 < p.top_k < len(x):
        x = x.masked_fill(x < x.topk(p.top_k).values[-1], -torch.inf)
    if p.top_p < 1:
        order = x.argsort(descending=True, stable=True)
        mass = x[order].softmax(0).to(torch.float64).cumsum(0)
        crossing = int((mass < p.top_p).sum()) + 1
        x = x.index_fill(0, order[crossing:], -torch.inf)
    if p.min_p > 0:
        x = x.masked_fill(x.softmax(0) < p.min_p * x.softmax(0).max(), -torch.inf)
    if not noise:
        return int(x.argmax())

    def column(value: int) -> Tensor:
        return torch.tensor([value - (1 << 64) if value >> 63 else value])

    drawn = gumbel(column(seed), column(sample_index), column(position), column(0), len(x), wide)
    return int((x + drawn[0]).argmax())
